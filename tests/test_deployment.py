"""What is deployed: images, Compose file and manifests are well-formed, and agree with the settings."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.clients import installed
from whisperd.config import KEYS, load

ROOT = Path(__file__).parents[1]
DOCKER, KUBERNETES = ROOT / "packaging" / "docker", ROOT / "packaging" / "kubernetes"
IMAGES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.cuda"]
KUSTOMIZATION = KUBERNETES / "kustomization.yaml"
COMPOSE = DOCKER / "compose.yaml"
BUILT_IN = ["api.yaml", "worker.yaml", "settings.yaml"]  # of kinds that every Kubernetes knows
GUIDE = ROOT / "docs" / "hosts.md"


def judged(tool, *arguments):
    """What one of the tools of clients/python/deployment.txt says."""
    command = [installed.python("deployment").with_name(tool), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, env=installed.environment(), timeout=100)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def resources(file=None):
    """The manifests, of one file or of all of them."""
    files = [KUBERNETES / file] if file else sorted({*KUBERNETES.glob("*.yaml")} - {KUSTOMIZATION})
    return [found for path in files for found in yaml.safe_load_all(path.read_text())]


def the(kind, name):
    (found,) = [r for r in resources() if (r["kind"], r.get("metadata", {}).get("name")) == (kind, name)]
    return found


def owners():
    """The specs of what makes pods, by name."""
    kinds = ("Deployment", "StatefulSet")
    return {r["metadata"]["name"]: r["spec"] for r in resources() if r["kind"] in kinds}


def pods():
    """The spec of each pod, by the name of what makes it."""
    return {name: spec["template"]["spec"] for name, spec in owners().items()}


def compose():
    return yaml.safe_load(COMPOSE.read_text())


def variables():
    """Every variable of ours that an image, a container or a pod is given, and its value as written."""
    found = re.findall(r"(WHISPERD_\w+__\w+)=(\S+)", "".join(image.read_text() for image in IMAGES))
    for service in compose()["services"].values():
        found += list(service.get("environment", {}).items())
    found += list(the("ConfigMap", "whisperd")["data"].items())
    for pod in pods().values():
        found += [(given["name"], given.get("value", "a secret")) for given in pod["containers"][0]["env"]]
    return [(name, str(value)) for name, value in found if name.startswith("WHISPERD_") and "__" in name]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_linter_of_images_has_nothing_to_say(image):
    assert judged("hadolint", image) == ""


def test_the_compose_file_is_one_by_its_specification():
    judged("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.parametrize("file", BUILT_IN)
def test_the_manifests_are_what_kubernetes_takes_and_nothing_else(file):
    told = judged("kubernetes-validate", "--strict", KUBERNETES / file)

    assert told.count(" passed ") == len(resources(file))


def test_what_is_set_in_containers_are_settings_with_values_that_they_can_have():
    known = {key.variable for key in KEYS.values()}

    assert {name for name, _ in variables()} <= known
    for name, value in variables():
        load(None, {name: value.partition(":?")[0]})


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_brings_the_locked_libraries_and_is_not_roots(image):
    text = image.read_text()

    assert text.count("--require-hashes") == text.count("-r requirements.lock")
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "HEALTHCHECK" in text
    ignored = Path(f"{image}.dockerignore").read_text().split()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all(f"!{name}" in ignored and (ROOT / name).exists() for name in copied.split())


def test_the_images_have_what_a_shared_queue_needs_in_the_versions_that_were_tested():
    def locked(file):
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", file.read_text(), re.MULTILINE))

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = needed["dependencies"] + needed["optional-dependencies"]["redis"]
    in_images, tested = locked(DOCKER / "requirements.lock"), locked(ROOT / "requirements-dev.lock")

    assert {re.match(r"[a-z0-9.-]+", name)[0].replace(".", "-") for name in wanted} <= set(in_images)
    assert in_images.items() <= tested.items() | locked(ROOT / "requirements.lock").items()


def test_every_pod_says_what_it_needs_and_may_do_next_to_nothing():
    for pod in pods().values():
        (container,) = pod["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe", "lifecycle"} <= set(container)
        assert container["resources"]["limits"]["memory"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001


def test_what_a_pod_mounts_is_there_and_its_claims_are_made():
    for name, pod in pods().items():
        claims = owners()[name].get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in pod["volumes"]} | {
            claim["metadata"]["name"] for claim in claims
        }

        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == there


def test_a_worker_has_the_time_that_its_drain_takes():
    pod = pods()["whisperd-worker"]
    *command, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]

    assert command == ["whisperd", "drain", "--timeout"]
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + load(None, {}).shutdown.grace_seconds + 60


def test_budgets_and_services_are_for_pods_that_there_are():
    labels = [spec["template"]["metadata"]["labels"] for spec in owners().values()]
    for found in resources():
        selector = found.get("spec", {}).get("selector", {})
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= have.items() for have in labels), found["metadata"]


def test_the_number_of_pods_goes_by_what_waits_and_runs_in_redis():
    scaled, redis = the("ScaledObject", "whisperd-worker")["spec"], load(None, {}).redis
    names = {trigger["metadata"]["listName"]: trigger["name"] for trigger in scaled["triggers"]}
    (container,) = pods()[scaled["scaleTargetRef"]["name"]]["containers"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    queue = f"{redis.prefix}:{redis.queue}"

    assert scaled["scaleTargetRef"]["kind"] == "StatefulSet"
    assert set(names) == {f"{queue}:prioritized", f"{queue}:wait", f"{queue}:active"}
    modifiers = scaled["advanced"]["scalingModifiers"]
    assert set(modifiers["formula"].split(" + ")) == set(names.values())
    assert modifiers["target"] == given["WHISPERD_WORKERS__COUNT"]
    assert {trigger["authenticationRef"]["name"] for trigger in scaled["triggers"]} == {
        the("TriggerAuthentication", "whisperd-redis")["metadata"]["name"]
    }


def test_what_is_taken_out_of_the_secret_is_what_the_guide_puts_into_it():
    made = set(re.findall(r"--from-(?:literal|file)=([\w.-]+?)(?:=|\s|$)", GUIDE.read_text()))
    text = "".join(file.read_text() for file in KUBERNETES.glob("*.yaml"))
    taken = set(re.findall(r"name: whisperd, key: ([\w.-]+)", text)) | set(
        re.findall(r"\[?\{key: ([\w.-]+), path", text)
    )

    assert taken == made


def test_the_kustomization_lists_every_manifest_there_is():
    listed = set(re.findall(r"- (\w+\.yaml)", KUSTOMIZATION.read_text()))

    assert listed == {file.name for file in {*KUBERNETES.glob("*.yaml")} - {KUSTOMIZATION}}


def test_prometheus_of_the_compose_file_finds_all_hosts_and_the_rules(tmp_path):
    text = (DOCKER / "prometheus.yml").read_text()
    (tmp_path / "key").write_text("whd_")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/metrics-key", str(tmp_path / "key")))
    (tmp_path / "whisperd.rules.yml").write_text(
        (ROOT / "packaging/prometheus/whisperd.rules.yml").read_text()
    )

    found = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True)

    assert found.returncode == 0, found.stdout + found.stderr
    (job,) = yaml.safe_load(text)["scrape_configs"]
    ours = {name for name, service in compose()["services"].items() if "whisperd" in service.get("image", "")}
    assert set(job["dns_sd_configs"][0]["names"]) == ours
    assert job["job_name"] == "whisperd"


def test_the_files_that_containers_mount_are_there():
    made_by_the_user = {"secrets/keys.json", "secrets/metrics-key"}
    services = compose()["services"].values()
    mounted = [
        v.split(":")[0] for service in services for v in service.get("volumes", []) if v.startswith(".")
    ]
    secret = {secret["file"] for secret in compose()["secrets"].values()}

    assert [name for name in mounted if not (DOCKER / name).exists()] == []
    assert secret == made_by_the_user
    assert made_by_the_user <= set(re.findall(r"secrets/[\w.-]+", GUIDE.read_text()))
    board = json.loads((ROOT / "packaging/grafana/whisperd.json").read_text())
    assert board["templating"]["list"][0]["query"] == "prometheus"  # of whatever name

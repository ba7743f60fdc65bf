"""What containers run, run outside of one: the commands of the images, the Compose file and the manifests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import s3_server
from tests.e2e.daemon import Daemon
from tests.e2e.test_first_slice import JFK, words

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "packaging" / "docker" / "compose.yaml").read_text())
GUIDE = (ROOT / "docs" / "hosts.md").read_text()


@pytest.fixture
def bin_folder(tmp_path):
    """A folder that has the `whisperd` and the `python` of an image."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "whisperd").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m whisperd "$@"\n')
    (folder / "whisperd").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    return folder


@pytest.fixture
def shell(bin_folder, tmp_path):
    """Runs a command as in a container: by its words, or a line by a shell."""

    def run(command, **environ):
        words = ["sh", "-ec", command] if isinstance(command, str) else command
        env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", **environ}
        return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    return run


@pytest.fixture
def keys(shell, tmp_path):
    """The keys that the guide has made: the one for people, and that of Prometheus."""
    lines = re.search(r"## Compose.+?\n\n((?: {4}.+\n)+)", GUIDE)[1].splitlines()
    made = [shell(line) for line in lines if "secrets" in line or ".env" in line]
    assert [done.stderr for done in made if done.returncode] == []
    return made[1].stdout.strip(), (tmp_path / "secrets" / "metrics-key").read_text().strip()


@pytest.fixture
def container(keys, redis, weights, tmp_path):
    """Makes a service of the Compose file; `port`: of S3."""
    made = []

    def make(service, port):
        there = {"redis://redis:6379/0": redis.url, "http://s3:9000": f"http://127.0.0.1:{port}"}
        given = COMPOSE["services"][service]["environment"]
        environ = {name: there.get(value, value) for name, value in given.items()}
        environ |= {
            "WHISPERD_S3__ACCESS_KEY_ID": s3_server.KEY,
            "WHISPERD_S3__SECRET_ACCESS_KEY": s3_server.SECRET,
        }
        host = Daemon(tmp_path / service, weights, environ=environ, WORKERS__COUNT=1, HTTP__HOST="0.0.0.0")
        host.options = COMPOSE["services"][service]["command"][1:]
        host.data.mkdir(parents=True)
        (host.data / "keys.json").write_text((tmp_path / "secrets" / "keys.json").read_text())
        host.key = keys[0]
        made.append(host)
        return host

    yield make
    for host in made:
        host.end()


def health_check(image="Dockerfile"):
    text = (ROOT / "packaging" / "docker" / image).read_text()
    return json.loads(re.search(r"HEALTHCHECK.*\\\n  CMD (\[.*\])", text)[1])


def pre_stop(file):
    resources = yaml.safe_load_all((ROOT / "packaging" / "kubernetes" / file).read_text())
    (pod,) = [found["spec"]["template"]["spec"] for found in resources if "template" in found["spec"]]
    return pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]


def test_the_services_of_the_compose_file_work_together(container, keys, shell, jfk):
    with s3_server.serving(bucket="whisperd") as port:
        api, worker = container("api", port).start(), container("worker", port).start()

        task_id = api.queued(jfk)
        assert words(api.finished(task_id) and api.result(task_id)) == words(JFK)

        for host in (api, worker):
            check = [part.replace("127.0.0.1:8002", host.url.rpartition("/")[2]) for part in health_check()]
            assert shell(check).returncode == 0
            shown = host.http.get("/metrics", headers={"Authorization": f"Bearer {keys[1]}"})
            assert "whisperd_ready 1.0" in shown.text


def test_a_pod_that_is_to_go_is_drained_and_alive_all_the_while(container, keys, shell):
    with s3_server.serving(bucket="whisperd") as port:
        for service in ("api", "worker"):
            host = container(service, port).start()
            command = [part.replace("sleep 10", "true") for part in pre_stop(f"{service}.yaml")]

            done = shell(command, WHISPERD_URL=host.url, WHISPERD_KEY=keys[0])

            assert done.stdout == "drained\n", done.stderr
            assert host.http.get("/health/ready").status_code == 503
            assert host.http.get("/health/live").status_code == 200


def test_the_health_checks_of_both_images_are_one_and_fail_where_nobody_answers(shell):
    assert health_check() == health_check("Dockerfile.cuda")
    nobody = [part.replace("8002", str(s3_server.a_free_port())) for part in health_check()]

    assert shell(nobody).returncode != 0

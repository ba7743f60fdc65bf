"""What Prometheus and Grafana are given: the metrics, the alert rules, the dashboard and the manual agree."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from whisperd import metrics
from whisperd.backup import Backup
from whisperd.counts import Counts
from whisperd.gpu import GpuMemory
from whisperd.job import Depth, Share
from whisperd.task import Depths, State, Stats
from whisperd.worker_pool import WorkerInfo

ROOT = Path(__file__).parents[1]
RULES = ROOT / "packaging" / "prometheus" / "whisperd.rules.yml"
BOARD = ROOT / "packaging" / "grafana" / "whisperd.json"
MANUAL = ROOT / "docs" / "metrics.md"
RUNBOOK = ROOT / "docs" / "operations.md"
NAME = re.compile(r"\bwhisperd_\w+")


def promtool(*arguments, **options):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def shown():
    """/metrics of a daemon that has everything there can be."""
    counts = Counts()
    counts.answered("GET", "/stats", 200, 0.01)
    counts.found([("pii", "high", 1)])
    worker = WorkerInfo(
        id=1,
        pid=1,
        state="idle",
        model="tiny.en",
        task_id=None,
        chunk=None,
        rss_bytes=1,
        tasks_done=0,
        chunks_done=0,
        real_time_factor=None,
        restarts=0,
        restarts_by_cause={},
        last_restart=None,
        silent_seconds=None,
        canary_seconds=None,
    )
    reading = metrics.Reading(
        now=100.0,
        checks={"database": 0},
        is_ready=True,
        database_up=True,
        stats=Stats(
            by_state=dict.fromkeys(State, 0), delayed=0, oldest_queued_at=None, waits=(), finished=()
        ),
        depths=Depths(lines=(("waiting", 0, 1),), tenants=(("acme", 1),)),
        webhooks={"waiting": 0, "dead": 0},
        workers=[worker],
        deaths={},
        paused=False,
        draining=False,
        share=Share(None, {"transcription": Depth(1, 0, 1, True), "gpu": Depth(2, 0, 0, False)}, 1, 0, 0),
        last_backup=Backup(path=Path("b"), taken_at=90.0, bytes=1),
        backed_up_until=90.0,
        backups={"ok": 1},
        condition="clean",
        recovered=False,
        free_bytes=1,
        spool_bytes=1,
        gpus=[GpuMemory(0, 1, 2, 1)],
        lag_seconds=0.0,
    )
    return metrics.text(reading, counts).decode()


def families(text):
    return list(text_string_to_metric_families(text))


def series(text):
    """The names that a query may use."""
    return {sample.name for family in families(text) for sample in family.samples}


def row(family):
    """As the manual has it."""
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    named = ", ".join(f"`{label}`" for label in sorted(labels))
    return f"| `{name}` | {family.type} | {named} | {family.documentation} |".replace("|  |", "| |")


def test_every_metric_is_in_the_manual_as_it_is_and_nothing_else(shown):
    rows = [line for line in MANUAL.read_text().splitlines() if line.startswith("| `whisperd_")]

    assert rows == [row(family) for family in families(shown)]


@pytest.mark.parametrize("file", [RULES, BOARD], ids=["rules", "dashboard"])
def test_rules_and_dashboard_ask_for_nothing_that_there_is_not(file, shown):
    asked = set(NAME.findall(file.read_text()))

    assert asked - series(shown) == set()
    assert len(asked) > 8


def test_every_metric_is_on_the_dashboard_or_says_what_the_dashboard_says_otherwise(shown):
    on_it = {re.sub(r"_(bucket|total)$", "", name) for name in NAME.findall(BOARD.read_text())}
    process = {family.name for family in families(shown) if family.name.startswith("whisperd_process_")}

    missing = {family.name for family in families(shown)} - on_it - process
    assert missing == {"whisperd_database_up", "whisperd_draining", "whisperd_paused", "whisperd_recovered"}


def test_the_metrics_are_as_prometheus_wants_them(shown):
    found = promtool("check", "metrics", input=shown)

    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_alert_rules_can_be_read():
    found = promtool("check", "rules", str(RULES))

    assert found.returncode == 0, found.stdout + found.stderr


def test_each_alert_comes_when_it_should_and_only_then():
    found = promtool("test", "rules", str(RULES.with_suffix(".test.yml")))

    assert found.returncode == 0, found.stdout


def test_each_alert_has_a_test_that_sees_it_come():
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    tested = RULES.with_suffix(".test.yml").read_text()

    seen = {name for name, after in re.findall(r"alertname: (\w+)\n +(exp_alerts)", tested) if after}
    assert seen == alerts


def test_each_alert_leads_to_a_paragraph_that_says_what_to_do():
    led_to = dict(re.findall(r"- alert: (\w+)\n(?: {8}.*\n)+? {10}runbook: (\S+)\n", RULES.read_text()))
    guide = RUNBOOK.read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n### |\Z)", guide, re.DOTALL | re.MULTILINE))

    assert led_to == {name: f"docs/operations.md#{name.lower()}" for name in paragraphs}
    assert set(led_to) == set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert [name for name, text in paragraphs.items() if len(text.split()) < 25] == []


def test_the_dashboard_is_whole():
    panels = json.loads(BOARD.read_text())["panels"]
    drawn = [panel for panel in panels if panel["type"] != "row"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in drawn)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_each_query_of_the_dashboard_is_one(tmp_path):
    """Read as the expressions of rules, which promtool can check."""
    panels = json.loads(BOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    plain = [query.replace("$__rate_interval", "5m") for query in asked]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    found = promtool("check", "rules", str(tmp_path / "rules.yml"))

    assert found.returncode == 0, found.stdout + found.stderr
    assert len(asked) > 30

"""docs/clients.md: each line is a test, each test has its line, and the versions are those tested."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.installed import NODE, PYTHON

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
LINES = sorted(set(re.findall(r"`(tests/\S+\.py::\w+)`", PAGE)))


@pytest.fixture(scope="module")
def collected():
    """The tests that pytest finds beside this page's: what is skipped or misnamed is none of them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "--ignore", __file__]
    done = subprocess.run([*command, "tests/clients"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_a_test(collected, line):
    assert line in collected


def test_every_test_of_a_client_has_a_line(collected):
    assert collected - set(LINES) == set()


def test_every_row_of_the_table_names_its_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")][2:]

    assert rows
    assert [row for row in rows if not re.search(r"\| `tests/clients/\S+\.py::\w+` \|$", row)] == []


def test_the_versions_are_those_that_are_tested():
    pinned = json.loads((NODE / "package.json").read_text())["dependencies"]
    node = [version.removeprefix("npm:openai@") for version in pinned.values()]
    lists = "".join(path.read_text() for path in PYTHON.glob("*.txt"))

    assert set(re.findall(r"^(?:openai|litellm)==(\S+)", lists, re.MULTILINE)) <= set(versions())
    assert set(node) <= set(versions())


def test_the_versions_come_from_no_registry_in_particular():
    assert NODE.joinpath("package-lock.json").read_text().count('"resolved"') == 0


def versions():
    return re.findall(r"\d+\.\d+\.\d+", PAGE)

"""docs/clients.md: what it promises is tested, by the versions that it names."""

import json
import re
from pathlib import Path

import pytest

from tests.clients.installed import NODE, PYTHON

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/\S+\.py(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("name", TESTS)
def test_every_line_is_a_test(name):
    path, _, function = name.partition("::")

    assert f"def {function or 'test_'}" in (ROOT / path).read_text()


def test_the_versions_are_those_that_are_tested():
    pinned = json.loads((NODE / "package.json").read_text())["dependencies"]
    node = [version.removeprefix("npm:openai@") for version in pinned.values()]
    lists = "".join(path.read_text() for path in PYTHON.glob("*.txt"))

    assert set(re.findall(r"^(?:openai|litellm)==(\S+)", lists, re.MULTILINE)) <= set(versions())
    assert set(node) <= set(versions())


def versions():
    return re.findall(r"\d+\.\d+\.\d+", PAGE)

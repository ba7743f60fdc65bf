"""What a user can set, call or type stands in the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from msgspec.structs import fields

from docs import generate
from tests.rules import RULES, ruled
from whisperd import client
from whisperd.cli import app
from whisperd.commands.man_page import man_page
from whisperd.config import KEYS
from whisperd.engine.audio import FORMATS
from whisperd.http import CALLS
from whisperd.routes.call import Socket
from whisperd.routes.submission import Submission
from whisperd.routes.timeline import MomentView
from whisperd.routes.view import SegmentView, StatsView, TaskView
from whisperd.rulebooks import SCHEMA
from whisperd.worker_pool import WorkerInfo

README = (Path(__file__).parents[1] / "README.md").read_text()
DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["settings.md", "api.md", "commands.md"])
def test_pages_that_are_made_from_declarations_are_current(name):
    assert (DOCS / name).read_text() == generate.pages()[name], "run `make docs`"


def test_the_schema_of_rule_packs_is_current():
    assert SCHEMA.read_text() == generate.schema(), "run `make docs`"


def test_every_page_is_on_the_site():
    nav = (DOCS.parent / "mkdocs.yml").read_text()

    assert [page.name for page in DOCS.glob("*.md") if f" {page.name}\n" not in nav] == []


def test_the_site_can_be_built_and_no_link_of_it_leads_nowhere(tmp_path):
    """With `strict` in mkdocs.yml each warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=DOCS.parent, env=quiet, capture_output=True, text=True, timeout=300)

    assert built.returncode == 0, built.stderr
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == {
        page.parent.name for page in (tmp_path / "site").glob("*/index.html")
    }


def test_every_setting_is_explained():
    assert [key.name for key in KEYS.values() if not (key.about or key.section == "plans")] == []


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.path)
def test_every_call_is_in_the_table(call):
    path = re.sub(r"\{\w+_id\}", "{id}", call.path).replace(":path}", "}")
    if isinstance(call, Socket):
        assert f"`WS {path}`" in README
    else:
        assert f"`{call.method} {path}" in README
        assert call.handler.__doc__


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.path)
def test_every_call_needs_what_the_table_says(call):
    """The table "Who may call" is the rule: a call that is not in it has none, and may not be there."""
    method = "WS" if isinstance(call, Socket) else call.method

    assert RULES[method, ruled(call.path)] == call.right


@pytest.mark.parametrize("option", [f.name for f in fields(Submission) if f.name != "audio_path"])
def test_every_submit_option_is_named(option):
    assert f"`{option}`" in README


def test_the_client_knows_every_submit_option():
    options = {field.name for field in fields(Submission)} - {"audio_path", "audio_url"}

    assert options - client.SubmitOptions.__annotations__.keys() == set()


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        (TaskView, client.Task),
        (SegmentView, client.Segment),
        (StatsView, client.Stats),
        (WorkerInfo, client.Worker),
        (MomentView, client.Moment),
    ],
)
def test_the_client_knows_every_field_of_what_it_is_shown(shown, known):
    names = {field.name for field in fields(shown)} - {field.name for field in fields(known)}

    assert names <= {"task_id"}  # of a segment: whoever listens knows what he listens to


@pytest.mark.parametrize("demuxer", FORMATS.split(","))
def test_every_kind_of_file_that_is_taken_is_named(demuxer):
    line = README[README.index("\nTaken are ") : README.index("Playlists")]
    spelled = {"mpegts": "MPEG-TS", "ac3": "AC-3", "wv": "WavPack"}.get(demuxer, demuxer)

    assert re.search(rf"\b{spelled}\b", line, re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))
def test_every_command_is_named(name):
    line = next(line for line in README.splitlines() if line.startswith("`whisperd serve |"))
    assert name in line.replace("`", "").split(";")[0].replace("whisperd ", "").split(" | ")


def test_the_man_page_is_current():
    page = (Path(__file__).parents[1] / "packaging/man/whisperd.1").read_text()

    assert page == man_page(typer.main.get_command(app)), "make man"

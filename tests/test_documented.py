"""What a user can set, call or type stands in the README."""

import re
from pathlib import Path

import pytest
import typer.main
from msgspec.structs import fields
from starlette.routing import Route, WebSocketRoute

from whisperd.cli import app
from whisperd.config import KEYS
from whisperd.engine.audio import FORMATS
from whisperd.http import ROUTES
from whisperd.routes.submission import Submission

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_in_the_table(key):
    assert f"| `{key}` |" in README


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_every_route_is_in_the_table(route):
    path = route.path.replace("{task_id}", "{id}")
    if isinstance(route, WebSocketRoute):
        assert f"`WS {path}`" in README
        return
    assert isinstance(route, Route)
    methods = route.methods or {name.upper() for name in vars(route.endpoint) if not name.startswith("_")}
    for method in methods - {"HEAD"}:
        assert f"`{method} {path}" in README


@pytest.mark.parametrize("option", [f.name for f in fields(Submission) if f.name != "audio_path"])
def test_every_submit_option_is_named(option):
    assert f"`{option}`" in README


@pytest.mark.parametrize("demuxer", FORMATS.split(","))
def test_every_kind_of_file_that_is_taken_is_named(demuxer):
    line = README[README.index("\nTaken are ") : README.index("Playlists")]
    spelled = {"mpegts": "MPEG-TS", "ac3": "AC-3", "wv": "WavPack"}.get(demuxer, demuxer)

    assert re.search(rf"\b{spelled}\b", line, re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))
def test_every_command_is_named(name):
    line = next(line for line in README.splitlines() if line.startswith("`whisperd serve |"))
    assert name in line.replace("`", "").split(";")[0].replace("whisperd ", "").split(" | ")

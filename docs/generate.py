"""Writes the pages that are made from declarations: settings, calls, commands. `make docs` runs it.

What it writes is committed, so that it can be read without building the site; a test holds it to be current.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import typer.cli
import typer.main

from whisperd.cli import app
from whisperd.config import KEYS, Config
from whisperd.config.keys import SECTIONS, Key
from whisperd.config.printing import literal
from whisperd.http import CALLS
from whisperd.risk.rules import Pack
from whisperd.routes.call import Call, Socket
from whisperd.rulebooks import SCHEMA

HERE = Path(__file__).parent
MADE = "<!-- Made by `make docs` from the declarations: change those, not this. -->\n"
RIGHTS = {"public": "no key", "oversee": "`read` of all tenants"}


def pages() -> dict[str, str]:
    """Name -> text of each page that is made."""
    return {"settings.md": settings(), "api.md": api(), "commands.md": commands()}


def schema() -> str:
    """The JSON Schema of a rule pack, for editors."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(draft | msgspec.json.schema(Pack), indent=1) + "\n"


def settings() -> str:
    """Each key, by section, with its default and how it is named in the environment."""
    parts = [_SETTINGS]
    for section, kind in SECTIONS.items():
        keys = [key for key in KEYS.values() if key.section == section]
        parts.append(f"## {section}\n\n{' '.join((kind.__doc__ or '').split())}\n\n{_table(keys)}")
    return _page(parts)


def _table(keys: Sequence[Key]) -> str:
    defaults = Config()
    rows = [
        (
            f"`{key.name.rpartition('.')[2]}`",
            f"`{literal(key.of(defaults))}`",
            "yes" if key.reload else "",
            _cell(key.about),
        )
        for key in keys
    ]
    return _rows(("key", "default", "SIGHUP", ""), rows)


def api() -> str:
    """Each call: what it does, who may, and what it answers."""
    parts = [_API]
    for group, calls in _by_group(CALLS).items():
        parts.append(f"## {group}")
        parts += [_call(call) for call in calls]
    return _page(parts)


def _by_group(calls: Iterable[Call | Socket]) -> dict[str, list[Call | Socket]]:
    groups: dict[str, list[Call | Socket]] = {}
    for call in calls:
        module = call.handler.__module__.rpartition(".")[2]
        groups.setdefault(_GROUPS.get(module, module.capitalize()), []).append(call)
    return groups


def _call(call: Call | Socket) -> str:
    method = "WS" if isinstance(call, Socket) else call.method
    about = " ".join((call.handler.__doc__ or "").split())
    lines = [f"### {method} {call.path}", about, f"Needs: {RIGHTS.get(call.right, f'`{call.right}`')}."]
    if isinstance(call, Call):
        lines.append("\n".join(f"- {status}: {_cell(said.about)}" for status, said in call.answers.items()))
    return "\n\n".join(line for line in lines if line)


def commands() -> str:
    """The manual of each command, as `--help` prints it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="whisperd")
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="whisperd", title="Commands")
    return _page([_with_examples(text.strip())])


def _with_examples(text: str) -> str:
    """Lines that begin with a prompt are examples; typer takes them for prose, and escapes them for HTML."""
    return re.sub(
        r"(?:^|(?<=\n\n))(?:\$ [^\n]*\n)+",
        lambda found: f"```console\n{html.unescape(found.group())}```\n",
        text,
    )


def _page(parts: Sequence[str]) -> str:
    return MADE + "\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines([head, ["---"] * len(head), *rows]))


def _lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


_GROUPS = {
    "tasks": "Tasks",
    "bulk": "Tasks",
    "result": "Tasks",
    "sound": "Tasks",
    "timeline": "Tasks",
    "explain": "When a task will run",
    "estimate": "When a task will run",
    "live": "Live",
    "status": "How it is",
    "metrics": "How it is",
    "usage": "How it is",
    "admin": "For operators",
    "keys": "For operators",
    "webhooks": "For operators",
    "dashboard": "The dashboard",
    "session": "The dashboard",
    "v1": "The older API, version 1",
    "asr": "For Bazarr",
    "openai": "OpenAI's audio API",
    "openapi": "About this API",
}

_SETTINGS = """
# Settings

`config.toml` holds every setting with its default; `whisperd config show` prints what is in force, and
where each value comes from; `whisperd config check` says whether a file is right. The file is the one that
`--config` or `$WHISPERD_CONFIG` names, else the first there is of `./config.toml`,
`~/.config/whisperd/config.toml` and `/etc/whisperd/config.toml`.

Each is an environment variable too, which wins over the file: `[http] port` is `WHISPERD_HTTP__PORT`, a
list is written with commas (`WHISPERD_HTTP__ALLOWED_HOSTS=a.lan,b.lan`), a table as
`WHISPERD_QUEUE__TENANTS=acme=4,other=1`.

What says "yes" under SIGHUP is taken over by a running daemon (`systemctl reload whisperd`); a file with an
error in it changes nothing. The rest needs a restart.
"""

_API = """
# The API

Every call of the daemon. `GET /openapi.json` has all of it for machines, with each field; `GET /docs` shows
that in a browser and tries it, offline.

An error is `{"error": {"code": "…", "message": "what to do about it", "param": "the field, or null"}}`
everywhere but in OpenAI's API and the older API, which have the shapes of theirs. 429 and 503 say in
`Retry-After` when to come back. What was answered with 2xx is never lost; what was answered with an error
has left nothing behind. "Needs" names the scope of a key, once there are keys.
"""


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
    SCHEMA.write_text(schema())

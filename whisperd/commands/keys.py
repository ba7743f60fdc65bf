"""The commands `keys add|list|revoke`: they work on the data folder's file, whether a daemon runs or not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from whisperd.commands import DataDir, Json, Settings, command
from whisperd.terminal import safe, show_json, show_table

if TYPE_CHECKING:
    from whisperd.keys import Key, Scope

app = typer.Typer(no_args_is_help=True, help="The keys of those who may call, and what each may do.")

Tenant = Annotated[str, typer.Option(help="Whose tasks it makes and sees; * for those of all.")]
Plan = Annotated[
    Literal["FREE", "PRO", "PAYG"], typer.Option(help="The priority of its tasks, and the most they may ask.")
]
Scopes = Annotated[
    str, typer.Option("--scope", help="submit, read, several with commas; or admin: all, for every tenant.")
]
Name = Annotated[str, typer.Option(help="What it is for, to know it again in the list.")]
Expires = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="90d, 12h, or a date such as 2030-01-31 (UTC).", show_default=False),
]
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@command(app, "add")
def keys_add(
    tenant: Tenant = "default",
    plan: Plan = "FREE",
    scope: Scopes = "submit,read",
    name: Name = "",
    expires: Expires = None,
    config: Settings = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a key and print it, this once: only its SHA-256 is kept.

    From the first key on every call needs one, also from this machine; a running daemon knows it at once.
    Whoever has it sends the header Authorization: Bearer KEY, these commands the one in WHISPERD_KEY.

      $ export WHISPERD_KEY=$(whisperd keys add --scope admin --name "my own")
      $ whisperd keys add --tenant acme --plan PRO --scope submit,read --expires 90d
    """
    from whisperd.keys import EVERY, add, new_key, read

    now = datetime.now(UTC)
    if not re.fullmatch(r"[\w.@:+-]{1,100}", tenant) and tenant != EVERY:
        raise typer.BadParameter(f"--tenant {tenant!a}: letters, digits and _ . @ : + - only, 100 at most")
    secret, key = new_key(
        name=name, tenant=tenant, plan=plan, scopes=_scopes(scope), now=now, expires_at=_moment(expires, now)
    )
    with _file(config, data_dir, make=True) as path:
        is_first = not any(key.revoked_at is None for key in read(path))
        add(path, key)
    if json:
        show_json({**_view(key, now), "key": secret})
    else:
        print(secret)
        print(f"{key.id}: keep it, it is not shown again", file=sys.stderr)
    if is_first:
        print("From now on every call needs a key, also from this machine.", file=sys.stderr)


@command(app, "list")
def keys_list(config: Settings = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the keys, the oldest first, with what each may do. None of them can be read out of it.

    Columns: id, status, tenant, plan, scopes, end, name.
    """
    from whisperd.keys import read

    with _file(config, data_dir) as path:
        views = [_view(key, datetime.now(UTC)) for key in read(path)]
    if json:
        show_json(views)
    else:
        head = ("ID", "STATUS", "TENANT", "PLAN", "SCOPES", "EXPIRES", "NAME")
        show_table(head, [_row(view) for view in views], "NAME")


@command(app, "revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    config: Settings = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Take a key back: the next call with it is refused, and what it listens to ends.

    After the last one is revoked only this machine is served, and without a key.
    """
    from whisperd.keys import read, revoke

    now = datetime.now(UTC)
    with _file(config, data_dir) as path:
        key = revoke(path, key_id, now)
        was_last = all(key.revoked_at is not None for key in read(path))
    if json:
        show_json(_view(key, now))
    else:
        print(f"{key.id}: revoked")
    if was_last:
        print(
            "That was the last key: from now on only this machine is served, and asked for none.",
            file=sys.stderr,
        )


@contextmanager
def _file(config: Path | None, data_dir: str | None, make: bool = False) -> Iterator[Path]:
    """The keys file. As root, it is worked on as the owner of the data folder."""
    from whisperd.commands.data_folder import as_owner, settings_of
    from whisperd.durable import make_folder
    from whisperd.keys import FILE

    folder = settings_of(config, data_dir).data_dir
    if make:
        make_folder(folder)
    with as_owner(folder):
        yield folder / FILE


def _scopes(text: str) -> Sequence[Scope]:
    from typing import get_args

    from whisperd.keys import Scope

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in get_args(Scope):
            raise typer.BadParameter(f"--scope {name!a}: must be one of {', '.join(get_args(Scope))}")
    return names  # type: ignore[return-value]


def _moment(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        if span := re.fullmatch(r"(\d{1,5})([hdw])", text):
            moment = now + timedelta(**{_UNITS[span[2]]: int(span[1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--expires {text!a}: 90d, 12h, 4w, or a date such as 2030-01-31") from None
    if moment <= now:
        raise typer.BadParameter(f"--expires {safe(text)} is over already")
    return moment


def _view(key: Key, now: datetime) -> dict[str, Any]:
    from msgspec import to_builtins

    from whisperd.shown import key_view

    found: dict[str, Any] = to_builtins(key_view(key, now))
    return found


def _row(view: dict[str, Any]) -> Sequence[str]:
    scopes = ",".join(view["scopes"])
    return (
        *(view["id"], view["status"], view["tenant"], view["plan"], scopes),
        *(view["expires_at"] or "-", view["name"]),
    )

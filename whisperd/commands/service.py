"""The commands `service install`, `service uninstall` and `service status`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from whisperd.commands import Json, Settings, command
from whisperd.terminal import safe, show_fields, show_json

if TYPE_CHECKING:
    from whisperd.service import Place, Plan

app = typer.Typer(no_args_is_help=True, help="whisperd as a service of systemd.")

User = Annotated[bool, typer.Option("--user", help="A service of your own, not the system's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")]
Now = Annotated[bool, typer.Option("--now", help="Start it, too.")]
Host = Annotated[str | None, typer.Option(help="Address to bind.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port to bind.", show_default=False)]


@command(app, "install")
def service_install(
    user: User = False,
    dry_run: DryRun = False,
    now: Now = False,
    host: Host = None,
    port: Port = None,
    config: Settings = None,
) -> None:
    """Write the unit for this whisperd, and enable it.

    The system's service runs under an account of its own, whisperd, with its data in /var/lib/whisperd.
    Run it again after an upgrade or with other options. Changes by hand go into a drop-in, which stays:
    systemctl edit whisperd.

      $ sudo /opt/whisperd/bin/whisperd service install --now
      $ whisperd service install --user --now
    """
    from whisperd.service import Place, plan

    place = Place(user)
    planned = plan(place, now=now, config=config, host=host, port=port)
    if dry_run:
        _show(planned)
    else:
        _install(place, planned)
        _say_what_is_next(user, now)


def _show(planned: Plan) -> None:
    for path, text in planned.files.items():
        print(f"# {path}\n{text}")
    print("\n".join(f"$ {' '.join(words)}" for words in planned.commands))


def _install(place: Place, planned: Plan) -> None:
    from whisperd.service import install

    changed = install(place, planned)
    for path in planned.files:
        print(f"{safe(str(path))}: {'written' if path in changed else 'as it was'}")


def _say_what_is_next(user: bool, now: bool) -> None:
    flag = " --user" if user else ""
    if not now:
        print(f"Start it: systemctl{flag} start whisperd")
    if user:
        print("To have it run while you are logged out: loginctl enable-linger", file=sys.stderr)
    else:
        print(
            "By hand, under its account: sudo -u whisperd env STATE_DIRECTORY=/var/lib/whisperd whisperd ...",
            file=sys.stderr,
        )


@command(app, "uninstall")
def service_uninstall(user: User = False) -> None:
    """Stop and disable the service and remove its unit. The data stays, and the account that owns it."""
    from whisperd.service import Place, uninstall

    place = Place(user)
    uninstall(place)
    print(f"{safe(str(place.unit))}: removed; the data was left where it is")


@command(app, "status")
def service_status(user: User = False, json: Json = False) -> None:
    """Show what systemd says of the service; exit status 1 unless it runs.

    systemctl status whisperd shows its last log lines, too.
    """
    from whisperd.service import Place, status

    said = status(Place(user))
    if json:
        show_json(said)
    else:
        show_fields(_fields(said))
    raise typer.Exit(said.get("ActiveState") not in ("active", "reloading"))


def _fields(said: dict[str, str]) -> list[tuple[str, object]]:
    state = f"{said.get('ActiveState')} ({said.get('SubState')})"
    went = said.get("Result", "")
    return [
        ("unit", said.get("FragmentPath") or "not installed"),
        ("at boot", said.get("UnitFileState") or None),
        ("state", state if went in ("", "success") else f"{state}, {went}"),
        ("says", said.get("StatusText") or None),
        ("pid", None if said.get("MainPID") in (None, "0") else said["MainPID"]),
        ("since", said.get("ActiveEnterTimestamp") or None),
        ("restarts", said.get("NRestarts") or None),
        ("changed", "systemctl daemon-reload" if said.get("NeedDaemonReload") == "yes" else None),
    ]

"""What runs: the daemon, and what systemd says of its service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from whisperd import service
from whisperd.client import Client, ClientError, DaemonAway
from whisperd.doctor.finding import Finding
from whisperd.service import Place, ServiceError
from whisperd.terminal import spell


def daemon(url: str) -> Finding:
    try:
        with Client(url, patience=5, retries=0) as client:
            health = client.health()
    except DaemonAway:
        return Finding("daemon", "warn", f"none answers at {url}", "whisperd serve")
    except ClientError as error:
        return Finding("daemon", "fail", str(error), "stop what answers there, or choose another port")
    troubles = [
        f"{name}: {check.message or check.status}"  # why, it tells only to those with a key
        for name, check in health.checks.items()
        if check.status != "ok"
    ]
    status: Mapping[str, Literal["ok", "warn", "fail"]] = {"ok": "ok", "degraded": "warn"}
    said = f"{health.status} at {url}, version {health.version}, up for {spell(health.uptime_seconds)}"
    return Finding("daemon", status.get(health.status, "fail"), "; ".join([said, *troubles]))


def units(config_file: Path | None, root: Path = Path("/")) -> Iterator[Finding]:
    """The system's unit and the user's own, as far as they are there. Nothing where systemd does not run."""
    if not service.is_booted(root):
        return
    places = [place for user in (False, True) if (place := Place(user, root=root)).unit.exists()]
    for place in places:
        try:
            yield _unit(service.status(place), config_file, "--user " if place.user else "")
        except ServiceError as error:
            yield Finding("service", "warn", str(error))
    if not places:
        yield Finding("service", "ok", "no service of systemd; `whisperd service install` makes one")


def _unit(said: Mapping[str, str], config_file: Path | None, flag: str) -> Finding:
    state = f"{said.get('FragmentPath') or 'whisperd.service'} is {said.get('ActiveState')}"
    command = re.search(r"argv\[\]=(\S+)(?: .*?--config (\S+))?", said.get("ExecStart", ""))
    if command and not os.access(command[1], os.X_OK):
        return Finding("service", "fail", f"{state}; it starts {command[1]}, which is gone", _AGAIN)
    if said.get("ActiveState") == "failed":
        why = f"{state}: {said.get('Result')}"
        return Finding(
            "service", "fail", why, f"journalctl {flag}-u whisperd; systemctl {flag}start whisperd"
        )
    if said.get("NeedDaemonReload") == "yes":
        return Finding(
            "service", "warn", f"{state}, and its unit has changed", f"systemctl {flag}daemon-reload"
        )
    if command and command[2] and command[2] != str(config_file):
        told = f"{state}; it reads {command[2]}, which was not looked at here"
        return Finding("service", "warn", told, f"whisperd doctor --config {command[2]}")
    if said.get("ActiveState") != "active":
        return Finding("service", "warn", state, f"systemctl {flag}start whisperd")
    return Finding("service", "ok", state)


_AGAIN = "whisperd service install writes it anew"

"""whisperd as a service of systemd: written, enabled, taken away again, asked how it is.

Two places: the system's units (as root; an account of its own, data in /var/lib/whisperd), or a user's own.
The text is unit.py's. Whether the service could run is looked at before anything is written.
"""

from __future__ import annotations

import grp
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whisperd import unit
from whisperd.config import Config, load
from whisperd.config.reading import SYSTEM

ADVICE_VENV = (
    "install whisperd in /opt/whisperd (python3 -m venv /opt/whisperd) and let that one install the service, "
    "or use --user for a service of your own"
)
ADVICE_CONFIG = (
    "let the account whisperd read it (chmod o+r), and keep secrets in /etc/whisperd/environment, which only "
    "root may read"
)
SHOWN = (
    *("FragmentPath", "UnitFileState", "ActiveState", "SubState", "Result", "StatusText", "MainPID"),
    *("NRestarts", "ActiveEnterTimestamp", "NeedDaemonReload"),
)


class ServiceError(Exception):
    """It cannot be done: says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the unit goes. `root` is / for all but the tests."""

    user: bool
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")

    @property
    def unit(self) -> Path:
        if not self.user:
            return self.root / "etc/systemd/system" / unit.NAME
        return self.config_home / "systemd/user" / unit.NAME

    @property
    def config_home(self) -> Path:
        return Path(self.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()

    @property
    def account(self) -> Path:
        return self.root / "etc/sysusers.d/whisperd.conf"

    def systemctl(self, *arguments: str) -> tuple[str, ...]:
        return ("systemctl", *(["--user"] if self.user else []), *arguments)


@dataclass(frozen=True, slots=True)
class Program:
    """What starts whisperd, and what a process of it reads to start."""

    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()

    @classmethod
    def running(cls) -> Program:
        """This one: the file it was unpacked from, the command beside its Python, or else the module."""
        if file := os.environ.get("WHISPERD_FILE"):  # of packaging/binary
            return cls((file,))
        script = Path(sysconfig.get_path("scripts"), "whisperd")
        module = (sys.executable, "-P", "-m", "whisperd")
        needs = (Path(sys.executable), Path(sys.executable).resolve(), Path(sys.base_prefix), Path(__file__))
        return cls((str(script),) if script.is_file() else module, needs)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an installation writes, and what it runs after that."""

    files: Mapping[Path, str]
    commands: Sequence[tuple[str, ...]]


def plan(
    place: Place,
    *,
    now: bool = False,
    config: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    program: Program | None = None,
) -> Plan:
    """Writes nothing. Raises ServiceError when the service could not run so, ConfigError for its settings."""
    file = config.absolute() if config else None
    settings = _settings(place, file, {"http.host": host, "http.port": port})
    options = {"--config": file, "--host": host, "--port": port}
    chosen = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    program = program or Program.running()
    command = (*program.command, "serve", *chosen)
    if place.user:
        wanted = unit.Unit(command, user=True, stop_seconds=_stop_seconds(settings))
    else:
        wanted = _system_unit(command, settings, [Path(command[0]), *program.needs], file)
    files = {} if place.user else {place.account: unit.SYSUSERS}
    try:
        files[place.unit] = unit.text(wanted)
    except ValueError as error:
        raise ServiceError(str(error)) from None
    return Plan(files, [*_commands(place, wanted), *_enabling(place, now)])


def install(place: Place, planned: Plan) -> Sequence[Path]:
    """Does it; returns the files that changed. Can be done again. Raises ServiceError."""
    _check_systemd(place)
    if place.unit.exists() and unit.MARK not in place.unit.read_text():
        raise ServiceError(f"{place.unit} is not of `whisperd service install`: remove it, or keep it")
    changed = [path for path, text in planned.files.items() if not _holds(path, text)]
    for path in changed:
        _write(path, planned.files[path])
    for command in planned.commands:
        _run(command)
    return changed


def uninstall(place: Place) -> None:
    """Stops and disables it and takes the unit away; the data and the account stay. Raises ServiceError."""
    _check_systemd(place)
    if not place.unit.exists():
        raise ServiceError(f"there is no {place.unit}: nothing to uninstall")
    _run(place.systemctl("disable", "--now", unit.NAME))
    place.unit.unlink()
    _run(place.systemctl("daemon-reload"))


def status(place: Place) -> dict[str, str]:
    """What systemd says of it: SHOWN, each with its value. Raises ServiceError."""
    _check_systemd(place, may_change=False)
    said = _run(place.systemctl("show", unit.NAME, f"--property={','.join(SHOWN)}"))
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def is_booted(root: Path = Path("/")) -> bool:
    """Whether systemd runs this machine: sd_booted(3)."""
    return (root / "run/systemd/system").is_dir()


def _settings(place: Place, file: Path | None, overrides: Mapping[str, str | int | None]) -> Config:
    """As the service will see them: without the variables of this shell, and a config.toml in its folder."""
    places = [place.config_home / "whisperd/config.toml"] if place.user else []
    there = [path for path in (*places, SYSTEM) if path.is_file()]
    environ = {} if place.user else {"STATE_DIRECTORY": unit.STATE}
    return load(file or (there or [Path(os.devnull)])[0], environ, overrides)


def _system_unit(
    command: tuple[str, ...], settings: Config, needed: Sequence[Path], file: Path | None
) -> unit.Unit:
    for path in needed:
        _check_reach(path, ADVICE_VENV)
    if file:
        _check_reach(file, ADVICE_CONFIG)
    seen = [*needed, *([file] if file else []), *map(Path, settings.http.allowed_roots), *_folders(settings)]
    return unit.Unit(
        command,
        stop_seconds=_stop_seconds(settings),
        groups=tuple(name for name in ("video", "render") if _is_group(name)),
        home_visible=any(_is_below(path, "/home", "/root", "/run/user") for path in seen),
        writable=tuple(str(folder) for folder in _folders(settings) if not _is_below(folder, unit.STATE)),
    )


def _stop_seconds(settings: Config) -> int:
    """Above the grace, with two minutes for the last backup; systemd kills what is left then."""
    return math.ceil(settings.shutdown.grace_seconds) + 120


def _folders(settings: Config) -> Sequence[Path]:
    return [settings.data_dir, settings.models_dir, settings.backups_dir]


def _check_reach(path: Path, advice: str) -> None:
    if _is_below(path, "/tmp", "/var/tmp"):
        raise ServiceError(f"{path} is below /tmp, where a service sees only its own: {advice}")
    for part in [*reversed(path.parents), path]:
        if not _open_to_the_service(part):
            raise ServiceError(f"{part} is closed to others, so the service could not use {path}: {advice}")


def _open_to_the_service(path: Path) -> bool:
    """Others, or the group of its account, may enter a folder or read a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror}") from None
    wanted = 0o1 if path.is_dir() else 0o4
    try:
        theirs = path.group() == unit.ACCOUNT
    except KeyError:  # a group without a name
        theirs = False
    return bool(mode & wanted or (theirs and mode & wanted << 3))


def _is_below(path: Path, *folders: str) -> bool:
    return any(path.is_relative_to(folder) or path.resolve().is_relative_to(folder) for folder in folders)


def _is_group(name: str) -> bool:
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False


def _commands(place: Place, wanted: unit.Unit) -> Iterator[tuple[str, ...]]:
    if not place.user:
        yield ("systemd-sysusers", str(place.account))
        for folder in wanted.writable:
            if not Path(folder).exists():
                yield ("install", "-d", "-m", "0700", "-o", unit.ACCOUNT, "-g", unit.ACCOUNT, folder)
    yield place.systemctl("daemon-reload")


def _enabling(place: Place, now: bool) -> Iterable[tuple[str, ...]]:
    """Restarted, not only started: one that runs already would go on as it was."""
    enable = place.systemctl("enable", unit.NAME)
    return [enable, place.systemctl("restart", unit.NAME)] if now else [enable]


def _check_systemd(place: Place, *, may_change: bool = True) -> None:
    if not is_booted(place.root) or not shutil.which("systemctl"):
        raise ServiceError("systemd does not run this machine: start `whisperd serve` by what does")
    if may_change and not place.user and os.geteuid() != 0:
        raise ServiceError("only root may do this: sudo it, or use --user for a service of your own")


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    """At once or not at all: systemd may be reading. Everyone may read it: it holds no secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o644)
    new.replace(path)


def _run(command: Sequence[str]) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except OSError as error:
        raise ServiceError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"`{' '.join(command)}` does not come to an end") from None
    if ran.returncode:
        why = (ran.stderr or ran.stdout).strip() or f"exit status {ran.returncode}"
        raise ServiceError(f"`{' '.join(command)}` failed: {why}")
    return ran.stdout

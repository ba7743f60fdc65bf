"""Defaults, file, old environment names, new environment names, the command line: the later wins.

Everything that is wrong is told at once, with the place it stands in. Only reads; creates nothing.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from whisperd.config.keys import KEYS, SECTIONS, Config, Key, default_data_dir, with_values
from whisperd.config.printing import HIDDEN

LOCAL, SYSTEM = Path("config.toml"), Path("/etc/whisperd/config.toml")
# Of the two older systems; the client has its own. Nothing says what unit BACKUP_INTERVAL had: it is taken as
# seconds, and one in milliseconds is refused (more than a day).
OLD_NAMES = {
    "REDIS_URL": "redis.url",
    "BACKUP_INTERVAL": "backup.interval_seconds",
    "MAX_PROCESSING_TIME": "workers.max_processing_seconds",
    "QUEUE_CONCURRENCY": "workers.count",
    "QUEUE_MAX_RETRIES": "queue.max_retries",
    "QUEUE_RETRY_DELAY": "queue.retry_delay_ms",
    "JOB_RETENTION_HOURS": "retention.job_hours",
    "FAILED_JOB_RETENTION_HOURS": "retention.failed_job_hours",
}
VARIABLES = {key.variable: key.name for key in KEYS.values()}


class ConfigError(Exception):
    """The configuration cannot be used. Says, a line each, every key that is wrong and what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _Setting(NamedTuple):
    where: str  # file or variable, for messages
    key: str  # "queue.order"
    value: Any
    text: bool  # from the environment: numbers and lists arrive as text


def load(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
    *,
    may_be_foreign: bool = False,
) -> Config:
    """The configuration from the file that `find` names, which need not be there, and the environment.

    `overrides` maps dotted keys (`"http.port"`) to values; None counts as not given. Raises ConfigError.
    """
    return read(path, environ, overrides, may_be_foreign=may_be_foreign)[0]


def read(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
    *,
    may_be_foreign: bool = False,
) -> tuple[Config, dict[str, str]]:
    """As `load`, and where each key that was set came from: `{"http.port": "WHISPERD_HTTP__PORT"}`."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    file = find(path, environ, may_be_foreign=may_be_foreign)
    for setting in _settings(file, environ, overrides or {}):
        try:
            values[setting.key] = _checked(setting)
        except ConfigError as error:
            problems += error.problems
        else:
            sources[setting.key] = setting.where
    if problems:
        raise ConfigError(problems)
    return _with_folders(with_values(Config(), values), environ), sources


def find(
    path: Path | None = None, environ: Mapping[str, str] = os.environ, *, may_be_foreign: bool = False
) -> Path | None:
    """The file to read: `path`, $WHISPERD_CONFIG, else the first there is: ./config.toml, the user's, /etc's.

    Many programs have a config.toml: with `may_be_foreign` one in this folder is passed over unless whisperd
    has every key in it. Whoever starts the daemon here, or checks its settings, wants to hear of a wrong one.
    """
    if named := path or (environ.get("WHISPERD_CONFIG") and Path(environ["WHISPERD_CONFIG"])):
        return named
    home = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    places = [LOCAL, home / "whisperd" / "config.toml", SYSTEM]
    if may_be_foreign and not _is_ours(LOCAL):
        places.remove(LOCAL)
    return next((place for place in places if place.is_file()), None)


def _settings(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Iterator[_Setting]:
    if file:
        yield from _from_file(file)
    for name, key in OLD_NAMES.items():
        if environ.get(name):  # empty counts as not set: Compose files pass empty variables on
            yield _Setting(name, key, environ[name], True)
    for name, text in sorted(environ.items()):
        if name.startswith("WHISPERD_") and "__" in name and text:
            key = VARIABLES.get(name, "")
            yield _Setting(name, key, text, True)
    for key, value in overrides.items():
        if value is not None:
            yield _Setting("command line", key, value, False)


def _is_ours(file: Path) -> bool:
    try:
        return all(setting.key in KEYS for setting in _from_file(file))
    except ConfigError:
        return False


def _from_file(file: Path) -> Iterator[_Setting]:
    return _from_table(str(file), "", _parsed(file))


def _from_table(where: str, section: str, table: Mapping[str, Any]) -> Iterator[_Setting]:
    for name, value in table.items():
        full = f"{section}.{name}" if section else name
        if full in SECTIONS and isinstance(value, dict):
            yield from _from_table(where, full, value)
        else:
            yield _Setting(where, full, value, False)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:  # bad TOML, or not UTF-8
        raise ConfigError([f"{file}: not TOML: {error}"]) from None


def _checked(setting: _Setting) -> Any:
    key = KEYS.get(setting.key)
    if key is None:
        raise ConfigError([_unknown(setting)])
    if key.secret and setting.value == HIDDEN:
        raise ConfigError(
            [f"{setting.where}: {key.name} = {HIDDEN}: this only stands for what was not shown"]
        )
    value = _from_text(setting.value, key.type) if setting.text else setting.value
    try:
        found = msgspec.convert(value, key.type, strict=not setting.text)
        for text in found if key.networks else ():
            ip_network(text)
    except ValueError:  # msgspec's is one
        expected = "a list of networks such as 10.1.0.0/16" if key.networks else _allowed(key.type)
        told = f"{setting.where}: {key.name} = {_shown(key, setting.value)}: expected {expected}"
        raise ConfigError([told]) from None
    return found


def _shown(key: Key, value: Any) -> str:
    """The value for a message: without a secret, and without a password in a URL."""
    if key.secret:
        return HIDDEN
    return textwrap.shorten(re.sub(r"//[^/]*@", f"//{HIDDEN}@", repr(value)), 80, placeholder="…")


def _unknown(setting: _Setting) -> str:
    name = setting.key
    if not name:  # a variable
        return f"environment: unknown variable {setting.where}{_near(setting.where, VARIABLES)}"
    if name in SECTIONS:
        return f"{setting.where}: {name} is a section: [{name}]"
    if isinstance(setting.value, dict) and "." not in name:
        return f"{setting.where}: unknown section {name}{_near(name, SECTIONS)}"
    return f"{setting.where}: unknown key {name}{_near(name, [*KEYS, *SECTIONS])}"


def _near(name: str, known: Iterable[str]) -> str:
    known = tuple(known)
    near = [key for key in known if key.endswith(f".{name}")] or difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _from_text(text: str, kind: Any) -> Any:
    """`a,b` for a list, `a=1,b=2` for a table; anything else stays as it is."""
    bare = _bare(kind)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(bare) is tuple:
        return parts
    if get_origin(bare) is dict:
        pairs = [part.partition("=") for part in parts]
        return {name.strip(): value.strip() for name, _, value in pairs}
    return text


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _metas(kind: Any) -> tuple[Meta, ...]:
    return getattr(kind, "__metadata__", ())


def _titles(kind: Any) -> str:
    """What such texts are called."""
    return next((meta.title for meta in _metas(kind) if meta.title), "texts")


def _allowed(kind: Any) -> str:
    bare, metas = _bare(kind), _metas(kind)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(get_args(bare))
    if get_origin(bare) is tuple:
        return f"a list of {_titles(get_args(bare)[0])}"
    if get_origin(bare) is dict:
        return f"a table from name to {_allowed(get_args(bare)[1])}"
    if bare is bool:
        return "true or false"
    if any(meta.pattern for meta in metas) and any(meta.title for meta in metas):
        return _titles(kind)
    if any(meta.pattern for meta in metas):
        return "a URL with http:// or https:// and no user, password or query in it"
    if bare is str:
        return "a text that is not empty" if any(m.min_length for m in metas) else "a text"
    number = "a whole number" if bare is int else "a number"
    return f"{number} from {metas[0].ge} to {metas[0].le}"


def _with_folders(config: Config, environ: Mapping[str, str]) -> Config:
    data = _absolute(config.storage.data_dir or default_data_dir(environ))
    models = _absolute(config.storage.models_dir or data / "models")
    roots = tuple(str(_absolute(root)) for root in config.http.allowed_roots)
    backups = _absolute(config.backup.folder or data / "backups")
    rules = _absolute(config.risk.rules_dir or data / "rules")
    return with_values(
        config,
        {
            "http.allowed_roots": roots,
            "storage.data_dir": str(data),
            "storage.models_dir": str(models),
            "backup.folder": str(backups),
            "risk.rules_dir": str(rules),
        },
    )


def _absolute(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError:  # ~nobody
        raise ConfigError([f"{folder}: there is no such user"]) from None

"""config.toml + environment -> one frozen Config.

The declarations below are the single source of the keys: their types, bounds, defaults and descriptions.
`config.toml` is what `to_toml(Config())` prints, the error messages are made from the same types, and every
key is also the environment variable `WHISPERD_SECTION__KEY`. Later wins: defaults, file, old environment
names, new environment names, overrides of the command line. Only reads; creates no folder, opens no database.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

LOCAL, SYSTEM = Path("config.toml"), Path("/etc/whisperd/config.toml")
# Of the two older systems. REDIS_URL and BACKUP_INTERVAL wait for their sections; the client has its own.
OLD_NAMES = {
    "MAX_PROCESSING_TIME": "workers.max_processing_seconds",
    "QUEUE_CONCURRENCY": "workers.count",
    "QUEUE_MAX_RETRIES": "queue.max_retries",
    "QUEUE_RETRY_DELAY": "queue.retry_delay_ms",
    "JOB_RETENTION_HOURS": "retention.job_hours",
    "FAILED_JOB_RETENTION_HOURS": "retention.failed_job_hours",
}

_YEAR_SECONDS = 366 * 24 * 3600
_DECADE_HOURS = 10 * 366 * 24


class ConfigError(Exception):
    """The configuration cannot be used. Says, a line each, every key that is wrong and what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


_NotEmpty = Annotated[str, Meta(min_length=1)]


def _is(about: str, least: float | None = None, most: float | None = None) -> Meta:
    """What holds for a key. A number has both bounds: a lone lower one would let "nan" through."""
    return Meta(description=about, ge=least, le=most)


class Http(Struct, frozen=True, kw_only=True):
    """Where the daemon listens, and whom it serves."""

    host: Annotated[_NotEmpty, _is("Address to bind. Without keys only loopback is served.")] = "127.0.0.1"
    port: Annotated[int, _is("0 takes a free port; the ready line names it.", 0, 65535)] = 8002
    max_upload_bytes: Annotated[
        int, _is("Larger submissions are refused with 413, before they are stored (4 GiB).", 1, 2**50)
    ] = 4 * 2**30
    allowed_hosts: Annotated[
        tuple[str, ...],
        _is("Host headers served besides localhost, 127.0.0.1 and [::1]; written without the port."),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        _is('Origins of browser pages served besides the daemon\'s own: "https://app.example.org".'),
    ] = ()
    allowed_roots: Annotated[
        tuple[str, ...],
        _is("Folders below which `audio_path` may name a file. With none, `audio_path` is refused."),
    ] = ()


class Queue(Struct, frozen=True, kw_only=True):
    """What runs next, what is tried again, and how much may wait."""

    order: Annotated[
        Literal["lifo", "fifo"], _is("Within one priority: lifo runs the newest first, fifo the oldest.")
    ] = "lifo"
    max_retries: Annotated[int, _is("How often a chunk that failed is tried again.", 0, 100)] = 3
    retry_delay_ms: Annotated[
        int, _is("Wait before the first retry; doubled for each next one, with jitter.", 0, 86_400_000)
    ] = 1000
    max_retry_delay_seconds: Annotated[float, _is("No retry waits longer.", 0, _YEAR_SECONDS)] = 300
    max_waiting: Annotated[
        int, _is("With so many tasks queued, the next is refused (503 queue_full).", 1, 100_000_000)
    ] = 1_000_000
    tenant_concurrent: Annotated[
        int, _is("Tasks of one tenant that run at a time; 0: no limit.", 0, 10_000)
    ] = 0
    tenants: Annotated[
        dict[str, Annotated[int, Meta(ge=0, le=10_000)]],
        _is("The same limit for single tenants: { acme = 4, other = 1 }"),
    ] = {}
    idempotency_hours: Annotated[float, _is("How long an Idempotency-Key is kept.", 0, _DECADE_HOURS)] = 24


class Plans(Struct, frozen=True, kw_only=True, rename="upper"):
    """The named priorities that `plan` of a submission stands for, -100 to 100; higher runs first."""

    free: Annotated[int, Meta(ge=-100, le=100)] = 1
    pro: Annotated[int, Meta(ge=-100, le=100)] = 5
    payg: Annotated[int, Meta(ge=-100, le=100)] = 10

    def priority(self, name: str) -> int | None:
        """The priority of plan `FREE`, `PRO` or `PAYG`; None when there is no such plan."""
        return {f.encode_name: getattr(self, f.name) for f in fields(self)}.get(name)


class Retention(Struct, frozen=True, kw_only=True):
    """How long finished tasks are kept, with their transcript and audio."""

    job_hours: Annotated[float, _is("For completed and cancelled tasks.", 0, _DECADE_HOURS)] = 24
    failed_job_hours: Annotated[float, _is("For failed tasks.", 0, _DECADE_HOURS)] = 168


class Workers(Struct, frozen=True, kw_only=True):
    """The child processes that transcribe."""

    count: Annotated[int, _is("Processes; 0: one a core up to 4, or 1 with a GPU build.", 0, 256)] = 0
    threads: Annotated[int, _is("Threads of each; 0: the cores shared out among them.", 0, 256)] = 0
    model: Annotated[_NotEmpty, _is("For tasks that name none; see `whisperd models list`.")] = "tiny.en"
    max_processing_seconds: Annotated[
        float,
        _is(
            "The longest that a worker may take for one chunk (at most 28 s of speech), or to decode and "
            "plan a file.",
            0.001,
            _YEAR_SECONDS,
        ),
    ] = 600
    silence_seconds: Annotated[
        float, _is("A worker without a sign of life for so long is killed.", 0.001, _YEAR_SECONDS)
    ] = 60
    max_memory_mb: Annotated[int, _is("Address space of each worker (RLIMIT_AS); 0: no limit.", 0, 2**24)] = 0
    nice: Annotated[
        int, _is("Scheduling niceness, so that the daemon answers while all cores transcribe.", 0, 19)
    ] = 10
    gpu: Annotated[bool, _is("Use the GPU when pywhispercpp was built for one.")] = True

    def sized(self, cores: int, gpu_build: bool = False) -> tuple[int, int]:
        """How many workers with how many threads each: the zeros filled in for a machine of `cores`."""
        most = 1 if gpu_build and self.gpu else min(4, cores // max(1, self.threads))
        count = self.count or max(1, most)
        return count, self.threads or max(1, cores // count)


class Audio(Struct, frozen=True, kw_only=True):
    """What is accepted as audio."""

    max_seconds: Annotated[
        float, _is("Decoded length above which a task fails (12 hours).", 0.001, _YEAR_SECONDS)
    ] = 43_200


class Storage(Struct, frozen=True, kw_only=True):
    """Where everything is kept."""

    data_dir: Annotated[
        str, _is('"": $STATE_DIRECTORY, else $XDG_DATA_HOME/whisperd, else ~/.local/share/whisperd.')
    ] = ""
    models_dir: Annotated[str, _is('"": the folder models in data_dir.')] = ""
    min_free_mb: Annotated[
        int, _is("Submissions are refused (507) when less disk space is free.", 0, 2**30)
    ] = 200


class Shutdown(Struct, frozen=True, kw_only=True):
    """SIGTERM and SIGINT stop the daemon; a second one stops it at once."""

    grace_seconds: Annotated[
        float, _is("Running chunks may go on for so long; then they are handed back.", 0, 86_400)
    ] = 30


class Log(Struct, frozen=True, kw_only=True):
    """What the daemon says on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _is("debug, info, warning or error.")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "console", "json"], _is("auto: console on a terminal, json elsewhere.")
    ] = "auto"


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked. From `load`, all folders are absolute."""

    http: Http = Http()
    queue: Queue = Queue()
    plans: Plans = Plans()
    retention: Retention = Retention()
    workers: Workers = Workers()
    audio: Audio = Audio()
    storage: Storage = Storage()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()

    @property
    def data_dir(self) -> Path:
        return Path(self.storage.data_dir or _default_data_dir(os.environ))

    @property
    def models_dir(self) -> Path:
        return Path(self.storage.models_dir or self.data_dir / "models")


_SECTIONS: dict[str, type[Struct]] = {field.name: field.type for field in fields(Config)}
_KEYS: dict[str, FieldInfo] = {
    f"{section}.{field.encode_name}": field for section, kind in _SECTIONS.items() for field in fields(kind)
}
_VARIABLES = {f"WHISPERD_{key.replace('.', '__').upper()}": key for key in _KEYS}


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
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    sources: dict[str, str] = {}
    problems: list[str] = []
    file = find(path, environ, may_be_foreign=may_be_foreign)
    for setting in _settings(file, environ, overrides or {}):
        try:
            value = _checked(setting)
        except ConfigError as error:
            problems += error.problems
        else:
            values[setting.key.partition(".")[0]][_KEYS[setting.key].name] = value
            sources[setting.key] = setting.where
    if problems:
        raise ConfigError(problems)
    sections: dict[str, Any] = {section: kind(**values[section]) for section, kind in _SECTIONS.items()}
    return _with_folders(Config(**sections), environ), sources


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


def to_toml(config: Config, sources: Mapping[str, str] | None = None) -> str:
    """`config` as TOML. With the descriptions as comments, or else with `sources` behind what was set."""
    parts = [_PREAMBLE] if sources is None else []
    for section, kind in _SECTIONS.items():
        lines = [f"[{section}]"]
        if sources is None:
            lines.insert(0, _comment(kind.__doc__ or ""))
        for field in fields(kind):
            value = getattr(getattr(config, section), field.name)
            line = f"{field.encode_name} = {_literal(value)}"
            if sources is None and (about := _description(field)):
                lines.append(_comment(about))
            elif sources and (source := sources.get(f"{section}.{field.encode_name}")):
                line += f"  # {source}"
            lines.append(line)
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cores() -> int:
    """The cores this process may use: its affinity, within the CPU quota of its container."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(usable, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return usable


_PREAMBLE = """\
# The settings of whisperd, each with its default; `whisperd config show` prints what is in force.
# Read from --config, else $WHISPERD_CONFIG, ./config.toml, ~/.config/whisperd/config.toml (in XDG_CONFIG_HOME
# if set), /etc/whisperd/config.toml: the first there is. Other commands than serve and config pass over a
# ./config.toml with a key that is not here: it is another program's.
#
# Every key is an environment variable too, which wins over the file:
#   WHISPERD_HTTP__PORT=9000  WHISPERD_HTTP__ALLOWED_HOSTS=a.lan,b.lan  WHISPERD_QUEUE__TENANTS=acme=4,other=1
# The older names are read as well: MAX_PROCESSING_TIME (seconds), QUEUE_CONCURRENCY, QUEUE_MAX_RETRIES,
# QUEUE_RETRY_DELAY (ms), JOB_RETENTION_HOURS, FAILED_JOB_RETENTION_HOURS."""


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
            key = _VARIABLES.get(name, "")
            yield _Setting(name, key, text, True)
    for key, value in overrides.items():
        if value is not None:
            yield _Setting("command line", key, value, False)


def _is_ours(file: Path) -> bool:
    try:
        return all(setting.key in _KEYS for setting in _from_file(file))
    except ConfigError:
        return False


def _from_file(file: Path) -> Iterator[_Setting]:
    for section, table in _parsed(file).items():
        if section in _SECTIONS and isinstance(table, dict):
            for name, value in table.items():
                yield _Setting(str(file), f"{section}.{name}", value, False)
        else:
            yield _Setting(str(file), section, table, False)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:  # bad TOML, or not UTF-8
        raise ConfigError([f"{file}: not TOML: {error}"]) from None


def _checked(setting: _Setting) -> Any:
    field = _KEYS.get(setting.key)
    if field is None:
        raise ConfigError([_unknown(setting)])
    value = _from_text(setting.value, field.type) if setting.text else setting.value
    try:
        return msgspec.convert(value, field.type, strict=not setting.text)
    except msgspec.ValidationError:
        named = "" if setting.where.endswith(setting.key) else f"{setting.key} = "
        shown = textwrap.shorten(repr(setting.value), 80, placeholder="…")
        raise ConfigError([f"{setting.where}: {named}{shown}: expected {_allowed(field.type)}"]) from None


def _unknown(setting: _Setting) -> str:
    name = setting.key
    if not name:  # a variable
        return f"environment: unknown variable {setting.where}{_near(setting.where, _VARIABLES)}"
    if name in _SECTIONS:
        return f"{setting.where}: {name} is a section: [{name}]"
    if isinstance(setting.value, dict) and "." not in name:
        return f"{setting.where}: unknown section {name}{_near(name, _SECTIONS)}"
    return f"{setting.where}: unknown key {name}{_near(name, _KEYS)}"


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


def _allowed(kind: Any) -> str:
    bare, metas = _bare(kind), _metas(kind)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(get_args(bare))
    if get_origin(bare) is tuple:
        return "a list of texts"
    if get_origin(bare) is dict:
        return f"a table from name to {_allowed(get_args(bare)[1])}"
    if bare is bool:
        return "true or false"
    if bare is str:
        return "a text that is not empty" if any(m.min_length for m in metas) else "a text"
    number = "a whole number" if bare is int else "a number"
    return f"{number} from {metas[0].ge} to {metas[0].le}"


def _with_folders(config: Config, environ: Mapping[str, str]) -> Config:
    data = _absolute(config.storage.data_dir or _default_data_dir(environ))
    models = _absolute(config.storage.models_dir or data / "models")
    roots = tuple(str(_absolute(root)) for root in config.http.allowed_roots)
    return replace(
        config,
        http=replace(config.http, allowed_roots=roots),
        storage=replace(config.storage, data_dir=str(data), models_dir=str(models)),
    )


def _absolute(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError:  # ~nobody
        raise ConfigError([f"{folder}: there is no such user"]) from None


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    if state := environ.get("STATE_DIRECTORY"):  # systemd's; a list when the unit names several
        return Path(state.partition(":")[0])
    return Path(environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "whisperd"


def _description(field: FieldInfo) -> str:
    return next((meta.description for meta in _metas(field.type) if meta.description), "")


def _comment(text: str) -> str:
    return textwrap.fill(text, 108, initial_indent="# ", subsequent_indent="# ")


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f" {_literal(name)} = {_literal(item)}" for name, item in value.items()) + " }"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML writes these as JSON does

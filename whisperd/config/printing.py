"""What is in force, as TOML: for `config.toml` with every key explained, for people without the secrets."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from whisperd.config.keys import KEYS, SECTIONS, Config, Key, with_values

HIDDEN = "***"


def hidden(config: Config) -> Config:
    """`config` to be shown: each secret that is set reads `***`."""
    return with_values(config, {key.name: HIDDEN for key in KEYS.values() if key.secret and key.of(config)})


def to_toml(config: Config, sources: Mapping[str, str] | None = None) -> str:
    """`config` as TOML, without its secrets.

    With the descriptions as comments, those of like sections once; or with `sources` behind what was set.
    """
    shown = hidden(config)
    parts = [_PREAMBLE] if sources is None else []
    explained = set(SECTIONS.values() if sources is not None else ())
    for section, kind in SECTIONS.items():
        about = [_comment(kind.__doc__ or "")] if kind not in explained else []
        keys = [key for key in KEYS.values() if key.section == section]
        lines = [line for key in keys for line in _lines(key, key.of(shown), sources, kind not in explained)]
        parts.append("\n".join([*about, f"[{section}]", *lines]))
        explained.add(kind)
    return "\n\n".join(parts) + "\n"


def literal(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f" {literal(name)} = {literal(item)}" for name, item in value.items()) + " }"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML writes these as JSON does


def _lines(key: Key, value: Any, sources: Mapping[str, str] | None, explain: bool) -> Iterator[str]:
    line = f"{key.name.rpartition('.')[2]} = {literal(value)}"
    if explain and key.about:
        yield _comment(key.about + (" [reload]" if key.reload else ""))
    source = (sources or {}).get(key.name)
    yield f"{line}  # {source}" if source else line


_PREAMBLE = """\
# The settings of whisperd, each with its default; `whisperd config show` prints what is in force.
# Read from --config, else $WHISPERD_CONFIG, ./config.toml, ~/.config/whisperd/config.toml (in XDG_CONFIG_HOME
# if set), /etc/whisperd/config.toml: the first there is. Other commands than serve and config pass over a
# ./config.toml with a key that is not here: it is another program's.
#
# Every key is an environment variable too, which wins over the file:
#   WHISPERD_HTTP__PORT=9000  WHISPERD_HTTP__ALLOWED_HOSTS=a.lan,b.lan  WHISPERD_QUEUE__TENANTS=acme=4,other=1
# The older names are read as well: MAX_PROCESSING_TIME and BACKUP_INTERVAL (seconds), QUEUE_CONCURRENCY,
# QUEUE_MAX_RETRIES, QUEUE_RETRY_DELAY (ms), JOB_RETENTION_HOURS, FAILED_JOB_RETENTION_HOURS, REDIS_URL.
#
# SIGHUP (`systemctl reload whisperd`) makes the running daemon take over what is marked [reload]; a file with
# an error in it changes nothing. The rest needs a restart."""


def _comment(text: str) -> str:
    return textwrap.fill(text, 108, initial_indent="# ", subsequent_indent="# ")

"""What was measured, from one start to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from whisperd.forecast.speeds import KINDS, Measured
from whisperd.sql.rows import to_json


def keep(conn: sqlite3.Connection, measured: Sequence[Measured], now: float) -> None:
    conn.executemany(
        "insert or replace into measured values (?, ?, ?, ?, ?, ?)",
        [(one.kind, one.of, one.device, one.threads, to_json(one.pairs), now) for one in measured],
    )
    conn.execute(_FORGET, (KINDS,))


_FORGET = """
    delete from measured where (kind, of, device, threads) in (
      select kind, of, device, threads from measured order by at desc limit -1 offset ?
    )
"""


def known(conn: sqlite3.Connection) -> Sequence[Measured]:
    """The last measured comes last."""
    rows = conn.execute("select kind, of, device, threads, pairs from measured order by at, kind, of")
    return [
        Measured(kind, of, device, threads, _PAIRS.decode(pairs)) for kind, of, device, threads, pairs in rows
    ]


_PAIRS = msgspec.json.Decoder(list[tuple[float, float]])

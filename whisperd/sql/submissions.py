"""What was submitted here to a shared queue and is not over, to be added again where Redis has lost it.

Each public function is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import msgspec

from whisperd.job import Submitted
from whisperd.sql.rows import to_json


def note(conn: sqlite3.Connection, job: Submitted) -> None:
    row = (job.id, to_json(job.data), to_json(job.options), job.server)
    conn.execute("insert or replace into submitted values (?, ?, ?, ?)", row)


def after(conn: sqlite3.Connection, job_id: str, limit: int) -> Sequence[Submitted]:
    """The next few, by their ids."""
    rows = conn.execute("select * from submitted where id > ? order by id limit ?", (job_id, limit))
    return [
        Submitted(
            id=row["id"],
            data=msgspec.json.decode(row["data"], type=dict),
            options=msgspec.json.decode(row["options"], type=dict),
            server=row["server"],
        )
        for row in rows
    ]


def forget(conn: sqlite3.Connection, ids: Collection[str]) -> None:
    """They are over."""
    conn.executemany("delete from submitted where id = ?", [(job_id,) for job_id in ids])


def acknowledged(conn: sqlite3.Connection, ids: Collection[str], server: str) -> None:
    conn.executemany("update submitted set server = ? where id = ?", [(server, job_id) for job_id in ids])

"""The line as it stands, for a forecast: what decides who is next, as far as that has to be known.

Costs some searches of an index for each tenant that waits, up to MOST_SHARES of them, and reads MOST_TASKS
tasks or so, however many there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from whisperd.forecast.line import Line, Running, Share, Standing, Tenant
from whisperd.sql.questions import limits, running
from whisperd.sql.rows import to_json
from whisperd.task import SAMPLE_RATE, Rules

MOST_TASKS = 2000
MOST_SHARES = 200
FEWEST = 5  # tasks of each share

_COLUMNS = f"""
    seq, tenant, priority, state = 'processing' started,
    iif(run_at is null or retry_at is not null, lined_at + (select shift from line_clock), run_at) lined_at,
    run_at, leader, model, audio_name name, audio_size size, audio_seconds seconds,
    (select state from chunk where task = task.seq and number = 0) = 'done' planned, waiting,
    (samples - samples_done) / {SAMPLE_RATE}.0 audio_left
"""


def line(conn: sqlite3.Connection, rules: Rules, now: float, also: tuple[int, str] | None = None) -> Line:
    """`also`: a priority and a tenant that matter though nothing of theirs may stand in line."""
    running = [Running(*row) for row in conn.execute(_RUNNING)]
    turns = conn.execute(_TURNS, (MOST_SHARES,)).fetchall()
    most = max(FEWEST, MOST_TASKS // max(1, len(turns)))
    seqs = [seq for turn in turns for seq in _next(conn, turn, rules, most)]
    seqs += [row["seq"] for row in conn.execute(_DELAYED, (MOST_TASKS // 4,))]
    tasks = _tasks(conn, {*seqs, *(chunk.task for chunk in running)})
    shares = {(turn["priority"], turn["tenant"]): _share(turn, most) for turn in turns}
    for key in [*((task.priority, task.tenant) for task in tasks), *([also] if also else [])]:
        if key not in shares:
            shares[key] = _idle_share(conn, *key)
    return Line(
        now=now,
        fifo=rules.order == "fifo",
        max_wait_seconds=rules.max_wait_seconds,
        heaviest=rules.heaviest,
        tasks=tasks,
        shares=list(shares.values()),
        levels=dict(conn.execute("select priority, vtime from level").fetchall()),
        tenants={name: _tenant(conn, name, rules) for _, name in shares},
        running=running,
    )


# What is running has a beat: to say so makes it a search.
_RUNNING = f"""
    select task, number, samples / {SAMPLE_RATE}.0 from chunk where state = 'running' and beat_at > 0
"""
_TURNS = """
    select priority, tenant, vtime, offered, started from share where offered > 0
    order by priority desc, vtime, tenant limit ?
"""
_DELAYED = "select seq from task where run_at is not null order by run_at limit ?"


def _next(conn: sqlite3.Connection, turn: sqlite3.Row, rules: Rules, most: int) -> Iterator[int]:
    """Those that may be the next `most` of a share, by whatever rule."""
    orders = ["seq"] if rules.order == "fifo" else ["seq desc"]
    if rules.order == "lifo" and rules.max_wait_seconds and turn["offered"] > most:
        orders.append("lined_at, seq")
    states = ["queued"] * (turn["offered"] > turn["started"]) + ["processing"] * (turn["started"] > 0)
    for order in orders:
        for state in states:
            sql = f"""
                select seq from task where tenant = ? and priority = ? and state = ? and waiting > 0
                and run_at is null order by {order} limit ?
            """
            for row in conn.execute(sql, (turn["tenant"], turn["priority"], state, most)):
                yield row["seq"]


def _tasks(conn: sqlite3.Connection, seqs: Iterable[int]) -> Sequence[Standing]:
    """These, those whose chunks they wait for, and those that wait for theirs."""
    sql = f"""
        with wanted as (select value as seq from json_each(:seqs))
        select {_COLUMNS} from task where seq in (
          select seq from wanted
          union all select leader from wanted join task using (seq) where leader is not null
          union all select seq from (
            select task.seq from wanted cross join task on task.leader = wanted.seq limit :most
          )
        )
    """
    rows = conn.execute(sql, {"seqs": to_json(sorted(seqs)), "most": 2 * MOST_TASKS})
    return [_standing(row) for row in rows]


def _standing(row: sqlite3.Row) -> Standing:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118  # a Row iterates over its values
    return Standing(**{**values, "started": bool(row["started"]), "planned": bool(row["planned"])})


def _share(turn: sqlite3.Row, most: int) -> Share:
    known = most if turn["offered"] > most else None
    return Share(priority=turn["priority"], tenant=turn["tenant"], vtime=turn["vtime"], known=known)


def _idle_share(conn: sqlite3.Connection, priority: int, name: str) -> Share:
    sql = "select vtime from share where priority = ? and tenant = ?"
    row = conn.execute(sql, (priority, name)).fetchone()
    return Share(priority=priority, tenant=name, vtime=row["vtime"] if row else 0.0)


def _tenant(conn: sqlite3.Connection, name: str, rules: Rules) -> Tenant:
    found = limits(conn, rules, name, None)
    return Tenant(running(conn, name), found.concurrent, found.weight)

"""The questions: nothing here writes."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf

import msgspec

from whisperd.sql import plans
from whisperd.sql.rows import to_json, to_task
from whisperd.task import (
    NO_LIMITS,
    SAMPLE_RATE,
    TENANTS,
    Cut,
    Depth,
    Depths,
    Kind,
    Limits,
    ListQuery,
    Mark,
    OtherDepth,
    PriorityDepth,
    QueueFull,
    Rules,
    Segment,
    State,
    Stats,
    Task,
    TaskNotFound,
    TenantDepth,
    TenantQueueFull,
)

RECENT = 200  # tasks; how many past waits the statistics look at,
RECENT_OF_TENANT = 50  # and how many of one tenant
LOOKED_AT = (
    10  # times as many, to find them: risk detections wait for their transcript, and say nothing of it
)


def get(conn: sqlite3.Connection, task_id: str) -> Task:
    row = conn.execute("select * from task where id = ?", (task_id,)).fetchone()
    if row is None:
        raise TaskNotFound(f"there is no task {task_id}")
    return to_task(row)


def check_room(
    conn: sqlite3.Connection,
    rules: Rules,
    tenant: str | None,
    plan: str | None,
    now: float,
    kind: Kind = Kind.TRANSCRIPTION,
) -> Limits:
    """The limits of a tenant: those of `plan`, or else of the one that is remembered.

    Raises QueueFull, TenantQueueFull when it could not queue one more task; the latter not without a tenant.
    Each kind has room of its own: as many as may wait of the one may wait of the other.
    """
    queued = waiting(conn, kind)
    if queued >= rules.max_queued:
        raise QueueFull(f"{queued} tasks are waiting already", _seconds_for_a_place(conn, now, kind))
    if tenant is None:
        return NO_LIMITS
    found = limits(conn, rules, tenant, plan)
    if found.queued and _tasks(conn, f"{_WAITING[kind]} and tenant = ?", tenant) >= found.queued:
        (tenants,) = conn.execute("select count(distinct tenant) from share where offered > 0").fetchone()
        seconds = _seconds_for_a_place(conn, now, kind) * max(1, tenants)
        raise TenantQueueFull(f"{found.queued} tasks of this tenant may wait, and do", seconds)
    return found


def waiting(conn: sqlite3.Connection, kind: Kind) -> int:
    """How many tasks of the kind are queued."""
    return _tasks(conn, _WAITING[kind])


_WAITING = {
    Kind.TRANSCRIPTION: "state = 'queued' and delayed in (0, 1, 2)",
    Kind.RISK_DETECTION: "state = 'queued' and delayed = 3",
}


def _tasks(conn: sqlite3.Connection, where: str, *args: str) -> int:
    (n,) = conn.execute(f"select coalesce(sum(n), 0) from tally where {where}", args).fetchone()
    return int(n)


def limits(conn: sqlite3.Connection, rules: Rules, tenant: str, plan: str | None) -> Limits:
    return rules.limits(tenant, plan or plans.find(conn, tenant))


def _seconds_for_a_place(conn: sqlite3.Connection, now: float, kind: Kind) -> float:
    """How long it took in the last minute until one of the tasks was over."""
    (over,) = conn.execute(
        """
        select count(*) from (
          select 1 from task
          where state = 'completed' and finished_at > ? and finished_at <= ? and kind = ? limit 1000
        )
        """,
        (now - 60, now, kind),
    ).fetchone()
    return 60.0 / max(1, int(over))


def states(conn: sqlite3.Connection, ids: Sequence[str]) -> dict[str, State]:
    sql = "select id, state from task where id in (select value from json_each(?))"
    return {row["id"]: State(row["state"]) for row in conn.execute(sql, (to_json(list(ids)),))}


def list_tasks(conn: sqlite3.Connection, query: ListQuery) -> Sequence[Task]:
    oldest, before = span(conn, query)
    filters = {
        "tenant = :tenant": query.tenant,
        "seq >= :oldest": oldest,
        "seq < :before": before,
    }
    where = " and ".join(["true", *(clause for clause, value in filters.items() if value is not None)])
    if query.kind is not None:  # spelled out: no parameter fits a partial index
        where += f" and kind = '{query.kind}'"
    args = {"tenant": query.tenant, "oldest": oldest, "before": before, "limit": query.limit}
    states = [f" and state = '{state}'" for state in sorted(query.states or _lie_by_state(query))] or [""]
    pages = " union all ".join(f"select * from task where {where}{state}" for state in states)
    sql = f"{pages} order by seq desc limit :limit"
    return [to_task(row) for row in conn.execute(sql, args)]


def _lie_by_state(query: ListQuery) -> frozenset[State]:
    """All states where each is a search of its own, merged: one over them would sort all for one page.

    So are those of a tenant and of the rarer kind, which lie by state in their indexes.
    """
    is_rare = query.kind is Kind.RISK_DETECTION
    return frozenset(State) if query.tenant is not None or is_rare else frozenset()


def span(conn: sqlite3.Connection, query: ListQuery) -> tuple[int | None, int | None]:
    """The seqs that the query is about: [oldest, before); None where it says nothing of it."""
    oldest = None if query.created_after is None else _seq_at(conn, query.created_after)
    ends = [query.before] if query.before is not None else []
    if query.created_before is not None:
        ends.append(_seq_at(conn, query.created_before))
    return oldest, min(ends, default=None)


def _seq_at(conn: sqlite3.Connection, moment: float) -> int:
    """The seq of the first task that was submitted then or later, by some twenty looks."""
    low, (high,) = 0, conn.execute("select coalesce(max(seq), 0) + 1 from task").fetchone()
    while low < high:
        middle = (low + high) // 2
        row = conn.execute(
            "select seq, created_at from task where seq >= ? order by seq limit 1", (middle,)
        ).fetchone()
        if row is not None and row["created_at"] < moment:
            low = row["seq"] + 1
        else:
            high = middle
    return int(low)


# In line before :seq: all of a higher priority, whole blocks of the same one, and the rest one by one.
_AHEAD = """
    select (select coalesce(sum(n), 0) from tally where state = 'queued' and delayed = 0 and priority > :p)
      + (select coalesce(sum(n), 0) from place where priority = :p and level = 2 and block {ahead} :seq >> 14)
      + (select coalesce(sum(n), 0) from place where priority = :p and level = 1 and block {ahead} :seq >> 7
         and block between (:seq >> 14) << 7 and ((:seq >> 14) << 7) + 127)
      + (select count(*) from task where state = 'queued' and waiting > 0 and run_at is null and priority = :p
         and seq {ahead} :seq and seq between (:seq >> 7) << 7 and ((:seq >> 7) << 7) + 127)
"""


def positions(conn: sqlite3.Connection, ids: Sequence[str], order: str) -> dict[str, int | None]:
    return {task_id: position(conn, task_id, order) for task_id in ids}


def position(conn: sqlite3.Connection, task_id: str, order: str) -> int | None:
    row = conn.execute(
        """
        select priority, seq from task where id = ? and state = 'queued' and waiting > 0 and run_at is null
        """,
        (task_id,),
    ).fetchone()
    if row is None:
        return None
    sql = _AHEAD.format(ahead=">" if order == "lifo" else "<")
    (ahead,) = conn.execute(sql, {"p": row["priority"], "seq": row["seq"]}).fetchone()
    return int(ahead) + 1


def ahead(conn: sqlite3.Connection, priority: int) -> dict[int, int]:
    sql = """
        select priority, sum(n) from tally where state = 'queued' and delayed = 0 and priority > ?
        group by priority order by priority desc
    """
    return dict(conn.execute(sql, (priority,)).fetchall())


def running(conn: sqlite3.Connection, tenant: str) -> int:
    """Transcriptions: what looks for risk has no worker, and counts for none."""
    return _tasks(conn, "state = 'processing' and delayed = 0 and tenant = ?", tenant)


def segments(conn: sqlite3.Connection, task_id: str, after: Mark) -> Sequence[tuple[Mark, Segment]]:
    rows = conn.execute(
        """
        select number, chunk.state, segments
        from chunk join task on chunk.task = coalesce(task.leader, task.seq)
        where task.id = ? and number >= ? and number > 0 order by number
        """,
        (task_id, after.chunk),
    )
    found: list[tuple[Mark, Segment]] = []
    for row in rows:
        if row["state"] != "done":
            break
        segments = msgspec.json.decode(row["segments"], type=list[Segment])
        found += [(Mark(row["number"], n), segment) for n, segment in enumerate(segments, start=1)]
    return [(mark, segment) for mark, segment in found if mark > after]


def settled(conn: sqlite3.Connection, task_id: str) -> float:
    row = conn.execute(
        """
        select cut from chunk
        where task = (select coalesce(leader, seq) from task where id = ?) and number > 0 and state <> 'done'
        order by number limit 1
        """,
        (task_id,),
    ).fetchone()
    return msgspec.json.decode(row["cut"], type=Cut).pieces[0].start / SAMPLE_RATE if row else inf


def peaks(conn: sqlite3.Connection, task_id: str) -> bytes | None:
    row = conn.execute(
        "select peaks from waveform where task = (select seq from task where id = ?)",
        (task_id,),
    ).fetchone()
    return row and bytes(row["peaks"])


def stats(conn: sqlite3.Connection, now: float, tenant: str | None = None) -> Stats:
    """Of a tenant's tasks, or of all."""
    mine = "" if tenant is None else " and tenant = :tenant"
    args = {"tenant": tenant, "now": now, "recent": RECENT if tenant is None else RECENT_OF_TENANT}
    counts = f"select state, sum(n) from tally where true{mine} group by state"
    by_state = {row[0]: row[1] for row in conn.execute(counts, args)}
    (delayed,) = conn.execute(
        f"select coalesce(sum(n), 0) from tally where state = 'queued' and delayed = 1{mine}", args
    ).fetchone()
    oldest = conn.execute(
        f"select created_at from task where state = 'queued'{mine} order by seq limit 1", args
    ).fetchone()
    waits = conn.execute(_WAITS if tenant is None else _WAITS_OF_TENANT, args).fetchall()
    return Stats(
        by_state={str(state): by_state.get(state, 0) for state in State},
        delayed=delayed,
        oldest_queued_at=oldest and oldest[0],
        waits=tuple(row[0] for row in waits),
        finished=_finished(conn, mine, args),
        depth=_depth(conn, mine, args),
    )


def _finished(
    conn: sqlite3.Connection, mine: str, args: Mapping[str, object]
) -> tuple[tuple[float, float], ...]:
    """When the tasks of the last minute were completed, and how long what was decoded for each is."""
    rows = conn.execute(
        f"""
        select finished_at, iif({_WAS_DECODED}, coalesce(audio_seconds, 0), 0) from task
        where state = 'completed' and finished_at > :now - 60 and finished_at <= :now{mine} limit 10000
        """,
        args,
    )
    return tuple((row[0], row[1]) for row in rows)


def _depth(conn: sqlite3.Connection, mine: str, args: Mapping[str, object]) -> Depth:
    """Put together here: SQLite would sort what the tally has for each of these sums."""
    priorities: Counter[int] = Counter()
    queued: Counter[str] = Counter()
    processing: Counter[str] = Counter()
    sql = f"select state, tenant, priority, n from tally where state in ('queued', 'processing'){mine}"
    for state, tenant, priority, n in conn.execute(sql, args):
        if state == State.QUEUED:
            priorities[priority] += n
        (queued if state == State.QUEUED else processing)[tenant] += n
    names = sorted(
        queued.keys() | processing.keys(), key=lambda name: (-queued[name], -processing[name], name)
    )
    others = names[TENANTS:]
    return Depth(
        by_priority=tuple(PriorityDepth(*item) for item in sorted(priorities.items(), reverse=True)),
        by_tenant=tuple(TenantDepth(name, queued[name], processing[name]) for name in names[:TENANTS]),
        others=OtherDepth(
            len(others), sum(queued[name] for name in others), sum(processing[name] for name in others)
        ),
    )


def depths(conn: sqlite3.Connection, tenants: int) -> Depths:
    lines = conn.execute(
        """
        select case when state = 'processing' then state when delayed = 1 then 'delayed' else 'waiting' end,
          priority, sum(n)
        from tally where state in ('queued', 'processing') group by 1, 2
        """
    ).fetchall()
    most = conn.execute(
        "select tenant, sum(n) from tally where state = 'queued' group by 1 order by 2 desc, 1 limit ?",
        (tenants,),
    ).fetchall()
    return Depths(lines=tuple(map(tuple, lines)), tenants=tuple(map(tuple, most)))


# What was completed as a copy of its twin never had its plan handed out.
_WAS_DECODED = "(select claims from chunk where task = task.seq and number = 0)"

_WAITS = f"""
    select max(0.0, started_at - created_at) from (
      select kind, started_at, created_at from task
      where finished_at is not null and started_at is not null
      order by finished_at desc limit {LOOKED_AT} * :recent
    )
    where kind = 'transcription' limit :recent
"""
# By submission, not by end: about the same tasks, and no index of their own.
_WAITS_OF_TENANT = f"""
    select max(0.0, started_at - created_at) from (
      select kind, started_at, created_at from task
      where tenant = :tenant and state = 'completed' and started_at is not null
      order by seq desc limit {LOOKED_AT} * :recent
    )
    where kind = 'transcription' limit :recent
"""

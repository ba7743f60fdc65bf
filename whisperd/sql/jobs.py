"""The jobs of a shared queue that this host has taken; each public function is one transaction.

A handful of rows: as many as there are workers, and those whose end could not be told yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from math import inf

from msgspec.structs import replace

from whisperd.job import Checkpoint, Job, OwedJob
from whisperd.look import MISSING
from whisperd.sql import checkpoints, line, moves, outbox, usage
from whisperd.sql.rows import to_task
from whisperd.task import FINAL, NO_LIMITS, NewTask, Rules, State, Task


def take(
    conn: sqlite3.Connection, new: NewTask, job: Job, rules: Rules, known: Checkpoint | None, now: float
) -> Sequence[Task]:
    """Run the job as a task: a new one, one that had ended without a transcript, or that which it is already.

    There is always room: the shared queue hands out no more than may run. A new one goes on from what is
    `known` of it, from other hosts.
    """
    roomy = replace(rules, max_queued=2**62, limits=lambda tenant, plan: NO_LIMITS)
    row = conn.execute("select * from task where id = ?", (new.id,)).fetchone()
    if row is None:
        moved, _ = moves.submit_chain(conn, new, roomy, -inf, now)
        if known is not None and moved[0].state is State.QUEUED:
            moved = [checkpoints.go_on_from(conn, moved[0].seq, known), *moved[1:]]
    elif row["state"] in (State.FAILED, State.CANCELLED):
        moved = _again(conn, row, roomy, now)
    else:
        moved = [to_task(row)]
    row = (new.id, job.id, job.token, job.begun, job.hash, job.server, job.queue)
    conn.execute("insert or replace into job values (?, ?, ?, ?, ?, ?, ?)", row)
    return moved


def _again(conn: sqlite3.Connection, row: sqlite3.Row, rules: Rules, now: float) -> Sequence[Task]:
    """With what is to look through its transcript, however that ended: it cannot be run again by itself."""
    moved = moves.retry(conn, row["id"], None, rules, now)
    over = f"seq = ? and transcript = ? and state in ('{State.FAILED}', '{State.CANCELLED}')"
    look = conn.execute(f"select id from task where {over}", (row["seq"] + 1, row["id"])).fetchone()
    return moved if look is None else [*moved, *moves.retry(conn, look["id"], None, rules, now)]


def held(conn: sqlite3.Connection) -> Mapping[str, Job]:
    """By the ids of their tasks."""
    return {row["task"]: _job(row, row["id"]) for row in conn.execute("select * from job")}


def owed(conn: sqlite3.Connection) -> Sequence[OwedJob]:
    """Those whose tasks are over, with what looks through their transcripts: that goes with them."""
    states = ", ".join(f"'{state}'" for state in sorted(FINAL))
    rows = conn.execute(
        f"""
        select task.*, job.id as job_id, token, begun, hash, server, queue
        from job join task on task.id = job.task
        where state in ({states}) and not (state = 'completed' and {_LOOKED_THROUGH})
        """
    )
    return [OwedJob(_job(row, row["job_id"]), to_task(row)) for row in rows]


# Whether somebody still is to look through the transcript of `task`.
_LOOKED_THROUGH = """
    exists (
      select 1 from task as look indexed by task_transcript
      where look.transcript = task.id and look.state in ('queued', 'processing')
    )
"""


def told(conn: sqlite3.Connection, job: Job) -> None:
    """The shared queue knows how it ended, or does not want to know it from us any more."""
    conn.execute("delete from job where token = ?", (job.token,))


def drop(conn: sqlite3.Connection, task_id: str, job: Job, now: float) -> Sequence[Task]:
    """Another host has the job: of its task stays here what it cost, and nobody is told of an end.

    So, too, while its transcript is still to be looked through: the other one does both again, and tells of
    what was not told here. Returns it, as it was, and the tasks that went on without it; nothing if it was
    over already, or if this host has taken the job anew meanwhile.
    """
    row = conn.execute(f"{_UNENDED} and token = ?", (task_id, job.token)).fetchone()
    if row is None:
        return []
    others = _stop(conn, row, now)
    conn.execute("delete from task where seq = ?", (row["seq"],))
    conn.execute("delete from task where transcript = ?", (task_id,))
    return [to_task(row), *others]


_UNENDED = f"""
    select task.* from task join job on job.task = task.id
    where task.id = ?
      and (state in ('queued', 'processing') or (state = 'completed' and {_LOOKED_THROUGH}))
"""


def cancel(conn: sqlite3.Connection, task_id: str, now: float) -> Sequence[Task]:
    """Somebody wants its job stopped. So, too, while its transcript is still to be looked through.

    It was completed then for this host alone: who was not told of that is told of this end in its place.
    Returns what has moved; nothing if it was over already.
    """
    row = conn.execute(_UNENDED, (task_id,)).fetchone()
    if row is None:
        return []
    if row["state"] != State.COMPLETED:
        return moves.cancel(conn, task_id, now)
    _untell(conn, task_id)
    task, *_ = line.end(conn, row["seq"], State.CANCELLED, None, now, tells=False)  # it is counted already
    outbox.tell(conn, task)
    waits = "seq = ? and transcript = ? and state in ('queued', 'processing')"
    look = conn.execute(f"select seq from task where {waits}", (row["seq"] + 1, task_id)).fetchone()
    return [task, *(line.end(conn, look["seq"], State.FAILED, MISSING, now) if look else ())]


def _untell(conn: sqlite3.Connection, task_id: str) -> None:
    untold = "task = ? and event = 'task.completed' and state = 'waiting'"
    conn.execute(f"delete from outbox where {untold}", (task_id,))


def _stop(conn: sqlite3.Connection, row: sqlite3.Row, now: float) -> Sequence[Task]:
    """Returns the tasks that go on without it. What was not told of an end, the other host tells."""
    if row["state"] == State.COMPLETED:
        _untell(conn, row["id"])
        return []
    _, *others = line.end(conn, row["seq"], State.CANCELLED, None, now, tells=False)
    if row["compute_seconds"]:
        usage.add(conn, row["tenant"], row["model"], row["compute_seconds"], now)
    return others


def _job(row: sqlite3.Row, job_id: str) -> Job:
    return Job(
        id=job_id,
        queue=row["queue"],
        token=row["token"],
        begun=row["begun"],
        hash=row["hash"],
        server=row["server"],
    )

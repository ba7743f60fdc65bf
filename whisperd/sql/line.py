"""The line of tasks: how one comes into it, and how it leaves it, also for good.

Every task that is over came through `end`, whatever ended it: what has to happen at that moment, in that
transaction, belongs there and nowhere else. Of twins (see twins.py) one leads, and the others follow it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal, NamedTuple

from whisperd.sql import detections, outbox, timeline, twins, usage
from whisperd.sql.rows import to_task
from whisperd.task import Kind, Problem, Rules, State, Task
from whisperd.timeline import Moment


class Place(NamedTuple):
    """Where a task that comes into line belongs: it leads, unless it follows or is `done` already."""

    content: str | None = None
    leader: int | None = None
    waiting: int = 1  # whether it stands in line
    done: int | None = None  # the completed task whose copy it becomes


def place(conn: sqlite3.Connection, tenant: str, content: str | None, rules: Rules, now: float) -> Place:
    if content is None or rules.cache_seconds is None:
        return Place()
    found = twins.find(conn, tenant, content, now - rules.cache_seconds, now)
    if found is None:
        return Place(content)
    if found["state"] == State.COMPLETED:
        return Place(content, done=found["seq"])
    if twins.is_followed_by_most(conn, found["seq"]):
        return Place()  # the twin of none: it is decoded by itself
    return Place(content, found["seq"], int(_has_more(found)))


def _has_more(leader: sqlite3.Row) -> bool:
    return bool(leader["waiting"] > 0 and leader["run_at"] is None)


def enter(conn: sqlite3.Connection, seq: int, rules: Rules, now: float) -> Sequence[Task]:
    """A task that waits for a time need not any more. Returns it, completed where a twin is."""
    row = conn.execute("select * from task where seq = ?", (seq,)).fetchone()
    if row["run_at"] == row["retry_at"]:  # an attempt of what leads, or is the twin of none
        return [move(conn, seq, "run_at = null, retry_at = null", {})]
    found = place(conn, row["tenant"], row["content"], rules, now)
    change = """
        run_at = null, content = :content, leader = :leader,
        waiting = iif(:leader is null, waiting, :waiting),
        lined_at = :now - (select shift from line_clock)
    """
    task = move(conn, seq, change, {**found._asdict(), "now": now})
    note_leader(conn, seq, found, now)
    return [task] if found.done is None else copy(conn, seq, found.done, now)


def note_leader(conn: sqlite3.Connection, seq: int, place: Place, now: float) -> None:
    if place.leader is not None:
        timeline.note_twin(conn, seq, now, Moment(kind="follows"), place.leader)


def delay(conn: sqlite3.Connection, seq: int, run_at: float, now: float) -> Task:
    """By hand: until then it follows nobody, and nobody follows it."""
    conn.execute(
        """
        update chunk set state = 'waiting'
        where task = ? and number = 0 and (select leader from task where seq = task) is not null
        """,
        (seq,),
    )
    change = "run_at = :run_at, retry_at = null, waiting = iif(leader is null, waiting, 1), leader = null"
    task = move(conn, seq, change, {"run_at": run_at})
    pass_on(conn, seq, now)
    return task


def copy(conn: sqlite3.Connection, seq: int, source: int, now: float) -> Sequence[Task]:
    """Complete a task with the transcript of a completed one.

    It gives up its content: the next twin is a copy of the same source, whose age is that of the transcript.
    """
    twins.take_over(conn, seq, source)
    conn.execute("update chunk set state = 'done' where task = ? and number = 0", (seq,))
    started = "max(created_at, (select started_at from task where seq = :source))"
    adjust(conn, seq, f"content = null, started_at = {started}", {"source": source})
    timeline.note_twin(conn, seq, now, Moment(kind="copied"), source)
    return end(conn, seq, State.COMPLETED, None, now)


def end(
    conn: sqlite3.Connection,
    seq: int,
    state: Literal[State.COMPLETED, State.FAILED, State.CANCELLED],
    problem: Problem | None,
    now: float,
    *,
    tells: bool = True,
) -> Sequence[Task]:
    """The task is over; returns it, and those that are completed with it.

    Whoever holds a chunk of it has lost it; finished chunks stay, also for a retry. `tells`: who is to hear
    of ends hears of this one, and it counts.
    """
    conn.execute(
        "update chunk set state = 'waiting', beat_at = null where task = ? and state = 'running'", (seq,)
    )
    change = """
        state = :state, waiting = 0, running = 0, run_at = null, retry_at = null, leader = null,
        finished_at = :now, progress = iif(:state = 'completed', 1.0, progress),
        error_code = :code, error_message = :message
    """
    code, message = (problem.code, problem.message) if problem else (None, None)
    task = move(conn, seq, change, {"state": state, "now": now, "code": code, "message": message})
    if tells:
        outbox.tell(conn, task)
        usage.count(conn, seq)
    if task.kind is Kind.TRANSCRIPTION:
        detections.let_go(conn, task)
    if state is State.COMPLETED:
        return [task, *(twin for other in twins.followers(conn, seq) for twin in copy(conn, other, seq, now))]
    pass_on(conn, seq, now)
    return [task]


def pass_on(conn: sqlite3.Connection, seq: int, now: float) -> None:
    """A task leads no more: the oldest of its followers does, with all that is finished, unless another does.

    That there is another happens once the model file was replaced: see `plan` in holder.py.
    """
    if not (followers := twins.followers(conn, seq)):
        return
    heir = conn.execute("select * from task where seq = ?", (followers[0],)).fetchone()
    leader = twins.leader(conn, heir["tenant"], heir["content"]) or _heir(conn, heir, seq, now)
    conn.execute(
        "update task set leader = ?, waiting = ? where leader = ?", (leader["seq"], _has_more(leader), seq)
    )


def _heir(conn: sqlite3.Connection, heir: sqlite3.Row, leader: int, now: float) -> sqlite3.Row:
    """Its plan is made anew, since the decoded audio is not its own; an equal one keeps what is finished."""
    (finished,) = conn.execute("select samples_done from task where seq = ?", (leader,)).fetchone()
    timeline.note(conn, heir["seq"], now, Moment(kind="leads"))
    if finished > heir["samples_done"]:
        twins.take_over(conn, heir["seq"], leader)
    conn.execute("update chunk set state = 'waiting' where task = ? and number = 0", (heir["seq"],))
    row: sqlite3.Row = conn.execute(
        "update task set leader = null, waiting = 1 where seq = ? returning *", (heir["seq"],)
    ).fetchone()
    return row


def move(conn: sqlite3.Connection, seq: int, change: str, args: dict[str, object]) -> Task:
    row = conn.execute(
        f"update task set {change} where seq = :seq returning *", {"seq": seq, **args}
    ).fetchone()
    return to_task(row)


def adjust(conn: sqlite3.Connection, seq: int, change: str, args: dict[str, object]) -> None:
    """As `move`, where nobody asks what has become of the task."""
    conn.execute(f"update task set {change} where seq = :seq", {"seq": seq, **args})

"""The moves that anyone may make; those of who holds a chunk are in holder.py.

Each public function is one verb and one transaction; the WHERE clause is the state machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from whisperd.sql import detections, line, looks, plans, timeline, traces
from whisperd.sql.line import end, move
from whisperd.sql.questions import check_room, get
from whisperd.sql.rows import to_json, to_task
from whisperd.task import (
    Change,
    IdempotencyConflict,
    Kind,
    NewTask,
    Rules,
    State,
    Task,
    WrongState,
)
from whisperd.timeline import Moment


def submit(
    conn: sqlite3.Connection, new: NewTask, rules: Rules, keys_after: float, now: float
) -> tuple[Task, bool]:
    if first := first_of_key(conn, new, keys_after):
        return first, False
    place = _place(conn, new, rules, now)
    if place.done is None:
        check_room(conn, rules, new.tenant, new.plan, now, new.kind)
    if new.plan is not None:
        plans.remember(conn, new.tenant, new.plan)
    return _inserted(conn, new, place, now), True


def submit_chain(
    conn: sqlite3.Connection, new: NewTask, rules: Rules, keys_after: float, now: float
) -> tuple[Sequence[Task], bool]:
    """As `submit`, with the task that comes behind it, if one does: there is room for both or for neither."""
    task, created = submit(conn, new, rules, keys_after, now)
    if not created or new.then is None:
        return [task], created
    check_room(conn, rules, new.tenant, new.plan, now, new.then.kind)
    return [task, _inserted(conn, new.then, line.Place(), now)], True


def _inserted(conn: sqlite3.Connection, new: NewTask, place: line.Place, now: float) -> Task:
    columns = _columns(new, place, now)
    if new.detection is not None:
        columns |= {"waiting": 0, "ready": detections.is_ready(conn, new.transcript)}
    seq = conn.execute(_INSERT_TASK, columns).lastrowid
    assert seq is not None
    if new.detection is not None:
        detections.note(conn, seq, new, new.detection)
    else:
        conn.execute("insert into chunk (task, number) values (?, 0)", (seq,))
    if new.trace is not None:
        traces.note(conn, seq, new.trace)
    if new.idempotency_key:
        key = (new.tenant, new.idempotency_key, new.body_sha256, seq, now)
        conn.execute("insert or replace into idempotency values (?, ?, ?, ?, ?)", key)
    if place.done is not None:
        return line.copy(conn, seq, place.done, now)[0]
    line.note_leader(conn, seq, place, now)
    return _queued(new, seq, columns["run_at"], now)


def _queued(new: NewTask, seq: int, run_at: float | None, now: float) -> Task:
    """What its row says. Asked for by `returning *` it took a quarter of the submit."""
    return Task(
        seq=seq,
        id=new.id,
        kind=new.kind,
        state=State.QUEUED,
        priority=new.priority,
        tenant=new.tenant,
        model=new.model,
        options=new.options,
        audio=new.audio,
        attempt=1,
        max_retries=new.max_retries,
        timeout_seconds=new.timeout_seconds,
        created_at=now,
        run_at=run_at,
        started_at=None,
        finished_at=None,
        progress=0.0,
        language=None,
        language_probability=None,
        warnings=(),
        error=None,
        metadata=new.metadata,
        callback_url=new.callback_url,
        result_url=new.result_url,
        transcript=new.transcript,
        redact=new.redact,
    )


def _place(conn: sqlite3.Connection, new: NewTask, rules: Rules, now: float) -> line.Place:
    if new.run_at is not None and new.run_at > now:
        return line.Place(new.content)  # its twins are looked for when it comes into line
    return line.place(conn, new.tenant, new.content, rules, now)


_INSERT_TASK = """
    insert into task (
      id, kind, priority, tenant, model, options, audio_name, audio_size, audio_sha256,
      max_retries, timeout_seconds, created_at, run_at, lined_at, metadata, callback_url,
      result_url, content, leader, waiting, transcript, ready, redact
    ) values (
      :id, :kind, :priority, :tenant, :model, :options, :audio_name, :audio_size, :audio_sha256,
      :max_retries, :timeout_seconds, :created_at, :run_at, :created_at - (select shift from line_clock),
      :metadata, :callback_url, :result_url, :content, :leader, :waiting, :transcript, :ready, :redact
    )
"""


def _columns(new: NewTask, place: line.Place, now: float) -> dict[str, Any]:
    return {
        "id": new.id,
        "kind": new.kind,
        "priority": new.priority,
        "tenant": new.tenant,
        "model": new.model,
        "options": to_json(new.options),
        "audio_name": new.audio.name,
        "audio_size": new.audio.size,
        "audio_sha256": new.audio.sha256,
        "max_retries": new.max_retries,
        "timeout_seconds": new.timeout_seconds,
        "created_at": now,
        "run_at": new.run_at if new.run_at and new.run_at > now else None,
        "metadata": to_json(new.metadata),
        "callback_url": new.callback_url,
        "result_url": new.result_url,
        "content": place.content,
        "leader": place.leader,
        "waiting": place.waiting,
        "transcript": new.transcript,
        "ready": None,
        "redact": new.redact,
    }


def first_of_key(conn: sqlite3.Connection, new: NewTask, not_before: float) -> Task | None:
    """The task that came with its key before, and is kept. Raises IdempotencyConflict."""
    if not new.idempotency_key:
        return None
    row = conn.execute(
        """
        select task.*, idempotency.body_sha256 from idempotency join task on task.seq = idempotency.task
        where idempotency.tenant = ? and key = ? and idempotency.created_at >= ?
        """,
        (new.tenant, new.idempotency_key, not_before),
    ).fetchone()
    if row is None:
        return None
    if row["body_sha256"] != new.body_sha256:
        raise IdempotencyConflict("this idempotency key was used with another body")
    return to_task(row)


def change(
    conn: sqlite3.Connection, task_id: str, change: Change, rules: Rules, now: float
) -> Sequence[Task]:
    row = conn.execute(
        "select seq, run_at, retry_at from task where id = ? and state = 'queued'", (task_id,)
    ).fetchone()
    if row is None:
        _refuse(conn, task_id, "changed")
    task = move(
        conn,
        row["seq"],
        "priority = coalesce(:priority, priority), metadata = coalesce(:metadata, metadata)",
        {
            "priority": change.priority,
            "metadata": None if change.metadata is None else to_json(change.metadata),
        },
    )
    if change.priority is not None or change.run_at is not None:
        changed = Moment(kind="changed", priority=change.priority, run_at=change.run_at)
        timeline.note(conn, row["seq"], now, changed)
    if change.run_at is None:
        return [task]
    if change.run_at > now:
        return [line.delay(conn, row["seq"], change.run_at, now)]
    return line.enter(conn, row["seq"], rules, now)


def cancel(conn: sqlite3.Connection, task_id: str, now: float) -> Sequence[Task]:
    row = conn.execute(
        "select seq from task where id = ? and state in ('queued', 'processing')", (task_id,)
    ).fetchone()
    if row is None:
        _refuse(conn, task_id, "cancelled")
    return end(conn, row["seq"], State.CANCELLED, None, now)


def retry(
    conn: sqlite3.Connection, task_id: str, plan: str | None, rules: Rules, now: float
) -> Sequence[Task]:
    row = conn.execute(
        "select seq, kind, tenant, content from task where id = ? and state in ('failed', 'cancelled')",
        (task_id,),
    ).fetchone()
    if row is None:
        _refuse(conn, task_id, "retried")
    place = line.place(conn, row["tenant"], row["content"], rules, now)
    if place.done is None:
        check_room(conn, rules, row["tenant"], plan, now, Kind(row["kind"]))
    task = _again(conn, row["seq"], place, now)
    if task.kind is Kind.RISK_DETECTION:
        return [looks.again(conn, task)]
    line.note_leader(conn, row["seq"], place, now)
    left = looks.left_without(conn, task)
    waiting = [looks.again(conn, _again(conn, seq, line.Place(), now)) for seq in left]
    moved = [task] if place.done is None else line.copy(conn, row["seq"], place.done, now)
    return [*moved, *waiting]


def _again(conn: sqlite3.Connection, seq: int, place: line.Place, now: float) -> Task:
    timeline.note_run(conn, seq)
    timeline.note(conn, seq, now, Moment(kind="retried"))
    # The plan is made again, since the decoded audio is gone; an equal one keeps the finished chunks.
    conn.execute("update chunk set failures = 0 where task = ?", (seq,))
    conn.execute("update chunk set state = 'waiting' where task = ? and number = 0", (seq,))
    change = """
        state = 'queued', attempt = 1, progress = 0, compute_seconds = 0,
        finished_at = null, started_at = null,
        error_code = null, error_message = null, content = :content, leader = :leader, waiting = :waiting,
        lined_at = :now - (select shift from line_clock)
    """
    return move(conn, seq, change, {**place._asdict(), "now": now})


def _refuse(conn: sqlite3.Connection, task_id: str, verb: str) -> NoReturn:
    raise WrongState(f"task {task_id} is {get(conn, task_id).state}: it cannot be {verb}")


def prune(
    conn: sqlite3.Connection, finished_before: Mapping[State, float], keys_before: float, limit: int
) -> Sequence[str]:
    conn.execute("delete from idempotency where created_at < ?", (keys_before,))
    conn.execute(_FORGET_SHARES)
    return clear(conn, finished_before, limit)


# Who has nothing to hand out, and would start no earlier than somebody new. Where nobody has anything to hand
# out, nobody is ahead of anybody.
_FORGET_SHARES = """
    delete from share where offered = 0 and (
      vtime <= (select vtime from level where priority = share.priority)
      or not exists (select 1 from share as other where priority = share.priority and offered > 0)
    )
"""


def clear(conn: sqlite3.Connection, finished_before: Mapping[State, float], limit: int) -> Sequence[str]:
    """Delete tasks of these final states that finished before the time of their state; the oldest first.

    Not those whose transcript is still to be written somewhere, or whose end is still to be told to the
    queue that hosts share: it is nowhere else.
    """
    if not finished_before:
        return []
    # A search for each state, merged: otherwise one that is kept for long is walked over for another's sake.
    search = f"select seq, finished_at from task where state = '{{}}' and finished_at < :{{}} and {_NOT_OWED}"
    old = " union all ".join(search.format(state, state) for state in sorted(finished_before))
    rows = conn.execute(
        f"""
        delete from task where seq in (select seq from ({old} order by finished_at limit :limit))
        returning id, tenant
        """,
        {**{str(state): before for state, before in finished_before.items()}, "limit": limit},
    ).fetchall()
    plans.forget(conn, (row["tenant"] for row in rows))
    return [row["id"] for row in rows]


_NOT_OWED = """
    not exists (select 1 from outbox where outbox.task = task.id and kind = 'result' and state = 'waiting')
    and not exists (select 1 from job where job.task in (task.id, task.transcript))
"""

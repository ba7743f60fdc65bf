"""The moves of who holds a chunk: each needs its claim, and raises LostClaim once somebody else has it.

Each public function is one verb and one transaction; the WHERE clause is the state machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from whisperd.sql import timeline, twins, usage
from whisperd.sql.line import adjust, end, move
from whisperd.sql.rows import to_json, to_task
from whisperd.task import (
    FINAL,
    Chunk,
    Effort,
    LostClaim,
    Plan,
    Problem,
    Segment,
    State,
    Task,
    content_of,
)
from whisperd.timeline import Moment


def beat(conn: sqlite3.Connection, chunk: Chunk, now: float) -> None:
    _own(conn, chunk, "beat_at = :now", {"now": now})


def plan(
    conn: sqlite3.Connection, chunk: Chunk, plan: Plan, effort: Effort | None, now: float
) -> Sequence[Task]:
    _own(conn, chunk, _DONE, _done(effort, now))
    warnings: Sequence[str] = plan.warnings
    if _planned_so_before(conn, chunk, plan):  # the finished chunks are kept, and what was said of them
        warnings = _with_known_warnings(conn, chunk.task.seq, warnings)
    else:
        _replace_chunks(conn, chunk.task.seq, plan)
    learnt = {**_learnt(chunk, plan), "warnings": to_json(warnings), "effort": _seconds(effort)}
    adjust(conn, chunk.task.seq, f"{_LEARNT}, {_COUNTED_ANEW}", learnt)
    if plan.peaks:
        conn.execute("insert or replace into waveform values (?, ?)", (chunk.task.seq, plan.peaks))
    return _settled(conn, chunk.task.seq, now)


_LEARNT = """
    compute_seconds = compute_seconds + :effort,
    audio_seconds = :seconds, language = :language, language_probability = :probability,
    warnings = :warnings, fingerprint = :fingerprint, heard_by = :heard_by,
    content = iif(content = :content, content, null)
"""
_COUNTED_ANEW = """
    (samples, samples_done, waiting, running) = (
      select coalesce(sum(samples), 0), coalesce(sum(samples) filter (where state = 'done'), 0),
             count(*) filter (where state = 'waiting'), count(*) filter (where state = 'running')
      from chunk where task = :seq and number > 0
    ),
    progress = (
      select max(progress, coalesce(sum(samples) filter (where state = 'done') * 1.0 / sum(samples), 0))
      from chunk where task = :seq and number > 0
    )
"""


def _learnt(chunk: Chunk, plan: Plan) -> dict[str, object]:
    return {
        "seconds": plan.duration,
        "language": plan.language,
        "probability": plan.language_probability,
        "fingerprint": plan.fingerprint,
        "heard_by": plan.heard_by,
        # Of a model that was replaced since the task came, the transcript is that of no twin to come.
        "content": content_of(chunk.task.audio.sha256, plan.model_sha256, chunk.task.options),
    }


def _planned_so_before(conn: sqlite3.Connection, chunk: Chunk, plan: Plan) -> bool:
    row = conn.execute("select fingerprint from task where seq = ?", (chunk.task.seq,)).fetchone()
    return bool(row["fingerprint"] == plan.fingerprint)


def _replace_chunks(conn: sqlite3.Connection, seq: int, plan: Plan) -> None:
    # The claims go on from those of the old chunks: what their holders own must never fit a new one.
    (claims,) = conn.execute(
        "select coalesce(max(claims), 0) from chunk where task = ? and number > 0", (seq,)
    ).fetchone()
    conn.execute("delete from chunk where task = ? and number > 0", (seq,))
    conn.executemany(
        "insert into chunk (task, number, claims, cut, samples) values (?, ?, ?, ?, ?)",
        [(seq, number, claims, to_json(cut), cut.samples) for number, cut in enumerate(plan.cuts, start=1)],
    )


def _with_known_warnings(conn: sqlite3.Connection, seq: int, more: Sequence[str]) -> Sequence[str]:
    """The task's warnings and `more`, each once, in the order in which they came."""
    (known,) = conn.execute("select warnings from task where seq = ?", (seq,)).fetchone()
    return list(dict.fromkeys([*msgspec.json.decode(known, type=list[str]), *more]))


def finish(
    conn: sqlite3.Connection,
    chunk: Chunk,
    segments: Sequence[Segment],
    warnings: Sequence[str],
    effort: Effort | None,
    now: float,
) -> Sequence[Task]:
    """Returns the task, and after it those that follow it: they are as far as it is, or completed with it."""
    done = {**_done(effort, now), "segments": to_json(segments)}
    _own(conn, chunk, f"{_DONE}, segments = :segments", done)
    samples = chunk.cut.samples if chunk.cut else 0
    change = """
        running = running - 1, compute_seconds = compute_seconds + :effort,
        samples_done = samples_done + :samples,
        progress = max(progress, (samples_done + :samples) * 1.0 / max(samples, 1))
    """
    adjust(conn, chunk.task.seq, change, {"samples": samples, "effort": _seconds(effort)})
    if warnings:
        known = to_json(_with_known_warnings(conn, chunk.task.seq, warnings))
        adjust(conn, chunk.task.seq, "warnings = :warnings", {"warnings": known})
    settled = _settled(conn, chunk.task.seq, now)
    if settled[0].state in FINAL:
        return settled
    return [*settled, *twins.go_on(conn, chunk.task.seq, settled[0].progress)]


# A chunk is finished: when, by whom and in which time.
_DONE = "state = 'done', beat_at = null, finished_at = :now, worker = :worker, seconds = :seconds"


def _done(effort: Effort | None, now: float) -> dict[str, object]:
    return {
        "now": now,
        "worker": effort and effort.worker,
        "seconds": effort and effort.seconds,
    }


def _seconds(effort: Effort | None) -> float:
    return effort.seconds if effort else 0.0


def fail(
    conn: sqlite3.Connection,
    chunk: Chunk,
    problem: Problem,
    delay: float,
    final: bool,
    effort: Effort | None,
    now: float,
) -> Sequence[Task]:
    _own(conn, chunk, "state = 'waiting', beat_at = null, failures = failures + 1", {})
    failures = _row(conn, chunk)["failures"]
    _spent(conn, chunk, effort)
    over = final or failures > chunk.task.max_retries
    timeline.note(conn, chunk.task.seq, now, _failure(chunk, problem, None if over else delay, effort))
    if over:
        return end(conn, chunk.task.seq, State.FAILED, problem, now)
    change = f"""
        {_BACK}, attempt = max(attempt, :attempt),
        run_at = iif(:delay > 0, :now + :delay, run_at), retry_at = iif(:delay > 0, :now + :delay, retry_at),
        error_code = :code, error_message = :message
    """
    args = {"number": chunk.number, "attempt": failures + 1, "delay": delay, "now": now}
    adjust(conn, chunk.task.seq, change, {**args, "code": problem.code, "message": problem.message})
    return _settled(conn, chunk.task.seq, now)


def _spent(conn: sqlite3.Connection, chunk: Chunk, effort: Effort | None) -> None:
    """Count what was in vain."""
    if effort is not None:
        change = "update task set compute_seconds = compute_seconds + ? where seq = ?"
        conn.execute(change, (effort.seconds, chunk.task.seq))


def write_off(conn: sqlite3.Connection, chunk: Chunk, effort: Effort, now: float) -> None:
    """Count the work on a chunk that was lost: with its task, or beside it where that is over, or gone."""
    row = conn.execute(
        "update task set compute_seconds = compute_seconds + ? where seq = ? returning finished_at",
        (effort.seconds, chunk.task.seq),
    ).fetchone()
    if row is None or row["finished_at"] is not None:
        over_at = now if row is None else row["finished_at"]
        usage.add(conn, chunk.task.tenant, chunk.task.model, effort.seconds, over_at)


def _failure(chunk: Chunk, problem: Problem, delay: float | None, effort: Effort | None) -> Moment:
    death = effort and effort.death
    return Moment(
        kind="worker_died" if death else "attempt_failed",
        attempt=chunk.failures + 1,
        chunk=chunk.number,
        worker=effort.worker if effort else None,
        seconds=effort.seconds if effort else None,
        code=problem.code,
        message=problem.message,
        retry_seconds=delay,
        last_words=(death and death.last_words) or None,
    )


def release(conn: sqlite3.Connection, chunk: Chunk, effort: Effort | None, now: float) -> Task:
    task = _released(conn, chunk, effort)  # first: a holder that lost it has nothing to tell
    timeline.note(conn, chunk.task.seq, now, _release(chunk, effort))
    return task


def _release(chunk: Chunk, effort: Effort | None) -> Moment:
    """Also without blame its worker may have died: of memory that others used."""
    if effort is not None and effort.death is not None:
        return _failure(chunk, effort.death.cause, None, effort)
    return Moment(
        kind="released",
        chunk=chunk.number,
        worker=effort.worker if effort else None,
        seconds=effort.seconds if effort else None,
    )


def _released(conn: sqlite3.Connection, chunk: Chunk, effort: Effort | None) -> Task:
    _own(conn, chunk, "state = 'waiting', beat_at = null", {})
    _spent(conn, chunk, effort)
    row = _row(conn, chunk)
    conn.execute(
        "update share set vtime = vtime - ? where priority = ? and tenant = ?",
        (row["charge"], row["charged_at"], chunk.task.tenant),
    )
    # Not the task's fault (shutdown, fewer workers): failures stay as they are.
    return move(
        conn,
        chunk.task.seq,
        f"{_BACK}, state = iif(running = 1, 'queued', state)",
        {"number": chunk.number},
    )


def replan(conn: sqlite3.Connection, chunk: Chunk, now: float) -> Task:
    _released(conn, chunk, None)
    timeline.note_plan(conn, chunk.task.seq)
    timeline.note(conn, chunk.task.seq, now, Moment(kind="replanned", chunk=chunk.number))
    # Unless the holder of another chunk has asked for it already: then it waits, or is being made.
    conn.execute(
        "update chunk set state = 'waiting' where task = ? and number = 0 and state = 'done'",
        (chunk.task.seq,),
    )
    waiting = "waiting = (select state = 'waiting' from chunk where task = :seq and number = 0)"
    return move(conn, chunk.task.seq, waiting, {})


# A chunk has come back. Until its task's plan is made (again) only the plan is handed out.
_BACK = """
    running = running - 1,
    waiting = waiting + (:number = 0 or (select state = 'done' from chunk where task = :seq and number = 0))
"""


def _own(conn: sqlite3.Connection, chunk: Chunk, change: str, args: dict[str, object]) -> None:
    """Apply `change` to a chunk that the caller still owns.

    Nothing of its row is returned: few ask for it, and `returning` takes longer than the update itself.
    """
    owned = conn.execute(
        f"""
        update chunk set {change}
        where task = :seq and number = :number and state = 'running' and claims = :claims
        """,
        {"seq": chunk.task.seq, "number": chunk.number, "claims": chunk.claims, **args},
    ).rowcount
    if not owned:
        raise LostClaim(str(chunk))


def _row(conn: sqlite3.Connection, chunk: Chunk) -> sqlite3.Row:
    sql = "select * from chunk where task = ? and number = ?"
    row: sqlite3.Row = conn.execute(sql, (chunk.task.seq, chunk.number)).fetchone()
    return row


def _settled(conn: sqlite3.Connection, seq: int, now: float) -> Sequence[Task]:
    """A task with no chunk left is completed; one whose next chunk must wait is queued again."""
    row = conn.execute("select * from task where seq = ?", (seq,)).fetchone()
    if row["waiting"] + row["running"] == 0:
        return end(conn, seq, State.COMPLETED, None, now)
    if row["running"] == 0 and row["run_at"] is not None:
        return [move(conn, seq, "state = 'queued'", {})]
    return [to_task(row)]

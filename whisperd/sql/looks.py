"""The moves of who looks: each needs its claim, and raises LostClaim once the task is over or taken anew.

Each public function is one verb and one transaction; the WHERE clause is the state machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec

from whisperd.look import (
    CLOSE,
    MISSING,
    NO_TRANSCRIPT,
    Ended,
    Kept,
    Look,
    Outcome,
    Said,
    Seen,
    Sighting,
    Standing,
)
from whisperd.sql import damage, edits, outbox, questions, timeline
from whisperd.sql.detections import is_ready
from whisperd.sql.line import adjust, end, move
from whisperd.sql.rows import to_task
from whisperd.task import (
    START,
    Detection,
    Kind,
    LostClaim,
    Problem,
    Segment,
    State,
    Task,
    TaskNotFound,
)
from whisperd.timeline import Moment

OF_AN_ALERT = 100  # findings
NO_TENANT = ""  # before all others
MOST_HEARING = 10  # that alert of one call


def is_waiting(conn: sqlite3.Connection) -> bool:
    return _first(conn, NO_TENANT) is not None


def any_waits(conn: sqlite3.Connection) -> bool:
    """For its turn, or for its transcript."""
    return questions.waiting(conn, Kind.RISK_DETECTION) > 0


def claim(conn: sqlite3.Connection, now: float, after: str = NO_TENANT) -> Look | None:
    """The next one that may begin: of the most urgent, the oldest of the tenant that comes behind `after`."""
    begun = "state = 'processing', started_at = coalesce(started_at, :now)"
    claim = f"update detection set claims = claims + 1 where task = ? returning {_ASKED}"
    while (seq := _first(conn, after)) is not None:
        task, _ = damage.read_or_fail(conn, seq, now, partial(move, conn, seq, begun, {"now": now}))
        if task is not None:
            return _look(task, conn.execute(claim, (seq,)).fetchone())
    return None


_ASKED = "claims, asked, (select source from rules where sha256 = detection.rules) as source"


def _look(task: Task, row: sqlite3.Row) -> Look:
    return Look(task=task, claims=row["claims"], wanted=row["asked"], rules=row["source"])


def _first(conn: sqlite3.Connection, after: str) -> int | None:
    ready = "from task indexed by task_detection where ready = 1 and state = 'queued'"
    best = conn.execute(f"select priority {ready} order by priority desc limit 1").fetchone()
    if best is None:
        return None
    of_tenant = f"select seq {ready} and priority = ? and tenant > ? order by tenant, seq limit 1"
    for tenant in (after, NO_TENANT):  # behind the last one there is the first
        if row := conn.execute(of_tenant, (best["priority"], tenant)).fetchone():
            return int(row["seq"])
    return None


def said(conn: sqlite3.Connection, look: Look) -> Said | None:
    """What it has to look through: a transcript as it was corrected, by time, as it is shown.

    As it was before, where other hosts will show it: none of them has that correction.
    None where there is no transcript: its task failed, was cancelled, or is gone.
    """
    (sent,) = conn.execute(_SENT, (look.task.seq,)).fetchone()
    if sent is not None:
        return Said(None, msgspec.json.decode(sent, type=tuple[Segment, ...]))
    assert look.task.transcript is not None
    try:
        transcription = questions.get(conn, look.task.transcript)
    except TaskNotFound:
        return None
    if transcription.state is not State.COMPLETED:
        return None
    is_shared = conn.execute("select 1 from job where task = ?", (transcription.id,)).fetchone()
    if not is_shared and (edit := edits.find(conn, transcription.id)):
        return Said(transcription, edit.segments, edit.token)
    marked = questions.segments(conn, transcription.id, START)
    by_time = sorted((segment for _, segment in marked), key=lambda segment: segment.start)
    return Said(transcription, tuple(by_time))


_SENT = "select segments from detection where task = ?"


def finish(
    conn: sqlite3.Connection, look: Look, outcome: Outcome, seconds: float, now: float
) -> tuple[Sequence[Task], Sequence[Sighting]]:
    """Write down what was found. `seconds`: that it took. Returns what nobody was told of before, too.

    Of a transcript that is gone by now nothing is: it would be quoted.
    """
    _own(conn, look)
    if _is_gone(conn, look.task):
        _spent(conn, look.task.seq, seconds)
        return _failed(conn, look.task, MISSING, True, seconds, now), []
    found = {"report": outcome.report, "edit": outcome.edit, "task": look.task.seq}
    conn.execute("update detection set report = :report, edit = :edit where task = :task", found)
    conn.execute(_HIDDEN, found)
    news = _news(conn, look, outcome.sightings, 0.0 if outcome.edit is None else CLOSE)
    _alert(conn, look, news, now)
    _spent(conn, look.task.seq, seconds)
    return end(conn, look.task.seq, State.COMPLETED, None, now), news


_HIDDEN = """
    insert or replace into hidden values (:task, :edit, json_extract(:report, '$.places', '$.rules_errors'))
"""


def tell(
    conn: sqlite3.Connection, look: Look, sightings: Sequence[Sighting], now: float
) -> Sequence[Sighting]:
    """Alert of what is found while the call goes on, each once; returns what is news."""
    waits = "select 1 from task where seq = ? and state = 'queued'"
    if conn.execute(waits, (look.task.seq,)).fetchone() is None or _is_gone(conn, look.task):
        return []
    news = _news(conn, look, sightings)
    rows = [(look.task.seq, one.rule, one.speaker, one.begin, one.past) for one in news]
    conn.executemany("insert or ignore into told values (?, ?, ?, ?, ?)", rows)
    _alert(conn, look, news, now)
    return news


def hearing(conn: sqlite3.Connection, transcription_id: str) -> Sequence[Look]:
    """What waits for this transcript, and is to alert before it is whole.

    Not what redacts: by its first half a number is not known to be one, and findings quote what is near.
    """
    rows = conn.execute(
        f"""
        select task.*, {_ASKED} from task indexed by task_transcript join detection on detection.task = seq
        where transcript = ? and state = 'queued' and ready = 0
          and json_extract(asked, '$.alert_url') is not null
          and json_extract(asked, '$.redact') is null
        order by seq limit {MOST_HEARING}
        """,
        (transcription_id,),
    ).fetchall()
    return [_look(to_task(row), row) for row in rows]


def heard(conn: sqlite3.Connection, transcription_id: str) -> Sequence[Segment]:
    """What is certain of a transcript so far, by time."""
    settled = questions.settled(conn, transcription_id)
    marked = questions.segments(conn, transcription_id, START)
    return sorted((one for _, one in marked if one.start < settled), key=lambda segment: segment.start)


def _news(
    conn: sqlite3.Connection, look: Look, sightings: Sequence[Sighting], slack: float = 0.0
) -> Sequence[Sighting]:
    known: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in conn.execute("select rule, speaker, begin, past from told where task = ?", (look.task.seq,)):
        known.setdefault((row["rule"], row["speaker"]), []).append((row["begin"], row["past"]))
    return [
        one
        for one in sightings
        if not any(one.is_at(*place, slack) for place in known.get((one.rule, one.speaker), ()))
    ]


def _alert(conn: sqlite3.Connection, look: Look, news: Sequence[Sighting], now: float) -> None:
    loud = [one for one in news if one.loud]
    if look.asked.alert_url is not None:
        for first in range(0, len(loud), OF_AN_ALERT):
            outbox.alert(conn, look.task, look.asked.alert_url, loud[first : first + OF_AN_ALERT], now)


def fail(
    conn: sqlite3.Connection, look: Look, problem: Problem, final: bool, seconds: float, now: float
) -> Sequence[Task]:
    """Count a failure: it is looked through again, or the task has failed.

    That there is no transcript is no failure where its task was retried meanwhile, or is completed by now.
    """
    _own(conn, look)
    _spent(conn, look.task.seq, seconds)
    if problem.code == NO_TRANSCRIPT and _may_come(conn, look.task.transcript):
        change = "state = 'queued', ready = :ready"
        return [move(conn, look.task.seq, change, {"ready": is_ready(conn, look.task.transcript)})]
    return _failed(conn, look.task, problem, final, seconds, now)


def _may_come(conn: sqlite3.Connection, transcript: str | None) -> bool:
    """Whether there is a transcript, or will be."""
    sql = "select 1 from task where id = ? and state in ('queued', 'processing', 'completed')"
    return conn.execute(sql, (transcript,)).fetchone() is not None


def _is_gone(conn: sqlite3.Connection, look: Task) -> bool:
    """Whether its transcript is not kept any more; one that was sent with it is none of this host's."""
    sql = "select 1 from task where id = ?"
    return (
        look.transcript is not None
        and conn.execute(sql, (look.transcript,)).fetchone() is None
        and conn.execute(_SENT, (look.seq,)).fetchone()["segments"] is None
    )


def interrupt(conn: sqlite3.Connection, problem: Problem, now: float) -> None:
    """At a start: what a dead daemon was looking through counts as a failure, as a chunk does."""
    begun = "select seq from task where kind = 'risk_detection' and state = 'processing'"
    for (seq,) in conn.execute(begun).fetchall():
        damage.read_or_fail(conn, seq, now, partial(_interrupted, conn, seq, problem, now))


def _interrupted(conn: sqlite3.Connection, seq: int, problem: Problem, now: float) -> None:
    task = to_task(conn.execute("select * from task where seq = ?", (seq,)).fetchone())
    _failed(conn, task, problem, False, None, now)


def _failed(
    conn: sqlite3.Connection, task: Task, problem: Problem, final: bool, seconds: float | None, now: float
) -> Sequence[Task]:
    (failures,) = conn.execute(
        "update detection set failures = failures + 1 where task = ? returning failures", (task.seq,)
    ).fetchone()
    over = final or failures > task.max_retries
    moment = Moment(
        kind="attempt_failed", attempt=failures, code=problem.code, message=problem.message, seconds=seconds
    )
    timeline.note(conn, task.seq, now, moment)
    if over:
        return end(conn, task.seq, State.FAILED, problem, now)
    change = "state = 'queued', attempt = :attempt, error_code = :code, error_message = :message"
    args = {"attempt": failures + 1, "code": problem.code, "message": problem.message}
    return [move(conn, task.seq, change, args)]


def release(conn: sqlite3.Connection, look: Look) -> Sequence[Task]:
    """Hand it back unfinished, without blame."""
    _own(conn, look)
    return [move(conn, look.task.seq, "state = 'queued'", {})]


def again(conn: sqlite3.Connection, task: Task) -> Task:
    """A task that failed or was cancelled is back in line: in its own, and for a look from the start."""
    conn.execute("update detection set failures = 0, report = null where task = ?", (task.seq,))
    conn.execute("delete from hidden where task = ?", (task.seq,))
    ready = is_ready(conn, task.transcript)
    return move(conn, task.seq, "waiting = 0, ready = :ready", {"ready": ready})


def left_without(conn: sqlite3.Connection, transcription: Task) -> Sequence[int]:
    """Its task runs again: whatever was to look through this transcript, and has not, waits for the next one.

    Returns the seqs of those that found none, and are to be queued again.
    """
    waits = "update task set ready = 0 where transcript = ? and state = 'queued'"
    conn.execute(waits, (transcription.id,))
    rows = conn.execute(
        """
        select seq from task indexed by task_transcript
        where transcript = ? and state = 'failed' and error_code = ?
        """,
        (transcription.id, NO_TRANSCRIPT),
    ).fetchall()
    return [row["seq"] for row in rows]


def first(conn: sqlite3.Connection, transcription_id: str) -> Task:
    """The one that was queued with this transcription, in one transaction. Raises TaskNotFound."""
    row = conn.execute(
        """
        select * from task where transcript = :id and seq = (select seq + 1 from task where id = :id)
        """,
        {"id": transcription_id},
    ).fetchone()
    if row is None:
        raise TaskNotFound(f"nothing looks through task {transcription_id}")
    return to_task(row)


def ended(conn: sqlite3.Connection, task: Task) -> Ended | None:
    """This one, or that which came with this transcription; None: there is none, or it is not over."""
    row = conn.execute(
        """
        select task.*, asked, rules, report, edit from task join detection on detection.task = seq
        where seq = :seq and :id in (id, transcript) and finished_at is not null
        """,
        {"id": task.id, "seq": task.seq + (task.kind is Kind.TRANSCRIPTION)},
    ).fetchone()
    if row is None:
        return None
    return Ended(
        task=to_task(row),
        asked=msgspec.json.decode(row["asked"], type=Detection),
        rules=row["rules"],
        report=row["report"],
        edit=row["edit"],
    )


def kept(conn: sqlite3.Connection, task_id: str) -> Kept | None:
    """What a completed task of risk detection found."""
    return _kept(conn, "task.id = ? and task.state = 'completed'", task_id)


def newest(conn: sqlite3.Connection, transcription_id: str) -> Kept | None:
    """Of those that have looked through a transcript, the one that was submitted last."""
    seq = """
        task.seq = (
          select max(seq) from task indexed by task_transcript where transcript = ? and state = 'completed'
        )
    """
    return _kept(conn, seq, transcription_id)


def redaction(conn: sqlite3.Connection, transcription: Task, edit: str | None) -> Sequence[Seen]:
    """All that were to look through a transcript, in order of submission.

    `edit`: the token of the correction that it is about. Where the first one is not kept any more none is.
    """
    rows = conn.execute(
        """
        select seq, asked, rules, iif(state = 'completed' and hidden.edit is :edit, what, null) as hidden
        from task indexed by task_transcript
          join detection on detection.task = seq left join hidden on hidden.task = seq
        where transcript = :id
        """,
        {"id": transcription.id, "edit": edit},
    )
    first = transcription.seq + 1  # queued in one transaction with it; no seq is ever given twice
    return [
        Seen(
            asked=msgspec.json.decode(row["asked"], type=Detection),
            rules=row["rules"],
            is_first=row["seq"] == first,
            hidden=row["hidden"],
        )
        for row in sorted(rows, key=lambda row: row["seq"])
    ]


def is_awaited(conn: sqlite3.Connection, transcription_id: str) -> bool:
    """Whether a look through this transcript is not over."""
    sql = "select 1 from task where transcript = ? and state in ('queued', 'processing')"
    return conn.execute(sql, (transcription_id,)).fetchone() is not None


def standing(conn: sqlite3.Connection, transcription_id: str) -> Standing | None:
    """Whether one look through this transcript is completed, or else one is to come."""
    sql = "select distinct state from task indexed by task_transcript where transcript = ?"
    states = {row["state"] for row in conn.execute(sql, (transcription_id,))}
    if State.COMPLETED in states:
        return "completed"
    return "awaited" if states & {State.QUEUED, State.PROCESSING} else None


def _kept(conn: sqlite3.Connection, which: str, key: str) -> Kept | None:
    row = conn.execute(
        f"select task.*, report, edit from task join detection on task = seq where {which}", (key,)
    ).fetchone()
    return row and Kept(to_task(row), row["report"], row["edit"])


def _own(conn: sqlite3.Connection, look: Look) -> None:
    """Raises LostClaim unless the caller still owns it."""
    owned = conn.execute(
        """
        select 1 from detection join task on task.seq = detection.task
        where detection.task = ? and claims = ? and state = 'processing'
        """,
        (look.task.seq, look.claims),
    ).fetchone()
    if owned is None:
        raise LostClaim(str(look))


def _spent(conn: sqlite3.Connection, seq: int, seconds: float) -> None:
    adjust(conn, seq, "compute_seconds = compute_seconds + :seconds", {"seconds": seconds})

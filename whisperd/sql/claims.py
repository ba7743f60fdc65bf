"""The claim: whose turn it is, and which chunk of which task is next.

The highest priority first. Within it the tenant that had the least audio for its weight, start-time fair
queueing (Goyal, Vin, Cheng 1996, https://doi.org/10.1109/90.649569); within the tenant what has waited too
long, then the newest or the oldest, or one near it with the model that the claimant has loaded. Costs a few
index searches however many tasks and tenants wait: those passed over are at their limit with all that they
have started in work, so there are no more of them than workers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from whisperd.sql import damage, line, timeline
from whisperd.sql.rows import UNREADABLE, Damaged, blame, to_chunk, to_json
from whisperd.task import FINAL, PLAN, SAMPLE_RATE, Chunk, Claimant, Left, Rules, State, Task
from whisperd.timeline import Moment

CLOCK_CHECK = 60.0  # seconds; a claim looks at least this often, since clocks may be set
MOST_DUE = 500  # tasks whose twins are looked for in one transaction, which others wait for
NEAR = 16  # tasks of a line are looked at for one with a claimant's model
GIVE_WAY = 0.05  # seconds in which another may take what suits it better
NOBODY = Claimant()
PLAN_SECONDS = 1.0  # what a plan counts in a share: else silence without end would cost its tenant nothing


class _Turn(NamedTuple):
    priority: int
    tenant: str
    states: Sequence[str]  # of the tasks that may be handed out
    vtime: float
    weight: float


def take(
    conn: sqlite3.Connection, rules: Rules, now: float, who: Claimant = NOBODY
) -> tuple[Chunk | float, Sequence[Task]]:
    """What `claim` finds once all that is due has come into line; and the tasks that this completed.

    While there is more that is due, 0 seconds: come again at once, in a transaction of its own. So too where
    the task whose turn it is cannot be read: it has failed, else it would stand before all others for ever.
    """
    entered, more = _promote(conn, rules, now)
    try:
        found = 0.0 if more else claim(conn, rules, now, who)
    except Damaged as damaged:
        found, entered = 0.0, [*entered, *damage.fail(conn, damaged.seq, now)]
    return found, [task for task in entered if task.state in FINAL]


def claim(conn: sqlite3.Connection, rules: Rules, now: float, who: Claimant = NOBODY) -> Chunk | float:
    """The next chunk of the task whose turn it is; or the seconds until there may be one. Raises Damaged."""
    turn = _whose_turn(conn, rules)
    if turn is None:
        return _until_due(conn, now)
    next_task = _next_task(conn, turn, rules, now, who)
    if next_task is None:
        return GIVE_WAY
    found, samples = _looked_up(conn, next_task)
    seq, number = found.task.seq, found.number
    if found.task.state is State.QUEUED and found.task.started_at is not None:
        timeline.note(conn, seq, now, Moment(kind="resumed"))
    if who.left is not None and who.left.seq != seq:
        _note_overtaking(conn, who.left, turn.priority, now)
    charge = (PLAN_SECONDS if number == PLAN else samples / SAMPLE_RATE) / turn.weight
    conn.execute(_CLAIM_CHUNK, (now, charge, turn.priority, seq, number))
    conn.execute(_CLAIM_TASK, (now, seq))
    _charge(conn, turn, charge, rules)
    return _claimed(found, now)


_NEXT_CHUNK = """
    select number, claims, failures, beat_at, samples, cut from chunk
    where task = :seq and number = (select min(number) from chunk where task = :seq and state = 'waiting')
"""
_CLAIM_CHUNK = """
    update chunk set
      state = 'running', claims = claims + 1, beat_at = ?, charge = ?, charged_at = ?
    where task = ? and number = ?
"""
_CLAIM_TASK = """
    update task set
      state = 'processing', waiting = waiting - 1, running = running + 1,
      started_at = coalesce(started_at, ?)
    where seq = ?
"""


def _claimed(was: Chunk, now: float) -> Chunk:
    """As it is now. Asked of the updates (`returning *`), that would make a table for each of them."""
    started_at = now if was.task.started_at is None else was.task.started_at
    task = replace(was.task, state=State.PROCESSING, started_at=started_at)
    return replace(was, task=task, claims=was.claims + 1, claimed_at=now)


def next_model(conn: sqlite3.Connection, rules: Rules, now: float) -> str | float:
    """The model of the task whose chunk is claimed next; or the seconds until there may be one."""
    turn = _whose_turn(conn, rules)
    if turn is not None:
        seq = _next_task(conn, turn, rules, now, NOBODY)
        assert seq is not None  # nobody has a model that would suit another better
        return _any_model(conn, seq)
    due = "select seq from task where run_at is not null and run_at <= ? order by run_at limit 1"
    found = conn.execute(due, (now,)).fetchone()
    return _until_due(conn, now) if found is None else _any_model(conn, found[0])


def _until_due(conn: sqlite3.Connection, now: float) -> float:
    (next_at,) = conn.execute("select min(run_at) from task where run_at is not null").fetchone()
    return CLOCK_CHECK if next_at is None else min(CLOCK_CHECK, float(next_at) - now)


def _looked_up(conn: sqlite3.Connection, next_task: int) -> tuple[Chunk, int]:
    """The chunk to hand out, and its samples: who follows a twin stands in line for it. Raises Damaged."""
    leader = "(select coalesce(leader, seq) from task where seq = ?)"
    try:
        task = conn.execute(f"select * from task where seq = {leader}", (next_task,)).fetchone()
        chunk = conn.execute(_NEXT_CHUNK, {"seq": task["seq"]}).fetchone()
        return to_chunk(task, chunk), chunk["samples"]
    except UNREADABLE as error:
        blame(conn.execute(f"select {leader}", (next_task,)).fetchone()[0], error)


def _note_overtaking(conn: sqlite3.Connection, left: Left, priority: int, now: float) -> None:
    """Of a task that had more to hand out. By whom is not told: that may be another tenant's."""
    more = "select 1 from task where seq = ? and waiting > 0 and run_at is null"
    if conn.execute(more, (left.seq,)).fetchone():
        overtaken = Moment(kind="overtaken", worker=left.worker, priority=priority)
        timeline.note(conn, left.seq, now, overtaken)


def _promote(conn: sqlite3.Connection, rules: Rules, now: float) -> tuple[Sequence[Task], bool]:
    """Put into line what was delayed until now, up to MOST_DUE; whether there may be more that is due.

    Returns those that may be twins of others. What waited for its next attempt is as old as before.
    """
    due = conn.execute(
        """
        select seq, content is not null and retry_at is null as shares from task
        where run_at is not null and run_at <= ? order by run_at limit ?
        """,
        (now, MOST_DUE),
    ).fetchall()
    if not due:
        return [], False
    conn.execute(
        """
        update task set
          run_at = null, retry_at = null,
          lined_at = iif(retry_at is null, :now - (select shift from line_clock), lined_at)
        where seq in (select value from json_each(:due)) and (content is null or retry_at is not null)
        """,
        {"now": now, "due": to_json([row["seq"] for row in due])},
    )
    entered: list[Task] = []
    for seq in (row["seq"] for row in due if row["shares"]):
        found, failed = damage.read_or_fail(conn, seq, now, partial(line.enter, conn, seq, rules, now))
        entered.append((found or failed)[0])
    return entered, len(due) == MOST_DUE


def _whose_turn(conn: sqlite3.Connection, rules: Rules) -> _Turn | None:
    full: dict[str, bool] = {}  # a tenant may stand at many priorities
    rows = conn.execute(
        """
        select priority, tenant, offered, started, vtime, plan
        from share left join tenant on tenant.name = share.tenant
        where offered > 0 order by priority desc, vtime, tenant
        """
    )
    for priority, tenant, offered, started, vtime, plan in rows:  # read one by one: the first will mostly do
        limits = rules.limits(tenant, plan)
        states = ["processing"] if started else []
        if offered > started:
            if tenant not in full:
                full[tenant] = _at_limit(conn, tenant, limits.concurrent)
            if not full[tenant]:
                states.append("queued")
        if states:
            return _Turn(priority, tenant, states, vtime, limits.weight)
    return None


def _at_limit(conn: sqlite3.Connection, tenant: str, limit: int) -> bool:
    """What is started goes on; a tenant at its limit starts nothing more."""
    sql = "select sum(n) >= ? from tally where state = 'processing' and delayed = 0 and tenant = ?"
    return limit > 0 and bool(conn.execute(sql, (limit, tenant)).fetchone()[0])


def _next_task(conn: sqlite3.Connection, turn: _Turn, rules: Rules, now: float, who: Claimant) -> int | None:
    """None: somebody else who asks has the model of the first, and shall have it."""
    best = "min" if rules.order == "fifo" else "max"
    # With fifo the oldest are next as it is.
    too_long = best == "max" and _waited_too_long(conn, turn, rules.max_wait_seconds, now)
    if too_long:
        return min(too_long)[1]
    first = _best(best, _by_seq(conn, turn, best))
    if who.model is None:
        return first
    model = _model(conn, first)
    if model == who.model:
        return first
    near = _near(conn, turn, best, who.model) if who.stays else []
    if near:
        return _best(best, near)
    return None if model in who.elsewhere else first


def _model(conn: sqlite3.Connection, seq: int) -> str:
    try:
        (model,) = conn.execute("select model from task where seq = ?", (seq,)).fetchone()
    except UNREADABLE as error:
        blame(seq, error)
    return str(model)


def _any_model(conn: sqlite3.Connection, seq: int) -> str:
    """ "" where it cannot be read, which whoever claims it finds out."""
    with suppress(Damaged):
        return _model(conn, seq)
    return ""


def _best(best: str, seqs: Sequence[int]) -> int:
    return min(seqs) if best == "min" else max(seqs)


_IN_LINE = "task where tenant = ? and priority = ? and state = ? and waiting > 0 and run_at is null"


def _by_seq(conn: sqlite3.Connection, turn: _Turn, best: str) -> Sequence[int]:
    """The first or last submitted of each state."""
    sql = f"select {best}(seq) from {_IN_LINE}"
    return [conn.execute(sql, (turn.tenant, turn.priority, state)).fetchone()[0] for state in turn.states]


def _near(conn: sqlite3.Connection, turn: _Turn, best: str, model: str) -> Sequence[int]:
    """As `_by_seq`, of this model, as far as there is one among the first in line."""
    first = (
        f"select seq, model from {_IN_LINE} order by seq {'asc' if best == 'min' else 'desc'} limit {NEAR}"
    )
    sql = f"select {best}(seq) from ({first}) where model = ?"
    found = [
        conn.execute(sql, (turn.tenant, turn.priority, state, model)).fetchone()[0] for state in turn.states
    ]
    return [seq for seq in found if seq is not None]


def _waited_too_long(
    conn: sqlite3.Connection, turn: _Turn, seconds: float, now: float
) -> Sequence[tuple[float, int]]:
    """Of each state what has waited longest, if longer than `seconds`: since when, and which."""
    if not seconds:
        return []
    sql = f"""
        select lined_at, seq from {_IN_LINE} and lined_at < ? - (select shift from line_clock)
        order by lined_at, seq limit 1
    """
    found = [
        conn.execute(sql, (turn.tenant, turn.priority, state, now - seconds)).fetchone()
        for state in turn.states
    ]
    return [(row[0], row[1]) for row in found if row]


def _charge(conn: sqlite3.Connection, turn: _Turn, charge: float, rules: Rules) -> None:
    """The tenant's share grows, and the level to which tenants come rises to it.

    To half a chunk, as the heaviest tenant would pay for it, above where this one was: who comes now is next
    before it, and yet each that comes and is served lifts the level, so that no stream of new ones can keep
    this one waiting.
    """
    conn.execute(
        "update share set vtime = vtime + ? where priority = ? and tenant = ?",
        (charge, turn.priority, turn.tenant),
    )
    risen = turn.vtime + charge * turn.weight / rules.heaviest / 2
    conn.execute(
        "insert into level values (?, ?) on conflict do update set vtime = max(vtime, excluded.vtime)",
        (turn.priority, risen),
    )

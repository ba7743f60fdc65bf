"""The hot queries stay cheap: searches of an index, no walk over all tasks or chunks, no sort in the claim.

Every statement is explained with its parameters as parameters, as the functions themselves send it: spelled
out, as a trace callback would show them, some would fit a partial index that the real statement does not.
"""

import re
import sqlite3
from contextlib import closing, suppress

import pytest
from msgspec import Raw

from tests.conftest import a_task
from whisperd.db import migrate
from whisperd.delivery import DeliveryQuery, DeliveryState
from whisperd.look import Outcome, Sighting
from whisperd.sql import (
    claims,
    holder,
    looks,
    moves,
    outbox,
    questions,
    rescue,
    search,
    standing,
    traces,
    usage,
)
from whisperd.task import (
    Change,
    Cut,
    Detection,
    Kind,
    Limits,
    ListQuery,
    Mark,
    Piece,
    Plan,
    Problem,
    Rules,
    Segment,
    State,
    TaskNotFound,
)
from whisperd.usage import UsageQuery

NOW = 1_000_000.0
LATER = NOW + Rules().max_wait_seconds
OFFERED = "(tenant=? AND priority=? AND state=?"
RETENTION = {State.COMPLETED: 500.0, State.CANCELLED: 500.0, State.FAILED: 200.0}
SHARED = Rules(cache_seconds=NOW)
OFTEN = a_task(model_sha256="m", tenant="tenant1")  # a twin of a third of all tasks
SPEND = 50  # SQLite's steps between two ticks of the meter


class Explained(sqlite3.Connection):
    """A connection that explains whatever it is asked."""

    plans = None

    def execute(self, sql, args=()):
        if self.plans is not None:
            plan = super().execute(f"explain query plan {sql}", args).fetchall()
            self.plans.append((" ".join(sql.split()), [row["detail"] for row in plan]))
        return super().execute(sql, args)


def a_database(tasks, *, analyzed=False, path=":memory:"):
    """A third in line, a third delayed, a third over, of three tenants, at ten priorities, in that order."""
    conn = sqlite3.connect(path, isolation_level=None, factory=Explained)
    conn.row_factory = sqlite3.Row
    conn.execute("pragma foreign_keys = on")
    migrate(conn)
    conn.execute(
        """
        with recursive number (n) as (select 1 union all select n + 1 from number where n < :tasks)
        insert into task (
          id, kind, state, priority, tenant, model, options, audio_name, audio_size, audio_sha256,
          waiting, max_retries, created_at, lined_at, run_at, started_at, finished_at, audio_seconds, content
        )
        select
          't' || n, 'transcription',
          case n % 6 when 0 then 'completed' when 3 then 'failed' else 'queued' end,
          n / 3 % 10, 'tenant' || (n % 7 % 3), 'tiny.en', '{}', 'a.wav', 1, '',
          n % 3 > 0, 3, n, 999e3 + n / 30, iif(n % 3 = 1, 2e6, null),
          iif(n % 3 = 0, n, null), iif(n % 3 = 0, n, null), 60, iif(n % 3 = 0, :often, 'c' || n)
        from number
        """,
        {"tasks": tasks, "often": OFTEN.content},
    )
    conn.execute(
        "insert into chunk (task, number, state) select seq, 0, iif(waiting, 'waiting', 'done') from task"
    )
    if analyzed:
        conn.execute("analyze")
    return conn


@pytest.fixture(params=[False, True], ids=["as made", "analyzed"])
def conn(request):
    with closing(a_database(1000, analyzed=request.param)) as conn:
        yield conn


def plans(conn, verb, *args):
    """The statements that a verb sends, each with its plan."""
    conn.plans = []
    try:
        verb(conn, *args)
        return conn.plans
    finally:
        conn.plans = None


def walks(plans):
    """The steps of the plans that go over a whole table of tasks."""
    wrong = re.compile(r"SCAN (task|chunk|idempotency|place|outbox|usage)\b")
    return [(sql, step) for sql, plan in plans for step in plan if wrong.match(step)]


def sorts(plans):
    return [(sql, step) for sql, plan in plans for step in plan if "TEMP B-TREE" in step]


def plan_of(plans, start):
    """The plan of the statement that begins so."""
    (plan,) = [" / ".join(plan) for sql, plan in plans if sql.startswith(start)]
    return plan


def a_plan(chunks=3, model=""):
    cuts = tuple(Cut(pieces=(Piece(0, 16_000),)) for _ in range(chunks))
    return Plan(fingerprint="f", cuts=cuts, duration=10.0, language="en", model_sha256=model)


def test_a_page_of_hits_is_looked_into_by_one_search(conn):
    found = plans(conn, search._matches, '"a"', [1, 2, 3])

    assert "SCAN search VIRTUAL TABLE INDEX 0:M4><" in plan_of(found, "select rowid")  # and not one for each


# --- the claim ---


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_the_claim_searches_the_line_and_sorts_nothing(conn, order):
    found = plans(conn, claims.take, Rules(order=order), NOW)

    assert walks(found) == []
    assert sorts(found) == []
    assert "SCAN share USING INDEX share_turn" in plan_of(found, "select priority, tenant")  # to the first
    assert f"task_line {OFFERED})" in plan_of(found, f"select {'max' if order == 'lifo' else 'min'}(seq)")
    assert "task_delayed (run_at>? AND run_at<?)" in plan_of(found, "select seq, content is not null")
    assert "SEARCH chunk USING INDEX chunk_waiting (task=?)" in plan_of(found, "select number, claims")


def one_at_a_time(tenant, plan):
    return Limits(concurrent=1)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_the_claim_past_tenants_at_their_limit_searches_by_tenant(conn, order):
    rules = Rules(order=order, limits=one_at_a_time)
    claims.claim(conn, rules, NOW)
    found = plans(conn, claims.claim, rules, NOW)

    assert walks(found) == []
    assert sorts(found) == []
    assert "tally USING PRIMARY KEY (state=? AND delayed=? AND tenant=?)" in plan_of(found, "select sum(n)")


def test_the_claim_finds_what_waited_too_long_by_its_age(conn):
    found = plans(conn, claims.claim, Rules(), LATER)

    assert walks(found) == []
    assert sorts(found) == []
    plan = plan_of(found, "select lined_at, seq")
    assert f"task_age {OFFERED} AND lined_at<?)" in plan
    assert "select max(seq)" not in str(found)  # it was enough


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_a_claim_that_finds_nothing_asks_only_for_the_next_time(conn, order):
    conn.execute("update task set run_at = 2e6 where state = 'queued'")
    found = plans(conn, claims.claim, Rules(order=order), NOW)

    assert walks(found) == []
    assert "task_delayed" in plan_of(found, "select min(run_at)")


# --- looking ---


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_a_position_is_read_off_the_counts_and_one_block_of_tasks(conn, order):
    found = plans(conn, questions.position, "t500", order)

    assert walks(found) == []
    assert sorts(found) == []
    steps = plan_of(found, "select (select coalesce")
    assert "SEARCH place USING PRIMARY KEY (priority=? AND level=? AND block>? AND block<?)" in steps
    assert re.search(r"SEARCH task USING INDEX \w+ \((priority|state)=\? AND seq>\? AND seq<\?\)", steps)


@pytest.mark.parametrize("before", [None, 600])
@pytest.mark.parametrize("states", [{State.FAILED}, {State.QUEUED, State.FAILED}, set(State)])
def test_a_list_by_state_is_read_off_the_index_in_its_order(conn, states, before):
    found = plans(conn, questions.list_tasks, ListQuery(states=frozenset(states), before=before))

    assert walks(found) == []
    assert sorts(found) == []


RARE = Kind.RISK_DETECTION


@pytest.mark.parametrize("some", [False, True], ids=["none of it", "some of it"])
@pytest.mark.parametrize("tenant", [None, "tenant1"])
@pytest.mark.parametrize("states", [set(), {State.FAILED}, {State.QUEUED, State.FAILED}])
@pytest.mark.parametrize("before", [None, 600])
def test_a_list_of_the_rarer_kind_is_read_off_its_own_index(conn, some, tenant, states, before):
    if some:
        conn.execute("update task set kind = 'risk_detection' where seq % 10 = 0")
    query = ListQuery(kind=RARE, tenant=tenant, states=frozenset(states), before=before)
    found = plans(conn, questions.list_tasks, query)

    assert walks(found) == []
    assert sorts(found) == []
    steps = [step for _, plan in found for step in plan if step.startswith("SEARCH task")]
    index = "task_risk (state=?" if tenant is None else "task_tenant_risk (tenant=? AND state=?"
    assert [step for step in steps if index not in step] == []
    assert len(steps) == len(states or State)


def test_the_statistics_look_at_no_more_tasks_than_they_name(conn):
    found = plans(conn, questions.stats, NOW)

    assert walks(found) == []
    assert sorts(found) == []
    assert "task_state (state=?)" in plan_of(found, "select created_at")
    assert "task_over (state=? AND finished_at>? AND finished_at<?)" in plan_of(found, "select finished_at")
    assert "task_finished (finished_at>?)" in plan_of(found, "select max(0.0, started_at - created_at)")


# --- moving, cleaning up ---


def test_the_line_for_a_forecast_is_searches_only(conn):
    found = plans(conn, lambda conn: standing.line(conn, Rules(), NOW, (9, "new")))

    assert walks(found) == []
    assert sorts(found) == []


def test_a_life_is_searches_only(conn):
    found = plans(conn, live, 1)

    assert walks(found) == []
    assert sorts(found) == []


def test_a_risk_detection_is_searches_only(conn):
    found = plans(conn, looked_through)

    assert {step for _, step in walks(found)} == {"SCAN task USING INDEX task_detection"}  # to the first
    assert sorts(found) == []


def looked_through(conn):
    """Every verb that a risk detection of a completed task meets."""
    asked = Detection(alert_url="https://hooks.example/")
    moves.submit(conn, a_task(id="risk", kind=RARE, detection=asked, transcript="t6"), Rules(), 0.0, NOW)
    looks.hearing(conn, "t6")
    looks.heard(conn, "t6")
    look = looks.claim(conn, NOW)
    looks.interrupt(conn, Problem("interrupted", "boom"), NOW)
    seen = Sighting(rule="r", begin=0, past=1, loud=True, finding=Raw(b"{}"))
    looks.tell(conn, look, [seen], NOW)
    look = looks.claim(conn, NOW)
    looks.said(conn, look)
    looks.finish(conn, look, Outcome("{}", (seen,), None), 1.0, NOW)
    with suppress(TaskNotFound):  # it was not queued with it
        looks.first(conn, "t6")
    looks.newest(conn, "t6")
    looks.redaction(conn, questions.get(conn, "t6"), None)
    looks.standing(conn, "t6")
    looks.kept(conn, "risk")


def live(conn, number):
    """Every verb that a task meets."""
    new = a_task(priority=50, idempotency_key=f"key {number}", callback_url="https://hooks.example/")
    task, _ = moves.submit(conn, new, Rules(), 0.0, NOW)
    moves.submit(conn, new, Rules(), 0.0, NOW)  # its key again
    plan_chunk = claimed(conn, task)
    holder.plan(conn, plan_chunk, a_plan(), None, NOW)
    chunks = [claimed(conn, task) for _ in range(3)]
    holder.beat(conn, chunks[0], NOW)
    holder.finish(conn, chunks[0], [Segment(start=0, end=1, text="one")], ["repetition"], None, NOW)
    holder.fail(conn, chunks[1], Problem("worker_crashed", "boom"), 0.0, False, None, NOW)
    holder.replan(conn, chunks[2], NOW)
    holder.plan(conn, claimed(conn, task), a_plan(), None, NOW)
    holder.release(conn, claimed(conn, task), None, NOW)
    moves.cancel(conn, task.id, NOW)
    questions.segments(conn, task.id, Mark())
    questions.settled(conn, task.id)
    questions.states(conn, [task.id])
    moves.retry(conn, task.id, None, Rules(), NOW)


def test_twins_are_searched_for_and_found(conn):
    found = plans(conn, live_as_twins, 1)

    assert walks(found) == []
    assert sorts(found) == []
    searches = (
        "SEARCH task USING INDEX task_done (tenant=? AND content=? AND finished_at>? AND finished_at<?)",
        "SEARCH task USING INDEX task_leads (tenant=? AND content=?)",
    )
    for sql, plan in found:
        if "task_done" in sql:
            assert [step for step in plan if "SEARCH" in step] == list(searches)
        if "where leader = ?" in sql:
            assert "INDEX task_follows (leader=?)" in plan[0]


def live_as_twins(conn, number):
    """What a task meets that follows, inherits, is followed and copied."""
    twin = {"priority": 50, "model_sha256": f"m{number}"}
    first, _ = moves.submit(conn, a_task(**twin), SHARED, 0.0, NOW)
    second, _ = moves.submit(conn, a_task(**twin), SHARED, 0.0, NOW)
    third, _ = moves.submit(conn, a_task(**twin), SHARED, 0.0, NOW)
    holder.plan(conn, claimed(conn, first), a_plan(2, twin["model_sha256"]), None, NOW)
    holder.finish(conn, claimed(conn, first), [], [], None, NOW)
    questions.segments(conn, second.id, Mark())
    questions.position(conn, second.id, "lifo")
    moves.change(conn, third.id, Change(run_at=NOW + 5), SHARED, NOW)
    moves.cancel(conn, first.id, NOW)
    moves.change(conn, third.id, Change(run_at=NOW), SHARED, NOW)
    holder.plan(conn, claimed(conn, second), a_plan(2, twin["model_sha256"]), None, NOW)
    holder.finish(conn, claimed(conn, second), [], [], None, NOW)
    copied, _ = moves.submit(conn, a_task(**twin), SHARED, 0.0, NOW)
    assert copied.state == State.COMPLETED


def claimed(conn, task):
    """A chunk of the task; the claim has a test of its own."""
    plans, conn.plans = conn.plans, None
    chunk = claims.claim(conn, Rules(), NOW)
    conn.plans = plans
    assert chunk.task.id == task.id
    return chunk


def test_the_sweep_and_the_recovery_look_only_at_what_runs(conn):
    for verb, args in [(rescue.sweep, (NOW + 1, [], Rules(), NOW)), (rescue.recover, (Rules(), NOW))]:
        claims.claim(conn, Rules(), NOW)
        found = plans(conn, verb, *args)

        assert walks(found) == []
        assert "chunk_running (beat_at<?)" in plan_of(found, "select task, number from chunk where")


def test_a_clock_that_is_set_moves_only_what_waits_to_be_tried_again_or_runs(conn):
    found = plans(conn, rescue.clock_jumped, 86_400.0)

    assert "task_retry (retry_at>?)" in plan_of(found, "update task set run_at = run_at +")
    assert "task_timed (started_at>?)" in plan_of(found, "update task set started_at")
    assert "chunk_running" in plan_of(found, "update chunk set beat_at")  # which holds no other chunks


def test_pruning_goes_from_the_oldest_on_and_finds_what_belongs_to_a_task(conn):
    found = plans(conn, moves.prune, RETENTION, NOW - 86_400, 10)

    assert walks(found) == []
    assert sorts(found) == []
    plan = plan_of(found, "delete from task")
    assert "task_over (state=? AND finished_at<?)" in plan
    assert "SEARCH chunk USING COVERING INDEX sqlite_autoindex_chunk_1 (task=?)" in plan
    assert "outbox_result (task=?)" in plan
    assert "idempotency_age (created_at<?)" in plan_of(found, "delete from idempotency")
    forgets_plans_by_searches(found)


def forgets_plans_by_searches(found):
    plan = plan_of(found, "delete from tenant")
    assert "SEARCH tenant USING PRIMARY KEY (name=?)" in plan
    assert "SEARCH usage USING PRIMARY KEY (tenant=?)" in plan
    assert "SEARCH task USING COVERING INDEX task_tenant (tenant=?)" in plan


def test_the_outbox_is_kept_by_searches_only(conn):
    told = plans(conn, outbox.find, DeliveryQuery(states=frozenset(DeliveryState), limit=10))
    told += plans(conn, outbox.find, DeliveryQuery(task="t1"))
    told += plans(conn, outbox.undelivered)
    told += plans(conn, outbox.expire, NOW, 10)
    told += plans(conn, outbox.prune, 500.0, 200.0, 10)
    gone = plans(conn, outbox.disable, "https://hooks.example/", NOW)

    assert walks(told) == []
    assert sorts(told) == []
    assert "outbox_url (url=?)" in plan_of(gone, "update outbox set state =")
    assert "outbox_expiry (expires_at<?)" in plan_of(told, "update outbox set state = 'dead'")


def test_a_look_at_the_outbox_goes_from_the_first_that_is_due_on(conn):
    conn.execute("insert into outbox_place values ('https://a', 1), ('https://b', 2)")
    due = plans(conn, outbox.due, NOW, ["msg_1"], {"https://c": 0}, 3, 10)
    next_due = plans(conn, outbox.next_due, ["msg_1"], ["https://c"])

    assert walks(due) == []
    assert sorts(due + next_due) == []
    assert "outbox_place_due (due_at<?)" in plan_of(due, "select place from outbox_place")
    assert "outbox_due (place=? AND due_at<?)" in due[1][1][0]
    (plan,) = [" / ".join(plan) for _, plan in next_due]
    assert "SCAN outbox_place USING COVERING INDEX outbox_place_due" in plan  # is left at the first that fits
    assert "outbox_due (place=?)" in plan


def test_the_usage_of_a_tenant_and_of_a_day_is_found(conn):
    days = {"first": "2026-11-01", "last": "2026-11-30"}
    own = plans(conn, usage.sums, UsageQuery(**days, tenant="tenant1"))
    all_of_them = plans(conn, usage.sums, UsageQuery(**days))
    old = plans(conn, usage.forget, "2025-01-01")

    assert walks(own + all_of_them + old) == []
    forgets_plans_by_searches(old)
    assert "(tenant=? AND day>? AND day<?)" in plan_of(own, "select day")
    assert "usage_day (day>? AND day<?)" in plan_of(all_of_them, "select day")


# --- what it costs, triggers and cascades included ---


def test_what_is_to_be_told_to_a_collector_is_looked_for_among_what_is_traced(conn):
    found = plans(conn, traces.over, 0)

    assert plan_of(found, "select * from task").startswith("SEARCH task USING INTEGER PRIMARY KEY")
    assert (walks(found), sorts(found)) == ([], [])


def cost(conn, verb, *args):
    """SQLite's own count of the steps that a verb takes, in units of SPEND; the verb is undone."""
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        return 0

    conn.execute("savepoint before")
    conn.set_progress_handler(tick, SPEND)
    verb(conn, *args)
    conn.set_progress_handler(None, 0)
    conn.execute("rollback to before")
    conn.execute("release before")
    return ticks


LIMITED = Rules(limits=one_at_a_time)
VERBS = {
    "claim": (claims.claim, Rules(), NOW),
    "claim, fifo": (claims.claim, Rules(order="fifo"), NOW),
    "claim of what waited too long": (claims.claim, Rules(), LATER),
    "claim, with a tenant at its limit": (claims.claim, LIMITED, NOW),
    "position": (questions.position, "t500", "lifo"),
    "list": (questions.list_tasks, ListQuery(limit=10)),
    "list by state": (questions.list_tasks, ListQuery(states=frozenset({State.FAILED}), limit=10)),
    "list by states": (questions.list_tasks, ListQuery(states=frozenset(State), limit=10)),
    "list of a tenant": (questions.list_tasks, ListQuery(tenant="tenant1", limit=10)),
    "list of a kind": (questions.list_tasks, ListQuery(kind=Kind.TRANSCRIPTION, limit=10)),
    "list of a kind of which there is none": (questions.list_tasks, ListQuery(kind=RARE, limit=10)),
    "list of such a kind of a tenant": (
        questions.list_tasks,
        ListQuery(kind=RARE, tenant="tenant1", limit=10),
    ),
    "list of some hours": (
        questions.list_tasks,
        ListQuery(created_after=500.0, created_before=510.0, limit=10),
    ),
    "list of a tenant that has none": (questions.list_tasks, ListQuery(tenant="nobody", limit=10)),
    "stats": (questions.stats, NOW),
    "depths": (questions.depths, 10),
    "stats of a tenant": (questions.stats, NOW, "tenant1"),
    "stats of a tenant that has none": (questions.stats, NOW, "nobody"),
    "a life": (live, 1),
    "the lives of twins": (live_as_twins, 1),
    "a submission of what was completed often": (moves.submit, OFTEN, SHARED, 0.0, NOW),
    "sweep": (rescue.sweep, NOW + 1, [], Rules(), NOW),
    "recover": (rescue.recover, Rules(), NOW),
    "prune": (moves.prune, RETENTION, NOW - 86_400, 10),
    "clear of what is kept for long": (moves.clear, {State.FAILED: 5.0}, 10),
    "a clock that is set": (rescue.clock_jumped, 86_400.0),
}


@pytest.fixture(scope="module")
def small_and_large():
    with closing(a_database(1_000)) as small, closing(a_database(30_000)) as large:
        for conn in (small, large):
            claims.claim(conn, LIMITED, NOW)
        yield small, large


@pytest.mark.parametrize("name", VERBS)
def test_thirty_times_the_tasks_cost_about_the_same(small_and_large, name):
    verb, *args = VERBS[name]
    small, large = (cost(conn, verb, *args) for conn in small_and_large)

    assert large <= 1.5 * small + 20


def test_tasks_that_are_started_and_wait_cost_a_claim_nothing():
    """Newest first, under load: every task gets its plan and is then overtaken."""
    costs = []
    for n in (300, 9_000):
        with closing(a_database(n)) as conn:
            conn.execute("update task set state = 'processing' where state = 'queued' and run_at is null")
            rules = Rules(limits=lambda tenant, plan: Limits(concurrent=int(tenant == "tenant1")))
            costs.append(cost(conn, claims.claim, rules, NOW))

    assert costs[1] <= costs[0] + 2


def test_tenants_that_are_gone_cost_nothing():
    def come_and_go(conn, n):
        for number in range(n):
            task, _ = moves.submit(conn, a_task(tenant=f"passing {number}"), Rules(), 0.0, NOW)
            moves.cancel(conn, task.id, NOW)
        moves.clear(conn, {State.CANCELLED: NOW + 1}, n)

    costs = []
    for n in (1, 300):
        with closing(a_database(10)) as conn:
            come_and_go(conn, n)
            costs.append(cost(conn, claims.claim, Rules(), NOW) + cost(conn, questions.stats, NOW))

    assert costs[1] <= costs[0] + 2

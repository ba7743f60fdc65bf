"""The outbox: what the outside is to be told of tasks that are over, and how far that is.

`tell` is part of the transaction that ends a task; every other public function is a transaction of its own.
A row that waits is due at `due_at` and given up at `expires_at`; both are spans of time, which move with a
clock that is set. Rows of one `place` (scheme, host, port) are found together, since they fail together.
Queries name the partial index that they mean: given `state = 'waiting'`, SQLite rather walks over all of it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from msgspec import to_builtins

from whisperd.delivery import ALERT, GONE, Delivery, DeliveryNotFound, DeliveryQuery, DeliveryState
from whisperd.look import Sighting
from whisperd.sql.rows import to_json
from whisperd.task import State, Task

LIFE_SECONDS = 86_400.0  # from the event until an attempt that fails is the last
LAST_SECONDS = 600.0  # beyond it, for the last attempt
AFTER_A_START_SECONDS = 3600.0  # at least: a daemon that was off for days has tried nothing


def tell(conn: sqlite3.Connection, task: Task) -> None:
    """Note the end of a task for each address that is to hear of it, or have its transcript; or nothing."""
    urls = [row["url"] for row in conn.execute(_LISTENERS, {"callback": task.callback_url})]
    notes = [("webhook", url) for url in urls]
    if task.result_url and task.state is State.COMPLETED:
        notes.append(("result", task.result_url))
    snapshot = to_json(task) if notes else ""
    for kind, url in notes:
        conn.execute(_INSERT, _columns(task, kind, url, snapshot) | _end_of(task))


def alert(conn: sqlite3.Connection, task: Task, url: str, news: Sequence[Sighting], now: float) -> None:
    """Tell an address of findings, unless it wants to be told nothing more."""
    if conn.execute("select 1 from gone where url = ?", (url,)).fetchone():
        return
    snapshot = to_json({**to_builtins(task), "findings": [one.finding for one in news]})
    when = {"event": ALERT, "now": now, "expires_at": now + LIFE_SECONDS, "id": _id_of(task, url, news)}
    conn.execute(f"{_INSERT} on conflict (id) do nothing", _columns(task, "webhook", url, snapshot) | when)


def _id_of(task: Task, url: str, news: Sequence[Sighting]) -> str:
    """The same for the same findings: another host, which looks once more, may tell of them again."""
    said = hashlib.sha256(to_json([task.id, url, *news]).encode()).hexdigest()
    return f"msg_{said[:24]}"


def _end_of(task: Task) -> dict[str, Any]:
    assert task.finished_at is not None
    return {
        "event": f"task.{task.state}",
        "now": task.finished_at,
        "expires_at": task.finished_at + LIFE_SECONDS,
    }


def _columns(task: Task, kind: str, url: str, snapshot: str) -> dict[str, Any]:
    return {
        "id": f"msg_{token_hex(12)}",
        "kind": kind,
        "task": task.id,
        "tenant": task.tenant,
        "url": url,
        "place": _place(url),
        "snapshot": snapshot,
    }


# Each once: a callback may be one of the endpoints.
_LISTENERS = """
    select url from endpoint where url not in (select url from gone)
    union all
    select :callback where :callback is not null
      and :callback not in (select url from endpoint) and :callback not in (select url from gone)
"""
_INSERT = """
    insert into outbox (id, kind, event, task, tenant, url, place, snapshot, created_at, due_at, expires_at)
    values (:id, :kind, :event, :task, :tenant, :url, :place, :snapshot, :now, :now, :expires_at)
"""


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def due(
    conn: sqlite3.Connection, now: float, held: Collection[str], room: Mapping[str, int], each: int, most: int
) -> Sequence[Delivery]:
    """Up to `most` deliveries that are due and not held: of each place up to `each`, or to its `room`.

    The place whose first one has waited longest comes first. Costs an index search for each place that has
    something due, up to `most` and those that are shut or held; what waits for later costs nothing.
    """
    shut = [place for place, n in room.items() if n <= 0]
    first_due = conn.execute(
        """
        select place from outbox_place indexed by outbox_place_due
        where due_at <= :now and place not in (select value from json_each(:shut)) order by due_at
        """,
        {"now": now, "shut": to_json(shut)},
    )
    found: list[Delivery] = []
    for (place,) in first_due:  # read one by one: the first few will mostly do
        if len(found) >= most:
            break
        rows = conn.execute(
            """
            select * from outbox indexed by outbox_due
            where state = 'waiting' and place = :place and due_at <= :now
              and id not in (select value from json_each(:held))
            order by due_at limit :n
            """,
            {
                "place": place,
                "now": now,
                "held": to_json(sorted(held)),
                "n": min(room.get(place, each), most - len(found)),
            },
        )
        found += [to_delivery(row) for row in rows]
    return found


def next_due(conn: sqlite3.Connection, held: Collection[str], shut: Collection[str]) -> float | None:
    """When the next one is due that is neither held nor of a place that is shut."""
    places = conn.execute(
        """
        select due_at, (
          select due_at from outbox indexed by outbox_due
          where state = 'waiting' and place = outbox_place.place
            and id not in (select value from json_each(:held))
          order by due_at limit 1
        )
        from outbox_place indexed by outbox_place_due
        where place not in (select value from json_each(:shut)) order by due_at
        """,
        {"held": to_json(sorted(held)), "shut": to_json(list(shut))},
    )
    soonest: float | None = None
    for first_at, free_at in places:  # read one by one, until no other can be sooner
        if soonest is not None and first_at >= soonest:
            break
        if free_at is not None and (soonest is None or free_at < soonest):
            soonest = free_at
    return soonest


def delivered(conn: sqlite3.Connection, delivery: Delivery, status: int | None, now: float) -> None:
    _end(conn, "id = :key", delivery.id, DeliveryState.DELIVERED, None, now, status=status, attempts=1)


def failed(
    conn: sqlite3.Connection,
    delivery: Delivery,
    status: int | None,
    problem: str,
    delay: float,
    now: float,
) -> None:
    """Count a failure: there is another attempt after the delay, the last one when its time is over."""
    if now >= delivery.expires_at:
        _end(conn, "id = :key", delivery.id, DeliveryState.DEAD, problem, now, status=status, attempts=1)
        return
    conn.execute(
        """
        update outbox set attempts = attempts + 1, status = :status, problem = :problem,
          due_at = max(:now, min(:now + :delay, expires_at))
        where id = :id and state = 'waiting'
        """,
        {"id": delivery.id, "status": status, "problem": problem, "now": now, "delay": delay},
    )


def expire(conn: sqlite3.Connection, now: float, limit: int) -> int:
    """Give up what its time is over for, tried on its own or not; returns how many they were.

    Not those whose last attempt is to come, or under way: it is due at `expires_at`.
    """
    rows = conn.execute(
        """
        update outbox set state = 'dead', ended_at = :now, problem = coalesce(problem, :problem)
        where seq in (
          select seq from outbox indexed by outbox_expiry
          where state = 'waiting' and expires_at < :before limit :limit
        )
        returning seq
        """,
        {"before": now - LAST_SECONDS, "now": now, "limit": limit, "problem": _TOO_LATE},
    ).fetchall()
    return len(rows)


_TOO_LATE = "its turn did not come within a day"


def disable(conn: sqlite3.Connection, url: str, now: float) -> None:
    """The address asked for it (410): nothing more is told to it, what waits included."""
    conn.execute("insert or replace into gone values (?, ?)", (url, now))
    _end(conn, _OF_URL, url, DeliveryState.DEAD, "the address wants no more (410)", now, status=GONE)


def point(conn: sqlite3.Connection, urls: Collection[str], now: float) -> None:
    """From now on these addresses hear of every task, and no others; what waits for the others is dead."""
    removed = [row[0] for row in conn.execute("select url from endpoint") if row[0] not in set(urls)]
    for url in removed:
        conn.execute("delete from endpoint where url = ?", (url,))
        _end(conn, _OF_URL, url, DeliveryState.DEAD, "it is to hear of tasks no more", now)
    conn.executemany("insert or ignore into endpoint values (?)", [(url,) for url in urls])


_OF_URL = "seq in (select seq from outbox indexed by outbox_url where url = :key and state = 'waiting')"


def _end(
    conn: sqlite3.Connection,
    which: str,
    key: str,
    state: DeliveryState,
    problem: str | None,
    now: float,
    *,
    status: int | None = None,
    attempts: int = 0,
) -> None:
    conn.execute(
        f"""
        update outbox set state = :state, ended_at = :now, problem = :problem,
          status = coalesce(:status, status), attempts = attempts + :attempts
        where {which} and state = 'waiting'
        """,
        {
            "key": key,
            "state": state,
            "now": now,
            "problem": problem,
            "status": status,
            "attempts": attempts,
        },
    )


def resend(conn: sqlite3.Connection, delivery_id: str, tenant: str | None, now: float) -> Delivery:
    """Tell it anew, with the same id, whatever became of it; its address is no longer one that is gone."""
    row = conn.execute(
        """
        update outbox set state = 'waiting', ended_at = null, attempts = 0, status = null, problem = null,
          due_at = :now, expires_at = :now + :life
        where id = :id and tenant = coalesce(:tenant, tenant) returning *
        """,
        {"id": delivery_id, "tenant": tenant, "now": now, "life": LIFE_SECONDS},
    ).fetchone()
    if row is None:
        raise DeliveryNotFound(f"there is no delivery {delivery_id}")
    conn.execute("delete from gone where url = ?", (row["url"],))
    return to_delivery(row)


def find(conn: sqlite3.Connection, query: DeliveryQuery) -> Sequence[Delivery]:
    """Newest first."""
    filters = {
        "tenant = :tenant": query.tenant,
        "task = :task": query.task,
        "seq < :before": query.before,
    }
    where = " and ".join(["true", *(clause for clause, value in filters.items() if value is not None)])
    states = [f" and state = '{state}'" for state in sorted(query.states)] or [""]
    pages = " union all ".join(f"select * from outbox where {where}{state}" for state in states)
    args = {"tenant": query.tenant, "task": query.task, "before": query.before, "limit": query.limit}
    return [to_delivery(row) for row in conn.execute(f"{pages} order by seq desc limit :limit", args)]


def undelivered(conn: sqlite3.Connection) -> Mapping[str, int]:
    """How many wait, and how many were given up and are kept; not what was delivered, which may be many."""
    count = "select count(*) from outbox where state = '{}'"
    states = (DeliveryState.WAITING, DeliveryState.DEAD)
    return {str(state): int(conn.execute(count.format(state)).fetchone()[0]) for state in states}


def prune(conn: sqlite3.Connection, delivered_before: float, dead_before: float, limit: int) -> int:
    """Forget what was delivered, or given up, before these times; returns how many they were."""
    conn.execute("delete from gone where at < ?", (dead_before,))
    rows = conn.execute(
        """
        delete from outbox where seq in (
          select seq from (
            select seq from outbox where state = 'delivered' and ended_at < :delivered
            union all
            select seq from outbox where state = 'dead' and ended_at < :dead
          ) limit :limit
        )
        returning seq
        """,
        {"delivered": delivered_before, "dead": dead_before, "limit": limit},
    ).fetchall()
    return len(rows)


def come_back_to_the_present(conn: sqlite3.Connection, longest_delay: float, now: float) -> None:
    """At a start: no wait is longer than the longest, and all have some time left to be tried in."""
    conn.execute(
        """
        update outbox set due_at = min(due_at, :now + :longest),
          expires_at = min(max(expires_at, :now + :least), :now + :life)
        where state = 'waiting'
        """,
        {"now": now, "longest": longest_delay, "least": AFTER_A_START_SECONDS, "life": LIFE_SECONDS},
    )


def clock_jumped(conn: sqlite3.Connection, seconds: float) -> None:
    """What waits goes on waiting for the rest of its time."""
    moved = "due_at = due_at + :seconds, expires_at = expires_at + :seconds"
    conn.execute(f"update outbox set {moved} where state = 'waiting'", {"seconds": seconds})


def to_delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        seq=row["seq"],
        id=row["id"],
        kind=row["kind"],
        event=row["event"],
        task_id=row["task"],
        tenant=row["tenant"],
        url=row["url"],
        place=row["place"],
        snapshot=row["snapshot"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        status=row["status"],
        problem=row["problem"],
    )

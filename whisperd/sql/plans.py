"""The plans of tenants: what each one's submissions named last."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from whisperd.sql.rows import to_json


def remember(conn: sqlite3.Connection, tenant: str, plan: str) -> None:
    conn.execute(_REMEMBER, (tenant, plan))


_REMEMBER = """
    insert into tenant values (?, ?)
    on conflict do update set plan = excluded.plan where plan <> excluded.plan
"""


def find(conn: sqlite3.Connection, tenant: str) -> str | None:
    row = conn.execute("select plan from tenant where name = ?", (tenant,)).fetchone()
    return row and str(row[0])


def forget(conn: sqlite3.Connection, tenants: Iterable[str]) -> None:
    """Those of tenants of whom nothing is left: else whoever names tenants fills the table for good."""
    conn.execute(_FORGET, (to_json(sorted(set(tenants))),))


# Not with the last task: a tenant that comes again next week has the limits that it had.
_FORGET = """
    delete from tenant where name in (select value from json_each(?))
      and not exists (select 1 from usage where usage.tenant = tenant.name)
      and not exists (select 1 from task where task.tenant = tenant.name)
"""

"""A small table to write to, jobs on it, and ways to look at its file from outside."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from whisperd.db import Database

ROOT = Path(__file__).resolve().parents[1]


def run_with_db(path, body, **settings):
    """Run an async test body against a database with a table; a second run finds what the first left."""

    async def main():
        async with Database(path, **settings) as db:
            await db.write(create)
            await body(db)

    asyncio.run(main())


async def open_and_close(path):
    async with Database(path):
        pass


def create(conn):
    conn.execute("create table if not exists note (n integer primary key, text text)")
    conn.execute("create table if not exists reply (n references note deferrable initially deferred)")


def insert(conn, n, text=""):
    conn.execute("insert into note values (?, ?)", (n, text))
    return n


def count(conn):
    return conn.execute("select count(*) from note").fetchone()[0]


def numbers(conn):
    return [row[0] for row in conn.execute("select n from note order by n")]


def pragma(conn, name):
    return conn.execute(f"pragma {name}").fetchone()[0]


def wal_size(path):
    return os.path.getsize(f"{path}-wal")


def commits_seen(conn):
    """A list that every commit of this connection is added to from now on."""
    seen = []
    conn.set_trace_callback(lambda sql: seen.append(sql) if sql == "commit" else None)
    return seen


class Held:
    """A job that keeps the writer busy until it is let go."""

    def __init__(self):
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, conn):
        self.started.set()
        assert self.go_on.wait(10)

    async def under_way(self):
        await asyncio.to_thread(self.started.wait, 10)


def alone(path, tmp_path):
    """What a `cp` of the file without its -wal shows."""
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    return closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True))


def marked_clean(conn):
    return conn.execute("select clean from session").fetchone()[0]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110, what files show has no event
            await asyncio.sleep(0.005)


def in_another_process(code, path):
    """Whoever opens the live file by path, `cp` or a shell: never this process, whose locks would be lost."""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return done.stdout

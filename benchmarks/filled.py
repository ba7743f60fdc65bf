"""A data folder with many tasks of many tenants, made by the queue's own functions, as a daemon leaves it.

Four of five are over, most of them with a transcript that can be searched; the rest waits, in three
priorities. All that may be heard or run have their audio: one file with many names.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from time import time

from ulid import ULID

from whisperd.connection import set_writing
from whisperd.db import migrate
from whisperd.sql import claims, holder, moves, search
from whisperd.task import (
    SAMPLE_RATE,
    Audio,
    Chunk,
    Cut,
    Effort,
    NewTask,
    Piece,
    Plan,
    Problem,
    Rules,
    Segment,
    Word,
)

TOGETHER = 2000  # tasks of one transaction
SECONDS = 24  # of audio
SEGMENTS, WORDS = 6, 10  # of a transcript, of a segment
VOCABULARY = 5000
LONG = 12 * 3600  # seconds in which all were submitted: less than they are kept
WITH_AUDIO = 100
RULES = Rules(max_wait_seconds=0)
EFFORT = Effort(worker=1, seconds=2.0, device="cpu", threads=1)
PLAN = Plan(
    fingerprint="f",
    cuts=(Cut(pieces=(Piece(0, SECONDS * SAMPLE_RATE),)),),
    duration=float(SECONDS),
    language="en",
    peaks=bytes(range(100)) * 20,
)


def fill(folder: Path, tasks: int, tenants: int, sound: Path) -> None:
    """Make `folder` a data folder with so many tasks; `sound` is their audio."""
    (folder / "spool").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "whisperd.db", isolation_level=None)) as conn:
        conn.row_factory = sqlite3.Row
        set_writing(conn)
        migrate(conn)
        Filler(conn, folder, tasks, tenants, sound).run()
        _index(conn)
        conn.execute("analyze")


def _index(conn: sqlite3.Connection) -> None:
    more = True
    while more:
        conn.execute("begin immediate")
        more = all(search.index(conn).entries for _ in range(TOGETHER // search.MOST_TASKS))
        conn.execute("commit")


class Filler:
    def __init__(self, conn: sqlite3.Connection, folder: Path, tasks: int, tenants: int, sound: Path) -> None:
        self._conn = conn
        self._spool = folder / "spool"
        self._tasks = tasks
        self._tenants = tenants
        self._sound = sound
        self._chance = random.Random(7)
        self._words = [_word(self._chance) for _ in range(VOCABULARY)]
        self._now = time() - LONG
        self._names = 0

    def run(self) -> None:
        for first in range(0, self._tasks, TOGETHER):
            self._conn.execute("begin immediate")
            for number in range(first, min(first + TOGETHER, self._tasks)):
                self._now += LONG / self._tasks
                self._one(number)
            self._conn.execute("commit")

    def _one(self, number: int) -> None:
        task_id = self._submitted(number)
        over = int(0.8 * self._tasks)
        if number >= over:
            self._kept(task_id)
            return
        kind = self._chance.random()
        if kind < 0.05:
            moves.cancel(self._conn, task_id, self._now)
        elif kind < 0.1:
            died = Problem("worker_crashed", "its worker died")
            holder.fail(self._conn, self._claimed(), died, 0.0, True, None, self._now)
        else:
            self._transcribed()
            if number >= over - WITH_AUDIO:
                self._kept(task_id)

    def _submitted(self, number: int) -> str:
        task_id = str(ULID.from_timestamp(self._now))
        name = f"{self._chance.choice(self._words)} {number}.wav"
        new = NewTask(
            id=task_id,
            audio=Audio(name=name, size=self._sound.stat().st_size, sha256="0" * 64),
            model="tiny.en",
            tenant=f"tenant{self._chance.randrange(self._tenants)}",
            priority=self._chance.choice((0, 0, 0, 1, 5)),
        )
        moves.submit(self._conn, new, RULES, 0.0, self._now)
        return task_id

    def _kept(self, task_id: str) -> None:
        """A file has 65,000 names at most on some file systems."""
        if self._names % 50_000 == 0:
            self._named = self._spool / f"{task_id}.audio"
            shutil.copy(self._sound, self._named)
        else:
            os.link(self._named, self._spool / f"{task_id}.audio")
        self._names += 1

    def _claimed(self) -> Chunk:
        chunk, _ = claims.take(self._conn, RULES, self._now)
        assert isinstance(chunk, Chunk)
        return chunk

    def _transcribed(self) -> None:
        holder.plan(self._conn, self._claimed(), PLAN, EFFORT, self._now)
        holder.finish(self._conn, self._claimed(), self._said(), (), EFFORT, self._now)

    def _said(self) -> list[Segment]:
        length = SECONDS / SEGMENTS
        return [self._segment(n * length, length / WORDS) for n in range(SEGMENTS)]

    def _segment(self, start: float, each: float) -> Segment:
        said = self._chance.choices(self._words, k=WORDS)
        words = tuple(
            Word(start=start + n * each, end=start + (n + 1) * each, word=word, probability=0.9)
            for n, word in enumerate(said)
        )
        return Segment(start=start, end=start + WORDS * each, text=" ".join(said), words=words)


def _word(chance: random.Random) -> str:
    """That can be said: some syllables."""
    return "".join(
        chance.choice("bdfgklmnprst") + chance.choice("aeiou") for _ in range(chance.randint(2, 4))
    )

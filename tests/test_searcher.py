"""The process that searches, as the daemon holds it."""

import asyncio
import os
import signal
import sys

import pytest

from tests.risk.heard import HEAD, rule
from whisperd import searcher
from whisperd.risk_protocol import Check, Right, Settings
from whisperd.searcher import BUSY, CRASHED, TOO_MUCH, Books, Searcher, SearchFailed

PATIENCE = 60.0  # seconds: a process has to start, on a busy machine
SHIPPED = Check(packs=("threat",), rules=None)
MINE = Check(packs=("mine",), rules=None)


@pytest.fixture
def with_searchers(tmp_path):
    """Two that share their books, and a folder for packs."""

    def run(body):
        async def main():
            books = Books()
            settings = Settings(daemon_pid=os.getpid(), rules_dir=str(tmp_path), nice=0)
            both = [Searcher(books, settings) for _ in "ab"]
            try:
                await body(*both)
            finally:
                for one in both:
                    await one.close()

        asyncio.run(main())

    return run


@pytest.mark.parametrize(
    ("answer", "code"), [("'hello'", CRASHED), ("'x' * (65 << 20)", TOO_MUCH)], ids=["no JSON", "too long"]
)
def test_what_is_no_answer_is_told_by_its_name(with_searchers, monkeypatch, answer, code):
    says = f"import sys; sys.stdin.readline(); print({answer}, flush=True); sys.stdin.readline()"
    monkeypatch.setattr(searcher, "COMMAND", (sys.executable, "-c", says))

    async def body(one, _):
        asking = asyncio.create_task(one.ask(SHIPPED, PATIENCE))
        async with asyncio.timeout(PATIENCE):
            while (process := one._process) is None:  # noqa: ASYNC110 - what it waits for signals nothing
                await asyncio.sleep(0.002)
        with pytest.raises(SearchFailed) as failed:
            await asking
        await process.wait()

        assert failed.value.problem.code == code

    with_searchers(body)


def test_packs_that_are_read_while_another_begins_reach_it_too(with_searchers, tmp_path):
    async def body(one, other):
        await one.ask(SHIPPED, PATIENCE)
        await other.reload()
        one._process.send_signal(signal.SIGSTOP)
        asking = asyncio.create_task(one.ask(SHIPPED, PATIENCE))
        await asyncio.sleep(0)  # it has begun, by the packs of now
        (tmp_path / "mine.toml").write_text(HEAD + rule('match = "code"'))
        await other.reload()
        one._process.send_signal(signal.SIGCONT)
        await asking

        assert isinstance(await one.ask(MINE, PATIENCE), Right)

    with_searchers(body)


def test_who_asks_waits_for_a_turn_and_not_for_ever(with_searchers, monkeypatch):
    async def body(one, _):
        await one.ask(SHIPPED, PATIENCE)
        one._process.send_signal(signal.SIGSTOP)
        before = asyncio.create_task(one.ask(SHIPPED, PATIENCE))
        await asyncio.sleep(0)
        monkeypatch.setattr(searcher, "WAIT_SECONDS", 0.05)
        with pytest.raises(SearchFailed) as failed:
            await one.ask(SHIPPED, PATIENCE)
        one._process.send_signal(signal.SIGCONT)

        assert failed.value.problem.code == BUSY
        assert isinstance(await before, Right)

    with_searchers(body)

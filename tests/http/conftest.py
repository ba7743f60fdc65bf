"""One server for all tests of the routes, and a watch over what it logs."""

import asyncio
import logging

import pytest
import structlog

from tests.http_server import NOTHING, Stage, a_server


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    with asyncio.Runner() as runner:
        stage = Stage(tmp_path_factory.mktemp("stage"))
        stage.run = runner.run
        listening = stage.listening()
        runner.run(listening.__aenter__())
        yield stage
        runner.run(listening.__aexit__(None, None, None))


@pytest.fixture
def with_server(stage, tmp_path):
    """Run an async test body against an application on a fresh database and spool."""

    def run(body, **settings):
        async def main():
            async with asyncio.timeout(60), a_server(stage, tmp_path, **settings) as server:
                await body(server)

        stage.run(main())

    return run


@pytest.fixture(scope="module")
def idle_server(stage, tmp_path_factory):
    opening = a_server(stage, tmp_path_factory.mktemp("idle"))
    yield stage.run(opening.__aenter__())
    stage.run(opening.__aexit__(None, None, None))


@pytest.fixture
def with_idle_server(stage, idle_server):
    """The same on one server, for tests whose requests are all refused: nothing is left to the next."""

    def run(body):
        async def main():
            stage.app = idle_server.app
            async with asyncio.timeout(60):
                await body(idle_server)
            assert await idle_server.left() == NOTHING

        stage.run(main())

    return run


@pytest.fixture(autouse=True)
def nothing_broke(caplog):
    """Whatever a client does, neither the application nor the server logs an exception."""
    with structlog.testing.capture_logs() as logs:
        yield logs
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []
    for phase in ("setup", "call"):
        assert [r.getMessage() for r in caplog.get_records(phase) if r.levelno >= logging.ERROR] == []

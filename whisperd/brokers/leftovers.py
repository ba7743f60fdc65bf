"""What is left of a connection to Kafka that could not be closed in order, and its end.

aiokafka closes by asking the broker, and by waiting until all is sent. Cut off in that, it leaves tasks that
go on trying, with sockets of theirs; one sends heartbeats, and a group keeps a member that is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiokafka

END_SECONDS = 5.0  # for what is cancelled to end
_HOME = str(Path(aiokafka.__file__).parent)


@asynccontextmanager
async def ended(broker: Any) -> AsyncIterator[None]:
    """While it is closed within. There is one connection in this process, so all of aiokafka's is its."""
    clients = list(_clients(broker))
    transports = set(_transports(clients))
    try:
        yield
    finally:
        for transport in transports.union(_transports(clients)):
            transport.abort()
        if tasks := [task for task in asyncio.all_tasks() if _is_theirs(task)]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=END_SECONDS)


def _clients(broker: Any) -> Iterator[Any]:
    for subscriber in broker.subscribers:
        if subscriber.consumer is not None:
            yield subscriber.consumer._client
    with suppress(Exception):  # it was never started
        yield broker.config.admin.client._client
    with suppress(Exception):
        yield broker.config.producer._producer.producer.client


def _transports(clients: list[Any]) -> Iterator[asyncio.WriteTransport]:
    for client in clients:
        for connection in client._conns.values():
            if connection._writer is not None:
                yield connection._writer.transport


def _is_theirs(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_HOME)

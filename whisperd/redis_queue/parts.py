"""What a host brings to a shared queue: parts of its own, and those that it has in common with the others."""

from __future__ import annotations

from typing import NamedTuple

from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.checkpoints import Checkpoints
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.storage import Storage
from whisperd.spool import Spool


class Own(NamedTuple):
    queue: SqliteQueue
    ledger: Ledger
    events: Events
    spool: Spool


class Common(NamedTuple):
    board: Boards
    storage: Storage
    checkpoints: Checkpoints

"""Client: the Task API of a running daemon as functions, synchronous (`Client`) and not (`AsyncClient`).

    with Client() as whisperd:
        print(whisperd.transcribe("talk.mp3").text)

`calls` says what is asked, what of it may be sent again and how the answer is read, without any I/O;
`sync_client` and `async_client` drive it. Knows nothing of the daemon's insides, and of other packages only
httpx and msgspec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whisperd.client.calls import DEFAULT_URL, SubmitOptions
from whisperd.client.errors import (
    ApiError,
    AudioGone,
    ClientError,
    DaemonAway,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    NotFinished,
    NotFound,
    NotWhisperd,
    QueueFull,
    RateLimited,
    StorageFull,
    TaskCancelled,
    TaskFailed,
    TooLarge,
    TryLater,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    WrongState,
)
from whisperd.client.results import (
    FINAL,
    Audio,
    Backup,
    Check,
    Delivery,
    Draining,
    Estimate,
    Event,
    Failure,
    Health,
    Likely,
    Link,
    Moment,
    ProgressEvent,
    Quantiles,
    Segment,
    SegmentEvent,
    Stats,
    Swept,
    Task,
    TaskEvent,
    Throughput,
    Timeline,
    Transcript,
    Usage,
    UsageRow,
    UsageSums,
    Word,
    Worker,
)
from whisperd.client.risk import Finding, Findings, Missing, Rescan, Risk, RiskOptions
from whisperd.client.sync_client import Client

if TYPE_CHECKING:
    from whisperd.client.async_client import AsyncClient

__all__ = [
    "DEFAULT_URL",
    "FINAL",
    "ApiError",
    "AsyncClient",
    "Audio",
    "AudioGone",
    "Backup",
    "Check",
    "Client",
    "ClientError",
    "DaemonAway",
    "Delivery",
    "Draining",
    "Estimate",
    "Event",
    "Failure",
    "Finding",
    "Findings",
    "Forbidden",
    "Health",
    "IdempotencyConflict",
    "InvalidRequest",
    "Likely",
    "Link",
    "Missing",
    "Moment",
    "NotFinished",
    "NotFound",
    "NotWhisperd",
    "ProgressEvent",
    "Quantiles",
    "QueueFull",
    "RateLimited",
    "Rescan",
    "Risk",
    "RiskOptions",
    "Segment",
    "SegmentEvent",
    "Stats",
    "StorageFull",
    "SubmitOptions",
    "Swept",
    "Task",
    "TaskCancelled",
    "TaskEvent",
    "TaskFailed",
    "Throughput",
    "Timeline",
    "TooLarge",
    "Transcript",
    "TryLater",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMedia",
    "Usage",
    "UsageRow",
    "UsageSums",
    "Word",
    "Worker",
    "WrongState",
]


def __getattr__(name: str) -> Any:
    """AsyncClient, when it is asked for: asyncio takes as long to import as a command to answer."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from whisperd.client.async_client import AsyncClient

    return AsyncClient

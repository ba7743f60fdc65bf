"""Traces for OpenTelemetry: one from the request to the chunk, sent to a collector by OTLP over HTTP.

Needs the extra otel (`pip install 'whisperd[otel]'`), which is loaded where tracing is on. The spans of a
task are made when it is over, from what the queue has written down anyway: they cost no chunk anything, and
a restart in between loses none. A span never holds a name, a text, a path, a query, a header or a key.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from whisperd import __version__, config
from whisperd.events import Events, tells_an_end
from whisperd.history import History
from whisperd.task import Task, TaskError
from whisperd.timeline import Moment, Timeline

if TYPE_CHECKING:  # it costs memory, and need not be installed
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)
SEND_SECONDS = 3.0  # for one batch
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # that a span may name
PARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)  # of what this request submits
Attributes = Mapping[str, str | int | float]


class TracingMissing(Exception):
    """The library is not installed."""


class _Part(NamedTuple):
    """Of what happened to a task."""

    name: str
    began: float  # Unix seconds, UTC
    ended: float
    attributes: Attributes


class Tracing:
    def __init__(self, settings: config.Tracing) -> None:
        """Sends in a thread of its own; spans are lost while the collector is away. Raises TracingMissing."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            told = "tracing.endpoint is set: it needs OpenTelemetry, pip install 'whisperd[otel]'"
            raise TracingMissing(told) from error
        exporter = OTLPSpanExporter(f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
        resource = Resource.create({"service.name": "whisperd", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("whisperd", __version__)
        self._format = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, in the trace that its `traceparent` names; what it submits is in it too.

        Its `tracestate` goes no further: it is a stranger's text.
        """
        from opentelemetry.trace import SpanKind

        context = self._format.extract({"traceparent": headers.get("traceparent", "")})
        span = self._tracer.start_span("request", context, kind=SpanKind.SERVER)
        before = PARENT.set(self._written(span))
        try:
            yield span
        finally:
            PARENT.reset(before)
            span.end()

    def answered(self, span: Span, method: str, route: str, status: int | None) -> None:
        """Tell how a request was answered; None: not at all."""
        from opentelemetry.trace import StatusCode

        known = method in METHODS
        span.update_name(f"{method if known else 'HTTP'} {route}")
        span.set_attributes({"http.request.method": method if known else "_OTHER", "http.route": route})
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if (status or 0) >= 500:
            span.set_status(StatusCode.ERROR)

    async def follow(self, events: Events, history: History) -> None:
        """Make the spans of each task that ends; and of those that ended while nobody was listening."""
        while not events.closed:
            with events.subscribe(wants=tells_an_end) as subscription:
                await self._catch_up(history)
                async for event in subscription:
                    await self._tell(event.task, history)

    async def close(self, seconds: float) -> None:
        """Send what is left, as far as that goes within some seconds; the rest is lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _aside(self._provider.shutdown)

    async def _catch_up(self, history: History) -> None:
        seq = 0
        try:
            while tasks := await history.traced(seq):
                for task in tasks:
                    await self._tell(task, history)
                seq = tasks[-1].seq
        except TaskError as error:
            log.warning("traces are not sent", reason=str(error))

    async def _tell(self, task: Task, history: History) -> None:
        try:
            if parent := await history.trace(task.seq):
                timeline = await history.timeline(task.id)
                await _aside(partial(self._send, task, parent, timeline))
                await history.forget_trace(task.seq)
        except TaskError as error:  # it was deleted, or the disk is full: the next start tries again
            log.warning("a trace was not sent", task_id=task.id, reason=str(error))

    def _send(self, task: Task, parent: str, timeline: Timeline) -> None:
        """All that waits to be sent goes first: what comes faster than the collector takes it is dropped."""
        self._show(task, parent, timeline)
        self._provider.force_flush()

    def _show(self, task: Task, parent: str, timeline: Timeline) -> None:
        """Blocks: 400 chunks take 20 ms."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        context, ended = self._format.extract({"traceparent": parent}), task.finished_at or task.created_at
        span = self._begun(_Part("task", task.created_at, ended, dict(_about(task, timeline))), context)
        inside = set_span_in_context(span)
        for part in _parts(task, timeline, ended):
            self._begun(part, inside).end(_ns(part.ended))
        for moment in timeline.moments:
            if moment.kind == "worker_died":
                span.add_event("worker_died", {"whisperd.cause": moment.code or ""}, _ns(moment.at))
        if task.error is not None:
            span.set_status(Status(StatusCode.ERROR, task.error.code))
        span.end(_ns(ended))

    def _begun(self, part: _Part, context: Context) -> Span:
        return self._tracer.start_span(
            part.name, context, attributes=dict(part.attributes), start_time=_ns(part.began)
        )

    def _written(self, span: Span) -> str | None:
        """None where the caller's own trace is not sampled: then what is his is not, either."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        if span.is_recording():
            self._format.inject(carrier, set_span_in_context(span))
        return carrier.get("traceparent")


async def _aside(work: Callable[[], None]) -> None:
    """In a thread that holds up no exit, as one of asyncio's would."""
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()  # who waits may be cancelled; the thread goes on

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="traces", daemon=True).start()
    await asyncio.wrap_future(done)


def _about(task: Task, timeline: Timeline) -> Iterator[tuple[str, str | int | bool]]:
    yield "whisperd.task", task.id
    yield "whisperd.model", task.model
    yield "whisperd.state", task.state
    yield "whisperd.priority", task.priority
    yield "whisperd.attempt", task.attempt
    if timeline.truncated:
        yield "whisperd.truncated", True


def _parts(task: Task, timeline: Timeline, ended: float) -> Iterator[_Part]:
    yield _Part("wait", task.created_at, task.started_at or ended, {})
    for moment in timeline.moments:
        if moment.kind in ("planned", "chunk"):
            name = "plan" if moment.kind == "planned" else "chunk"
            yield _Part(name, moment.at - (moment.seconds or 0.0), moment.at, dict(_of_work(moment)))


def _of_work(moment: Moment) -> Iterator[tuple[str, int | float]]:
    yield "whisperd.chunk", moment.chunk or 0
    if moment.worker is not None:
        yield "whisperd.worker", moment.worker
    if moment.audio_seconds:
        yield "whisperd.audio_seconds", moment.audio_seconds
        if moment.seconds is not None:
            yield "whisperd.real_time_factor", round(moment.seconds / moment.audio_seconds, 4)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

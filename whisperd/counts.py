"""What happens is counted here along the way, for /metrics: how often, and how long it took.

One object for a daemon, made by the composition root; whoever counts is handed it, and nobody looks for it.
Each note costs a few µs and may be made on any thread. All begins at 0 with each start.

Labels have few values, all known beforehand: never a task, a tenant, a model or a file name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from whisperd.task import FINAL, PLAN, Chunk, State, Task

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each: when it was first seen

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_HTTP = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
_WAITS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_WORK = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600)
_FACTORS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2, 4)
_PARTS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4)
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})
# Why no call was reached: too many connections; closed to make room, or with no room even to say so; too many
# headers; no HTTP; too slow in sending or in taking; from where, or with what in its URL, nobody is served.
Refused = Literal["crowded", "dropped", "headers", "malformed", "slow", "guard"]
HIGH = 5  # the priority, and so the plan PRO, from which on it is called high


def priority_class(priority: int) -> str:
    """low is below 0, which has to be asked for; normal is up to the plan FREE."""
    return "low" if priority < 0 else "normal" if priority < HIGH else "high"


class _Metric(NamedTuple):
    name: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None  # of a histogram; None: a counter


_METRICS = (
    _Metric("tasks_ended", "Tasks that came to an end, by how.", ("state",)),
    _Metric(
        "task_wait_seconds",
        "From the submission of a task until a worker has it, by priority: low is below 0, high from 5.",
        ("priority",),
        _WAITS,
    ),
    _Metric("task_processing_seconds", "From there until the task was completed.", (), _WORK),
    _Metric("chunks", "Chunks that were transcribed."),
    _Metric("retries", "Failures of a chunk after which it is tried again."),
    _Metric("chunk_seconds", "That a worker took for a chunk.", (), _WORK[:10]),
    _Metric("audio_seconds", "Audio in the chunks that were transcribed."),
    _Metric("real_time_factor", "Time that a chunk took, divided by that of its audio.", (), _FACTORS),
    _Metric("database_commit_seconds", "From the begin of a transaction until it is on disk.", (), _QUICK),
    _Metric(
        "http_requests",
        "Requests, by method, route and class of status.",
        ("method", "route", "status"),
    ),
    _Metric(
        "http_answer_seconds",
        "From a request's head to that of its answer, by route. A call that waits for a task has the "
        "wait in it.",
        ("route",),
        _HTTP,
    ),
    _Metric(
        "http_refusals", "Connections and requests turned away before any call saw them, by why.", ("reason",)
    ),
    _Metric("websockets", "WebSockets that were asked for, by result.", ("result",)),
    _Metric(
        "loop_lag_seconds", "How much too late the daemon's event loop got round to a timer.", (), _QUICK
    ),
    _Metric("risk_findings", "Findings of risk detection, and what was missing.", ("category", "severity")),
    _Metric(
        "eta_error_ratio",
        "By what part of the time a task took its first eta_seconds was wrong, of those completed.",
        (),
        _PARTS,
    ),
)
_FROM_THE_START: Mapping[str, Iterable[str]] = {  # of one label: a rate needs a 0 to begin with
    "tasks_ended": FINAL,
    "task_wait_seconds": ("low", "normal", "high"),
    "http_refusals": get_args(Refused),
    "websockets": ("opened", "refused"),
}


class Counts:
    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="whisperd", registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._by_labels: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        for metric in _METRICS:
            self._declare(metric)
        for name, values in _FROM_THE_START.items():
            for value in values:
                (self._counters.get(name) or self._histograms[name]).labels(value)

    def _declare(self, metric: _Metric) -> None:
        name, about, labels, buckets = metric
        full = f"whisperd_{name}"
        if buckets is None:
            self._counters[name] = Counter(full, about, labels, registry=self.registry)
        else:
            self._histograms[name] = Histogram(full, about, labels, registry=self.registry, buckets=buckets)

    # --- the queue ---

    def told(self, task: Task) -> None:
        """Its state, after the transaction that changed it."""
        if task.state not in FINAL:
            return
        self._counters["tasks_ended"].labels(task.state).inc()
        if task.state == State.COMPLETED and task.started_at and task.finished_at:
            self._histograms["task_processing_seconds"].observe(max(0.0, task.finished_at - task.started_at))

    def claimed(self, chunk: Chunk) -> None:
        task = chunk.task
        if chunk.number == PLAN and task.started_at == chunk.claimed_at:  # its first
            waited = chunk.claimed_at - task.created_at
            self._histograms["task_wait_seconds"].labels(priority_class(task.priority)).observe(
                max(0.0, waited)
            )

    def retried(self) -> None:
        self._counters["retries"].inc()

    # --- the workers ---

    def transcribed(self, seconds: float, audio_seconds: float) -> None:
        """A chunk: how long it took, and how long its audio is."""
        self._counters["chunks"].inc()
        self._histograms["chunk_seconds"].observe(seconds)
        self._counters["audio_seconds"].inc(audio_seconds)
        if audio_seconds:
            self._histograms["real_time_factor"].observe(seconds / audio_seconds)

    # --- the rest ---

    def committed(self, seconds: float) -> None:
        self._histograms["database_commit_seconds"].observe(seconds)

    def found(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """By risk detection: category, severity, how many."""
        for category, severity, n in counts:
            self._counters["risk_findings"].labels(category, severity).inc(n)

    def eta_missed(self, part: float) -> None:
        self._histograms["eta_error_ratio"].observe(part)

    def lagged(self, seconds: float) -> None:
        self._histograms["loop_lag_seconds"].observe(seconds)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """`route`: the template of its path; None where there is no such route."""
        labels = method if method in METHODS else "other", route or "other", f"{status // 100}xx"
        if (found := self._by_labels.get(labels)) is None:  # to ask the library takes longer than to count
            counter, histogram = self._counters["http_requests"], self._histograms["http_answer_seconds"]
            found = counter.labels(*labels), histogram.labels(labels[1])
            self._by_labels[labels] = found
        found[0].inc()
        found[1].observe(seconds)

    def refused(self, reason: Refused) -> None:
        self._counters["http_refusals"].labels(reason).inc()

    def asked_for_websocket(self, *, opened: bool) -> None:
        self._counters["websockets"].labels("opened" if opened else "refused").inc()

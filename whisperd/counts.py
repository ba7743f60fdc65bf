"""What happens is counted here along the way, for /metrics: how often, and how long it took.

One object for a daemon, made by the composition root; whoever counts is handed it, and nobody looks for it.
Each note costs a few µs and may be made on any thread. All begins at 0 with each start.

Labels have few values, all known beforehand: never a task, a tenant, a model or a file name.
"""

from __future__ import annotations

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
HIGH = 5  # the priority, and so the plan PRO, from which on it is called high


def priority_class(priority: int) -> str:
    """low is below 0, which has to be asked for; normal is up to the plan FREE."""
    return "low" if priority < 0 else "normal" if priority < HIGH else "high"


class Counts:
    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="whisperd", registry=self.registry)
        self._ended = self._counter("tasks_ended", "Tasks that came to an end, by how.", "state")
        self._waited = self._histogram(
            "task_wait_seconds",
            "From the submission of a task until a worker has it, by priority: low is below 0, high from 5.",
            _WAITS,
            "priority",
        )
        self._worked = self._histogram(
            "task_processing_seconds", "From there until the task was completed.", _WORK
        )
        self._chunks = self._counter("chunks", "Chunks that were transcribed.")
        self._retries = self._counter("retries", "Failures of a chunk after which it is tried again.")
        self._chunk_seconds = self._histogram("chunk_seconds", "That a worker took for a chunk.", _WORK[:10])
        self._audio = self._counter("audio_seconds", "Audio in the chunks that were transcribed.")
        self._factor = self._histogram(
            "real_time_factor", "Time that a chunk took, divided by that of its audio.", _FACTORS
        )
        self._commits = self._histogram(
            "database_commit_seconds", "From the begin of a transaction until it is on disk.", _QUICK
        )
        self._requests = self._counter(
            "http_requests", "Requests, by method, route and class of status.", "method", "route", "status"
        )
        self._answers = self._histogram(
            "http_answer_seconds",
            "From a request's head to that of its answer, by route. A call that waits for a task has the "
            "wait in it.",
            _HTTP,
            "route",
        )
        self._by_labels: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._lag = self._histogram(
            "loop_lag_seconds", "How much too late the daemon's event loop got round to a timer.", _QUICK
        )
        self._eta_errors = self._histogram(
            "eta_error_ratio",
            "By what part of the time a task took its first eta_seconds was wrong, of those completed.",
            _PARTS,
        )
        for state in FINAL:
            self._ended.labels(state)  # a rate needs a 0 to begin with
        for name in ("low", "normal", "high"):
            self._waited.labels(name)

    # --- the queue ---

    def told(self, task: Task) -> None:
        """Its state, after the transaction that changed it."""
        if task.state not in FINAL:
            return
        self._ended.labels(task.state).inc()
        if task.state == State.COMPLETED and task.started_at and task.finished_at:
            self._worked.observe(max(0.0, task.finished_at - task.started_at))

    def claimed(self, chunk: Chunk) -> None:
        task = chunk.task
        if chunk.number == PLAN and task.started_at == chunk.claimed_at:  # its first
            waited = chunk.claimed_at - task.created_at
            self._waited.labels(priority_class(task.priority)).observe(max(0.0, waited))

    def retried(self) -> None:
        self._retries.inc()

    # --- the workers ---

    def transcribed(self, seconds: float, audio_seconds: float) -> None:
        """A chunk: how long it took, and how long its audio is."""
        self._chunks.inc()
        self._chunk_seconds.observe(seconds)
        self._audio.inc(audio_seconds)
        if audio_seconds:
            self._factor.observe(seconds / audio_seconds)

    # --- the rest ---

    def committed(self, seconds: float) -> None:
        self._commits.observe(seconds)

    def eta_missed(self, part: float) -> None:
        self._eta_errors.observe(part)

    def lagged(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """`route`: the template of its path; None where there is no such route."""
        labels = method if method in METHODS else "other", route or "other", f"{status // 100}xx"
        if (found := self._by_labels.get(labels)) is None:  # to ask the library takes longer than to count
            found = self._requests.labels(*labels), self._answers.labels(labels[1])
            self._by_labels[labels] = found
        found[0].inc()
        found[1].observe(seconds)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"whisperd_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"whisperd_{name}", about, labels, registry=self.registry, buckets=buckets)

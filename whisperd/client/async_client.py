"""The asynchronous client, for asyncio.

Every call can be cancelled: its connection is closed and its file too. Nothing blocks the loop; files are
read in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from whisperd.client.calls import PAGE, Calls, Flow, OnProgress, Pause, Request, SubmitOptions
from whisperd.client.connection import built, settings, timeout
from whisperd.client.errors import ClientError, TaskFailed
from whisperd.client.results import (
    Backup,
    Delivery,
    Draining,
    Estimate,
    Event,
    Explanation,
    Health,
    Link,
    Stats,
    Swept,
    Task,
    Timeline,
    Transcript,
    Usage,
    Worker,
)
from whisperd.client.risk import Findings, Rescan, RiskOptions
from whisperd.client.sound import OnSent, Reading, Sound, Source
from whisperd.client.stream import SILENCE_SECONDS, Following

GOODBYE_SECONDS = 5.0  # for the daemon to hear that nobody waits any more

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same calls, to be awaited. Use it with `async with`."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = 30.0,
        retries: int = 4,
        retry_delay: float = 0.5,
        connections: int = 100,
    ) -> None:
        """As of `Client`."""
        self._http = httpx.AsyncClient(**settings(url, key, patience, connections))
        self.url = str(self._http.base_url).rstrip("/")
        self._patience = patience
        self._calls = Calls(self.url, retries, retry_delay)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def transcribe(
        self,
        audio: Source | None = None,
        *,
        name: str | None = None,
        audio_url: str | None = None,
        audio_path: str | None = None,
        on_sent: OnSent | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Transcript:
        """Submits, waits and fetches the result. Raises TaskFailed. Cancelled itself, it cancels the task."""
        task = await self.submit(
            audio, name=name, audio_url=audio_url, audio_path=audio_path, on_sent=on_sent, **options
        )
        try:
            task = await self.wait(task.task_id, on_progress=on_progress)
        except asyncio.CancelledError:
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self.cancel(task.task_id)
            raise
        if task.status != "completed":
            raise TaskFailed.of(task)
        return await self.result(task.task_id)

    async def submit(
        self,
        audio: Source | None = None,
        *,
        name: str | None = None,
        audio_url: str | None = None,
        audio_path: str | None = None,
        on_sent: OnSent | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """As `Client.submit`. Cancelled, it makes no task; or, at the very end, one that runs."""
        where = {"audio_url": audio_url, "audio_path": audio_path}
        sound = None if audio is None else Sound(audio, name, on_sent)
        return await self._run(self._calls.submit(sound, {**where, **options}, idempotency_key))

    async def detect_risk(
        self,
        text: str | None = None,
        *,
        segments: Sequence[Mapping[str, Any]] | None = None,
        task_id: str | None = None,
        audio: Source | None = None,
        audio_url: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[RiskOptions],
    ) -> Task:
        """Looks for risk in one of these; audio is transcribed first, and a `task_id` waited for.

        Returns the task that looks: `findings` has its result.
        """
        what = {"text": text, "segments": segments, "task_id": task_id, "audio_url": audio_url}
        sound = None if audio is None else Sound(audio, None, None)
        wanted = {**what, **options}
        return await self._run(self._calls.submit(sound, wanted, idempotency_key, "/tasks/risk-detection"))

    async def rescan_risk(
        self, *, limit: int = 100, cursor: str | None = None, **options: Unpack[RiskOptions]
    ) -> Rescan:
        """Looks through up to `limit` transcripts that are there, the newest first: a task for each."""
        return await self._run(self._calls.rescan(limit, cursor, options))

    async def findings(self, task_id: str, *, redacted: bool | None = None) -> Findings:
        """What a risk detection found; of a transcription, its newest. Raises NotFound without one.

        `redacted`: it quotes nothing that rules want out; None: as it was submitted.
        """
        return await self._run(self._calls.findings(task_id, redacted))

    async def task(self, task_id: str) -> Task:
        return await self._run(self._calls.task(task_id))

    async def timeline(self, task_id: str) -> Timeline:
        """What happened to the task: attempts, chunks, overtakings, deaths of workers, its end."""
        return await self._run(self._calls.timeline(task_id))

    async def explain(self, task_id: str) -> Explanation:
        """Why it is where it is: what is before it, what keeps it, when it is thought to be its turn."""
        return await self._run(self._calls.explain(task_id))

    async def estimate(
        self,
        *,
        duration_seconds: float | None = None,
        size_bytes: int | None = None,
        name: str | None = None,
        model: str | None = None,
        priority: int | None = None,
        plan: str | None = None,
        tenant: str | None = None,
    ) -> Estimate:
        """When a file would begin and be over if it were sent now: of this length, or this size and name."""
        about = {
            "duration_seconds": duration_seconds,
            "size_bytes": size_bytes,
            "name": name,
            "model": model,
            "priority": priority,
            "plan": plan,
            "tenant": tenant,
        }
        return await self._run(self._calls.estimate(about))

    async def wait(
        self, task_id: str, *, seconds: float | None = None, on_progress: OnProgress | None = None
    ) -> Task:
        """The task once it is completed, failed or cancelled. `on_progress` sees it about once a second.

        Raises TimeoutError when that takes longer than `seconds`.
        """
        return await self._run(self._calls.wait(task_id, seconds, on_progress))

    async def result(
        self, task_id: str, *, partial: bool = False, redacted: bool | None = None
    ) -> Transcript:
        """Raises NotFinished, TaskFailed. `partial`: as far as it is certain, of a task that is not over.

        `redacted`: without what rules want out; None: as it was submitted.
        """
        return await self._run(self._calls.result(task_id, partial, redacted))

    async def result_as(
        self, task_id: str, format: str, *, partial: bool = False, redacted: bool | None = None
    ) -> str:
        """The transcript as text, srt, vtt, tsv, json or verbose_json. Raises as `result` does."""
        return await self._run(self._calls.result_as(task_id, format, partial, redacted))

    async def link(
        self, task_id: str, format: str = "json", *, seconds: int | None = None, redacted: bool = False
    ) -> Link:
        """A URL of the transcript in S3 that works without a key, for `seconds`, or as long as links may.

        As json, text, srt, vtt or tsv; `redacted`: without what rules want out. Raises as `result` does, and
        InvalidRequest where the daemon has no bucket for links.
        """
        return await self._run(self._calls.link(task_id, format, seconds, redacted))

    async def events(self, task_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """Follows the task until it is finished; `after` is the id of the last event already seen.

        A connection that is cut is made again, without a gap and without an event coming twice.
        """
        following = Following(self._calls, task_id, after)
        while not following.over:
            outcome: httpx.Response | httpx.RequestError | None = None
            try:
                async with self._http.stream(**self._streamed(following.request())) as response:
                    if response.is_success:
                        following.began(response.status_code)
                        async for block in response.aiter_bytes():
                            for event in following.heard(block):
                                yield event
                    else:
                        await response.aread()
                        outcome = response
            except httpx.RequestError as error:
                outcome = error
            if not following.over:
                await asyncio.sleep(following.ended(outcome))

    async def list(
        self,
        *,
        limit: int = 50,
        status: str | None = None,
        kind: str | None = None,
        tenant: str | None = None,
        q: str | None = None,
    ) -> tuple[Task, ...]:
        """The newest first. `status`: one, or several with commas; `q`: text in the name of the audio."""
        filters = {"status": status, "kind": kind, "tenant": tenant, "q": q}
        return await self._run(self._calls.list(limit, filters))

    async def list_all(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        tenant: str | None = None,
        q: str | None = None,
    ) -> AsyncIterator[Task]:
        """All of them, the newest first, asked for page by page as they are needed."""
        filters = {"status": status, "kind": kind, "tenant": tenant, "q": q}
        cursor: str | None = None
        while True:
            tasks, cursor = await self._run(self._calls.page(filters, PAGE, cursor))
            for task in tasks:
                yield task
            if cursor is None:
                return

    async def cancel(self, task_id: str) -> Task:
        """Raises WrongState when it is finished."""
        return await self._run(self._calls.cancel(task_id))

    async def retry(self, task_id: str) -> Task:
        """A failed or cancelled task runs again. Raises WrongState, AudioGone."""
        return await self._run(self._calls.retry(task_id))

    async def retry_many(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Failed or cancelled tasks run again; of each that does not, the code of why."""
        return await self._run(self._calls.retry_many(task_ids))

    async def change(
        self,
        task_id: str,
        *,
        priority: int | None = None,
        run_at: datetime | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Task:
        """Changes what is given of a task that is queued. Raises WrongState."""
        return await self._run(self._calls.change(task_id, priority, run_at, metadata))

    async def usage(
        self,
        *,
        first: date | str | None = None,
        last: date | str | None = None,
        tenant: str | None = None,
        group_by: str | None = None,
    ) -> Usage:
        """What tenants had done for them in these days (UTC, "2026-11-28"), the last 30 if not given.

        `group_by`: some of day, tenant and model, with commas between.
        """
        filters = {
            "from": str(first) if first else None,
            "to": str(last) if last else None,
            "tenant": tenant,
            "group_by": group_by,
        }
        return await self._run(self._calls.usage(filters))

    async def stats(self) -> Stats:
        return await self._run(self._calls.stats())

    async def workers(self) -> Sequence[Worker]:
        return await self._run(self._calls.workers())

    async def health(self) -> Health:
        """What the daemon says of itself, also when it says that it is down."""
        return await self._run(self._calls.health())

    async def backup(self) -> Backup:
        """Has the daemon take a backup now, and waits for it."""
        return await self._run(self._calls.backup())

    async def backups(self) -> Sequence[Backup]:
        """Newest first, the broken ones too."""
        return await self._run(self._calls.backups())

    async def deliveries(
        self,
        *,
        limit: int = 50,
        state: str | None = None,
        task_id: str | None = None,
        tenant: str | None = None,
    ) -> Sequence[Delivery]:
        """What webhooks were told, or are still to be told, the newest first."""
        filters = {"state": state, "task_id": task_id, "tenant": tenant}
        return await self._run(self._calls.deliveries(limit, filters))

    async def resend(self, delivery_id: str) -> Delivery:
        """Has a webhook delivered now, whatever became of it, under the id that it has."""
        return await self._run(self._calls.resend(delivery_id))

    async def sweep(self) -> Swept:
        """Takes chunks from workers that are gone."""
        return await self._run(self._calls.sweep())

    async def clear(self, states: Sequence[str], older_than_hours: float) -> int:
        """Deletes finished tasks with their audio and transcripts; how many."""
        return await self._run(self._calls.clear(states, older_than_hours))

    async def pause(self) -> bool:
        """Nothing more is handed out to the workers; what runs is finished. Whether it is paused now."""
        return await self._run(self._calls.pause())

    async def resume(self) -> bool:
        return await self._run(self._calls.resume())

    async def drain(self, timeout_seconds: float | None = None) -> Draining:
        """Empty the daemon: it finishes what runs and takes nothing new; after so long others have it."""
        return await self._run(self._calls.drain(timeout_seconds))

    async def draining(self) -> Draining:
        """How far it is with that."""
        return await self._run(self._calls.draining())

    async def undrain(self) -> Draining:
        """Take work again."""
        return await self._run(self._calls.undrain())

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                step = flow.send(await self._outcome(step))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _outcome(self, step: Request | Pause) -> httpx.Response | httpx.RequestError | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._send(step)
        except httpx.RequestError as error:
            return error

    async def _send(self, asked: Request) -> httpx.Response:
        if asked.sound is None:
            return await self._http.send(built(self._http, asked, None, self._patience))
        async with _opened(asked.sound) as file:
            request = built(self._http, asked, file, self._patience)
            assert isinstance(request.stream, httpx.SyncByteStream)
            request.stream = _InThreads(request.stream)
            return await self._http.send(request)

    def _streamed(self, asked: Request) -> dict[str, Any]:
        silence = timeout(max(self._patience, SILENCE_SECONDS))
        return {"method": asked.method, "url": asked.path, "headers": asked.headers, "timeout": silence}


class _InThreads(httpx.AsyncByteStream):
    """A body that is read from a disk, which may take its time."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        blocks = iter(self._body)
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            yield block


@asynccontextmanager
async def _opened(sound: Sound) -> AsyncIterator[Reading]:
    """Opens in a thread, which cannot be cancelled: whatever it opens is closed."""
    opening = asyncio.get_running_loop().run_in_executor(None, sound.open)
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise
    with file:
        yield file


def _close(opening: asyncio.Future[Reading]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()

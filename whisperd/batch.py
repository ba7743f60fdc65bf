"""`whisperd transcribe`: files in, transcripts out, by a running daemon or in this process.

Owns the order of the output, the files it writes and the bars it draws. A call that is interrupted cancels
what it has submitted and not got back: nobody waits for it any more. The same call again comes to the same
tasks, by their Idempotency-Keys, and has those run again that did not end well: their finished chunks stay.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from whisperd.client import AudioGone, Client, DaemonAway, IdempotencyConflict, Task
from whisperd.recordings import Recording
from whisperd.task import Options, State
from whisperd.terminal import complain, safe, write_file
from whisperd.transcript import render

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from whisperd.config import Config
    from whisperd.embedded import Embedded

AT_A_TIME = 8  # files submitted and not yet finished
SUFFIXES = {format: format for format in ("json", "srt", "vtt", "tsv")} | {
    "text": "txt",
    "verbose_json": "verbose.json",  # what is done is known by its name
}

T = TypeVar("T")
Report = Callable[[float], None]  # told how far it is, 0 to 1; from any thread


class Job(NamedTuple):
    path: Path
    target: Path | None  # None: standard output
    name: str  # to speak of it: with the folders that tell it from others


class Failed(Exception):
    """A task that did not end well; says why."""


class Service(Protocol):
    """What transcribes."""

    async def submit(self, path: Path, options: Mapping[str, Any], on_sent: Report) -> str: ...
    async def wait(self, task_id: str, on_progress: Report) -> None: ...  # raises Failed
    async def result(self, task_id: str, format: str) -> str: ...
    async def cancel(self, task_id: str) -> None: ...


def jobs_for(recordings: Sequence[Recording], format: str, folder: Path | None) -> list[Job]:
    """Where the transcript of each goes. Raises ValueError when it would overwrite another of them."""
    if folder is None:
        return [Job(path, None, str(below / path.name)) for path, below in recordings]
    stems = Counter((below, path.stem) for path, below in recordings)
    taken = {path.resolve() for path, _ in recordings}
    jobs = []
    for path, below in recordings:
        name = path.stem if stems[below, path.stem] == 1 else path.name
        target = folder / below / f"{name}.{SUFFIXES[format]}"
        if target.resolve() in taken:
            raise ValueError(f"{safe(str(path))}: its transcript would overwrite {safe(str(target))}")
        taken.add(target.resolve())
        jobs.append(Job(path, target, str(below / path.name)))
    return jobs


def is_done(job: Job) -> bool:
    """Whether there is a transcript that is newer than the audio. It is written whole or not at all."""
    if job.target is None or not job.target.is_file():
        return False
    return job.target.stat().st_mtime >= job.path.stat().st_mtime


async def transcribe(service: Service, jobs: Sequence[Job], options: Mapping[str, Any], format: str) -> int:
    """Runs all the jobs; returns how many failed, each told on standard error."""
    _cancel_on_signal()
    with _Board(len(jobs)) as board:
        batch = _Batch(service, options, format, board, _Output(jobs))
        async with asyncio.TaskGroup() as group:
            for number, job in enumerate(jobs):
                group.create_task(batch.run(number, job), name=f"transcribe {job.name}")
    batch.output.close()
    _tell_failed(batch.failed, len(jobs))
    return len(batch.failed)


def _tell_failed(failed: Mapping[str, str], jobs: int) -> None:
    """Once more, behind all that was said of the others."""
    if failed and jobs > 1:
        complain(f"{len(failed)} of {jobs} files failed:")
        for name, cause in failed.items():
            complain(f"  {name}: {cause}")


def _cancel_on_signal() -> None:
    """A closed terminal ends the call as Ctrl-C does, which asyncio.run sees to."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:  # nohup
            continue
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)


class _Batch:
    def __init__(
        self, service: Service, options: Mapping[str, Any], format: str, board: _Board, output: _Output
    ) -> None:
        self.output = output
        self.failed: dict[str, str] = {}  # why, by path
        self._service = service
        self._options = options
        self._format = format
        self._board = board
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def run(self, number: int, job: Job) -> None:
        async with self._places:
            with self._board.bar(job.name) as report:
                try:
                    text = await self._transcript(job.path, report)
                    await self._deliver(job, text)
                except Exception as error:  # one file that fails is told, and does not stop the others
                    self.failed[str(job.path)] = _cause(error)
                    complain(f"{job.name}: {_cause(error)}")
                    text = None
        self.output.take(number, text)

    async def _transcript(self, path: Path, report: Callable[[str, float], None]) -> str:
        task_id = await self._service.submit(path, self._options, partial(report, "sending"))
        report("waiting", 0.0)
        try:
            await self._service.wait(
                task_id, lambda fraction: report("transcribing" if fraction else "waiting", fraction)
            )
            return await self._service.result(task_id, self._format)
        except asyncio.CancelledError:
            with suppress(Exception):  # it may have finished just now, or the daemon be gone
                await asyncio.shield(self._service.cancel(task_id))
            raise

    async def _deliver(self, job: Job, text: str) -> None:
        if job.target is not None:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(write_file, job.target, text)
            print(f"{safe(job.name)} -> {safe(str(job.target))}", file=sys.stderr)


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__


class _Output:
    """Standard output: the transcripts in the order of the arguments, each as soon as it can be."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._done: dict[int, str | None] = {}
        self._next = 0
        # Bars on the same terminal would be drawn over what is printed between them.
        self._held = sys.stdout.isatty() and sys.stderr.isatty()

    def take(self, number: int, text: str | None) -> None:
        self._done[number] = text
        if not self._held:
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        while self._next in self._done:
            text, job = self._done.pop(self._next), self._jobs[self._next]
            self._next += 1
            if text is not None and job.target is None:
                print(text, end="" if text.endswith("\n") else "\n", flush=True)


class _Board:
    """A bar for each file at work, and one for all of them; nothing where standard error is no terminal."""

    def __init__(self, files: int) -> None:
        self._progress = _progress() if sys.stderr.isatty() else None
        self._all: TaskID | None = None
        self._files, self._done = files, 0
        self._parts: dict[TaskID, float] = {}  # of the files at work, how far each is
        if self._progress and files > 1:
            self._all = self._progress.add_task("all files", total=files, state=f"0 of {files}")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    @contextmanager
    def bar(self, name: str) -> Iterator[Callable[[str, float], None]]:
        """What it yields is told the state, and how far that is from 0 to 1; from any thread."""
        progress = self._progress
        if progress is None:
            yield lambda state, fraction: None
            return
        row = progress.add_task(safe(name), total=1.0, state="")
        before = ""

        def show(state: str, fraction: float) -> None:
            nonlocal before
            if state != before:  # the speed of sending says nothing of when the transcript will be there
                progress.reset(row, state=state)
                before = state
            progress.update(row, completed=fraction)
            if state == "transcribing":
                self._parts[row] = fraction
                self._go_on(progress)

        try:
            yield show
        finally:
            progress.remove_task(row)
            self._parts.pop(row, None)
            self._done += 1
            self._go_on(progress)

    def _go_on(self, progress: Progress) -> None:
        """With the parts of files, so that it knows after a minute of a long one when all will be done."""
        if self._all is not None:
            done = self._done + sum(list(self._parts.values()))
            progress.update(self._all, completed=done, state=f"{self._done} of {self._files}")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    name = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=name),
        TextColumn("{task.fields[state]}", style="dim"),
        BarColumn(20),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, expand=True)


class Remote:
    """The daemon at a URL. Its client blocks, so each call has a thread. `afresh`: joins no earlier task."""

    def __init__(self, client: Client, afresh: bool = False) -> None:
        self._client = client
        self._afresh = afresh
        self._threads = ThreadPoolExecutor(AT_A_TIME + 1)  # one more for a cancel
        self._stopping = False

    async def submit(self, path: Path, options: Mapping[str, Any], on_sent: Report) -> str:
        sending = self._call(self._submit, path, options, on_sent)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._stopping = True
            with suppress(Exception):  # the upload breaks off, or has made a task already
                await self.cancel(await sending)
            raise

    def _submit(self, path: Path, options: Mapping[str, Any], on_sent: Report) -> str:
        def sent(count: int, total: int | None) -> None:
            self._go_on()
            on_sent(min(1.0, count / total) if total else 0.0)

        key = None if self._afresh else call_key(path, options)
        with suppress(IdempotencyConflict, AudioGone):
            task = self._client.submit(path, on_sent=sent, idempotency_key=key, **options)
            if task.status in ("failed", "cancelled"):
                task = self._client.retry(task.task_id)
            return task.task_id
        return self._client.submit(path, on_sent=sent, **options).task_id

    async def reached(self) -> None:
        """Raises DaemonAway."""
        await self._call(self._client.health)

    async def wait(self, task_id: str, on_progress: Report) -> None:
        def went_on(task: Task) -> None:
            self._go_on()
            on_progress(task.progress)

        try:
            task = await self._call(self._client.wait, task_id, on_progress=went_on)
        except DaemonAway as error:
            raise Failed(f"{error}; `whisperd result {task_id}` has it when the daemon is back") from error
        if task.status != "completed":
            raise Failed(task.error.message if task.error else f"the task was {task.status}")

    def _go_on(self) -> None:
        """Lets a thread end that nobody waits for any more."""
        if self._stopping:
            raise Failed("interrupted")

    async def result(self, task_id: str, format: str) -> str:
        return await self._call(self._client.result_as, task_id, format)

    async def cancel(self, task_id: str) -> None:
        self._stopping = True
        await self._call(self._client.cancel, task_id)

    def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **options))


def call_key(path: Path, options: Mapping[str, Any]) -> str:
    """The same for the same file, as it stands there now, and the same options."""
    seen = path.stat()
    named = [os.fsdecode(path.resolve()), seen.st_size, seen.st_mtime_ns, sorted(options.items())]
    said = json.dumps(named).encode()  # ASCII: a name that is no UTF-8 is written out
    return f"transcribe-{hashlib.sha256(said).hexdigest()}"


class Here:
    """The same machinery in this process, for this call."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded

    async def submit(self, path: Path, options: Mapping[str, Any], on_sent: Report) -> str:
        chosen = Options(**{name: value for name, value in options.items() if name != "model"})
        return (await self._embedded.submit_file(path, chosen, options.get("model"))).id

    async def wait(self, task_id: str, on_progress: Report) -> None:
        task = await self._embedded.wait(task_id, lambda task: on_progress(task.progress))
        if task.state != State.COMPLETED:
            raise Failed(task.error.message if task.error else f"the task was {task.state}")

    async def result(self, task_id: str, format: str) -> str:
        return render(await self._embedded.transcript(task_id), format)[0]

    async def cancel(self, task_id: str) -> None:
        """It ends with this process."""


@asynccontextmanager
async def service(
    client: Client, config: Callable[[], Config], afresh: bool = False
) -> AsyncIterator[Service]:
    """The daemon of `client`; this process, by `config`, when none answers there."""
    remote = Remote(client, afresh)
    try:
        await remote.reached()
    except DaemonAway:
        pass
    else:
        yield remote
        return
    from whisperd import logs
    from whisperd.embedded import embedded

    settings = config()
    logs.configure(settings.logging)
    print(f"no daemon at {client.url}: transcribing in this process", file=sys.stderr)
    async with embedded(settings) as here:
        yield Here(here)

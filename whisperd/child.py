"""The worker process: reads one JSON request a line on stdin, answers on a private copy of stdout.

Decoding, speech detection and whisper.cpp run here and nowhere else, so that whatever a file or a model
does to them costs a process and not the daemon. Imports only engine and task. Run it with -m, never by
path: by path its folder comes first on sys.path and whisperd/queue.py hides the standard library's queue.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from whisperd.engine import memory
from whisperd.engine.audio import AudioError, Decoded, Limits, decode
from whisperd.engine.choosing import WHISPER_CPP, device, load, name
from whisperd.engine.language import vote
from whisperd.engine.model import Engine, EngineFailed, EngineStopped, ModelBroken
from whisperd.engine.peaks import peaks
from whisperd.engine.placing import placed
from whisperd.engine.protocol import (
    Abort,
    Aborted,
    Alive,
    Answer,
    MakePlan,
    Mute,
    Muted,
    Planned,
    Probe,
    Ready,
    Refused,
    Request,
    Settings,
    Transcribe,
    Transcribed,
    Work,
)
from whisperd.engine.speech import plan_cuts, window
from whisperd.engine.wav import write_muted
from whisperd.leash import limit, tie
from whisperd.task import SAMPLE_RATE, Cut, Plan

OVERHEAD = 2**31  # bytes of address space that take no memory: libraries, stacks, arenas; 1 GB was seen
MOST_FILES = 1024
PROBE_HERTZ = 440.0
PULSE = 0.5  # seconds between two signs of life, at least
PARTS = ".parts"  # the folder of half decoded audio, beside the pcm; the spool knows it by this name too


class Stopped(Exception):
    """The request was aborted."""


class AudioMissing(Exception):
    """The submitted audio is not there."""


class PcmGone(Exception):
    """The decoded audio is not there, or shorter than the plan says."""


class PlanOutdated(Exception):
    """The plan is that of another engine, or of the model as its file was before."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are the daemon's to handle
        signal.signal(number, signal.SIG_IGN)
    # whisper.cpp prints to fd 1, so the protocol gets a copy of it and fd 1 becomes stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    try:
        _confine(settings)
        Worker(settings, out).run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: to end in order would abort, with the listening thread in the way


class Worker:
    def __init__(self, settings: Settings, out: IO[bytes]) -> None:
        self._settings = settings
        self._out = out
        self._requests: SimpleQueue[Work] = SimpleQueue()
        self._aborted = 0  # the highest request number that was aborted
        self._said_at = 0.0
        self._engine: Engine | None = None
        self._loaded = ""  # what it is: see _heard_by

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        if self._settings.model:
            self._load_first()
        self._say(Ready(device(self._settings)))
        while True:
            self._say(self._answer(self._requests.get()))

    def _load_first(self) -> None:
        try:
            self._model(self._settings.model, self._settings.model_sha256)
        except ModelBroken as broken:  # else nobody would know why it ends
            self._say(Refused("model_unusable", str(broken)))
            raise

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            request = msgspec.json.decode(line, type=Request)
            if isinstance(request, Abort):
                self._aborted = max(self._aborted, request.number)
            else:
                self._requests.put(request)
        os._exit(0)  # the daemon is gone: nobody is left to read an answer

    def _say(self, answer: Answer) -> None:
        self._said_at = time.monotonic()
        self._out.write(msgspec.json.encode(answer) + b"\n")
        self._out.flush()

    def _answer(self, request: Work) -> Answer:
        _ration(request.cpu_seconds)
        try:
            return self._done(request)
        except (Stopped, EngineStopped):
            return Aborted()
        except PcmGone as gone:
            return Refused("pcm_gone", str(gone), "replan")
        except PlanOutdated as outdated:
            return Refused("plan_outdated", str(outdated), "replan")
        except AudioError as error:
            return Refused(error.code, str(error))
        except AudioMissing:
            return Refused("audio_missing", "the submitted audio is not kept any more")
        except MemoryError:
            return Refused("out_of_memory", "the worker ran out of memory")
        except OSError as error:
            return _disk_trouble(error)
        except ModelBroken as error:
            return Refused("model_unusable", str(error))
        except EngineFailed as error:
            return Refused("engine_error", str(error), "retry")

    def _done(self, request: Work) -> Answer:
        match request:
            case MakePlan():
                return self._plan(request)
            case Transcribe():
                return self._transcribe(request)
            case Probe():
                return self._probe(request)
            case Mute():
                return self._mute(request)

    def _plan(self, request: MakePlan) -> Planned:
        decoded = self._decode(request)
        pcm = _pcm(request.pcm, decoded.channels, decoded.samples)
        found = plan_cuts(pcm, vad=request.options.vad, tick=lambda seconds: self._pulse(request.number))
        spoken = tuple(msgspec.structs.replace(cut, channels=decoded.channels) for cut in found)
        language, probability = self._language(request, pcm, spoken)
        cuts = () if request.options.detect_only else spoken
        engine = name(request.model, self._settings)
        return Planned(
            Plan(
                fingerprint=_fingerprint(request, cuts, engine),
                cuts=cuts,
                duration=decoded.samples / SAMPLE_RATE,
                language=language,
                language_probability=probability,
                warnings=tuple(decoded.warnings),
                model_sha256=request.model_sha256,
                heard_by=_heard_by(engine, request.model_sha256),
                peaks=peaks(pcm, lambda: self._pulse(request.number)),
            )
        )

    def _decode(self, request: MakePlan) -> Decoded:
        with _source(request.audio) as source, _part(request) as target:
            decoded = decode(
                source,
                target,
                split=request.options.channels == "split",
                limits=Limits(seconds=request.max_seconds),
                tick=lambda seconds: self._pulse(request.number),
            )
            target.flush()
            os.fsync(target.fileno())
            try:
                os.rename(target.name, request.pcm)
            except FileNotFoundError:
                raise PcmGone("the decoded audio was removed while it was made") from None
        return decoded

    def _language(
        self, request: MakePlan, pcm: NDArray[np.int16], cuts: tuple[Cut, ...]
    ) -> tuple[str, float | None]:
        """Asked for, or elected with a probability: one for the whole task, so that chunks agree."""
        if request.options.language != "auto":
            return request.options.language, None
        if not cuts:
            return "en", None
        engine = self._model(request.model, request.model_sha256)

        def ask(cut: Cut) -> NDArray[np.float32]:
            self._pulse(request.number)
            return engine.language_probabilities(window(pcm, cut))

        elected, probability = vote(cuts, ask)
        return engine.languages[elected], probability

    def _transcribe(self, request: Transcribe) -> Transcribed:
        began = time.monotonic()
        cut = request.cut
        engine = self._model(request.model, request.model_sha256)
        if request.heard_by not in (None, self._loaded):  # else half a transcript would be of either
            raise PlanOutdated("the task was begun by another engine, or with another model file")
        pcm = _pcm(request.pcm, cut.channels, cut.pieces[-1].end)
        self._pulse(request.number)
        stop = self._stopping(request.number)
        if request.language not in engine.languages:  # of the newest models one more than of the others
            raise ModelBroken(f"the model does not know the language {request.language}")
        segments, warnings = engine.transcribe(
            window(pcm, cut), request.options, request.language, stop, cut.part
        )
        said = [placed(segment, cut, request.options) for segment in segments]
        return Transcribed(said, time.monotonic() - began, warnings)

    def _probe(self, request: Probe) -> Transcribed:
        began = time.monotonic()
        self._pulse(request.number)
        engine = self._model(request.model, request.model_sha256)
        engine.probe(_hum(), self._stopping(request.number))
        return Transcribed([], time.monotonic() - began)

    def _mute(self, request: Mute) -> Muted:
        with _source(request.audio) as source, _whole(request) as target:
            write_muted(
                source,
                target,
                request.silent,
                split=request.split,
                limits=Limits(seconds=request.max_seconds),
                tick=lambda seconds: self._pulse(request.number),
            )
        return Muted()

    def _stopping(self, number: int) -> Callable[[], bool]:
        """For the engine to ask: shows a sign of life, and says whether there was an abort."""

        def stop() -> bool:
            with suppress(OSError):
                self._alive()
            return self._aborted >= number

        return stop

    def _pulse(self, number: int) -> None:
        """For long work to call: raises Stopped after an abort, else shows a sign of life."""
        if self._aborted >= number:
            raise Stopped
        self._alive()

    def _alive(self) -> None:
        if time.monotonic() - self._said_at >= PULSE:
            self._say(Alive())

    def _model(self, path: str, sha256: str) -> Engine:
        """The one that is asked for, loaded anew where its file was replaced since. Raises ModelBroken."""
        wanted = _heard_by(name(path, self._settings), sha256)
        if self._engine is None or (self._engine.path, self._loaded) != (path, wanted):
            if self._engine is not None:
                self._engine.close()  # first: two large models may not fit
            self._engine = None
            self._engine, self._loaded = load(path, self._settings), wanted
        return self._engine


def _hum() -> NDArray[np.float32]:
    """A second of a steady tone."""
    turns = np.arange(SAMPLE_RATE) * (PROBE_HERTZ / SAMPLE_RATE)
    return np.asarray(0.3 * np.sin(2 * np.pi * turns), np.float32)


def _source(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioMissing from None


@contextmanager
def _part(request: MakePlan) -> Iterator[BinaryIO]:
    """A new file of this request alone, gone in the end unless it got another name.

    It lies in a folder of its task's, so that all parts of a task can be removed without a look at those of
    all others. Whatever is in there was left by a child that was killed, or belongs to one that is about to
    be: a task that is cancelled and retried at once is decoded by two for a while.
    """
    folder = Path(request.pcm).with_suffix(PARTS)
    shutil.rmtree(folder, ignore_errors=True)
    part = folder / f"{os.getpid()}-{request.number}"
    try:
        with _created(part) as file:
            yield file
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):  # another request's is in it
            folder.rmdir()


def _created(part: Path) -> BinaryIO:
    while True:
        with suppress(FileExistsError):
            os.mkdir(part.parent, 0o700)
        with suppress(FileNotFoundError):  # the other request removed the folder in between
            return open(part, "xb")


@contextmanager
def _whole(request: Mute) -> Iterator[BinaryIO]:
    """A new file, which gets its name when the block ends well, and else is gone.

    Not synced: what a crash may leave of it is removed at the next start.
    """
    part = Path(f"{request.wav}.{os.getpid()}-{request.number}")
    try:
        with open(part, "xb") as file:
            yield file
        part.rename(request.wav)
    finally:
        part.unlink(missing_ok=True)


def _disk_trouble(error: OSError) -> Refused:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Refused("storage_full", "no disk space is left for the decoded audio", "wait")
        case errno.EFBIG:  # RLIMIT_FSIZE
            return Refused("audio_too_long", "its decoded audio is larger than a file may be")
    return Refused("disk_error", f"the worker could not use its disk: {error.strerror}", "retry")


def _pcm(path: str, channels: int, samples: int) -> NDArray[np.int16]:
    """The decoded audio, shape (samples, channels), mapped and not read. Raises PcmGone."""
    try:
        size = os.path.getsize(path)
    except FileNotFoundError:
        size = -1
    if size < samples * channels * 2:
        raise PcmGone("the decoded audio has to be made again")
    if size == 0:
        return np.zeros((0, channels), np.int16)
    return np.memmap(path, np.int16, "r").reshape(-1, channels)


def _heard_by(engine: str, model_sha256: str) -> str:
    return f"{engine} {model_sha256}"


def _fingerprint(request: MakePlan, cuts: tuple[Cut, ...], engine: str) -> str:
    # With whisper.cpp as before there was another: it is not named, and parts no window.
    others: tuple[str, ...] = (engine,)
    if engine == WHISPER_CPP:
        cuts, others = tuple(msgspec.structs.replace(cut, part=0) for cut in cuts), ()
    parts = (request.audio_sha256, request.model_sha256, request.options, cuts, *others)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _confine(settings: Settings) -> None:
    """Give way to the daemon, die with it, and be unable to gain or dump anything."""
    tie(settings.daemon_pid, settings.nice)
    if settings.max_file_bytes:  # beyond it a write fails with EFBIG: Python ignores SIGXFSZ
        limit(resource.RLIMIT_FSIZE, settings.max_file_bytes)
    limit(resource.RLIMIT_NOFILE, MOST_FILES)
    if most := _address_space(settings):
        limit(resource.RLIMIT_AS, most)


def _address_space(settings: Settings) -> int:
    """In bytes, 0 = no limit. By itself what could fit into the machine's memory, and the mapped PCM.

    None with a GPU: CUDA reserves hundreds of GB of addresses, whatever memory there is.
    """
    if settings.max_memory_bytes or device(settings) == "gpu":
        return settings.max_memory_bytes
    return memory.total_bytes() + settings.max_file_bytes + OVERHEAD


def _ration(cpu_seconds: float) -> None:
    """Have the kernel end this process (SIGXCPU) if it uses more from here on; 0 = no limit.

    Should the daemon be stuck too, a loop that never ends would use a core for good.
    """
    if cpu_seconds:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = math.ceil(used.ru_utime + used.ru_stime + cpu_seconds)
        resource.setrlimit(
            resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


if __name__ == "__main__":
    main()

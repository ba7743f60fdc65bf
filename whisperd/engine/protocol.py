"""What the pool and its children say to each other: one JSON object a line, the type in its `type` field.

The child says Ready once, or Refused where it cannot load its first model, and ends; then each request is
answered by any number of Alive and one of the others.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from whisperd.task import Cut, Options, Piece, Plan, Segment


class Settings(Struct, frozen=True, kw_only=True):
    """How a child is to run; its command line holds it as JSON."""

    model: str  # path of the model to have loaded when it says Ready; "": none, where only Mute is asked for
    model_sha256: str
    daemon_pid: int  # the child ends when this is not its parent any more
    threads: int
    engine: Literal["auto", "whisper.cpp", "ctranslate2"] = "whisper.cpp"
    gpu: bool = True
    card: str = ""  # the GPU, by its number; "": whichever CUDA takes
    nice: int = 10
    max_memory_bytes: int = 0  # address space; 0 = by the machine's memory, or no limit with a GPU
    max_file_bytes: int = 0  # of any file it writes, so of the decoded audio; 0 = no limit


class MakePlan(Struct, frozen=True, kw_only=True, tag="plan"):
    """Decode `audio` into `pcm`, find the speech, decide the cuts."""

    number: int  # of the request; an Abort names it
    audio: str  # path
    pcm: str  # path; written to a folder beside it and renamed, so that it is whole or absent
    model: str  # path
    model_sha256: str
    audio_sha256: str
    options: Options
    max_seconds: float  # of decoded audio
    cpu_seconds: float = 0.0  # processor time for this request, of all threads; 0 = no limit


class Transcribe(Struct, frozen=True, kw_only=True, tag="transcribe"):
    number: int
    pcm: str
    model: str
    model_sha256: str
    heard_by: str | None  # as the plan says; None: an older one, which does not
    options: Options
    language: str
    cut: Cut
    cpu_seconds: float = 0.0


class Probe(Struct, frozen=True, kw_only=True, tag="probe"):
    """Transcribe a second of sound that the child makes by itself; what it hears in it does not matter."""

    number: int
    model: str
    model_sha256: str
    cpu_seconds: float = 0.0


class Mute(Struct, frozen=True, kw_only=True, tag="mute"):
    """Decode `audio` into a WAV file in which nothing is to be heard of some stretches. Takes no model."""

    number: int
    audio: str  # path
    wav: str  # path; written beside it and renamed, so that it is whole or absent
    split: bool  # two channels stay two
    silent: tuple[Piece, ...]
    max_seconds: float  # of decoded audio
    cpu_seconds: float = 0.0


class Abort(Struct, frozen=True, tag="abort"):
    """Stop working on that request, if it is the present one."""

    number: int


class Ready(Struct, frozen=True, tag="ready"):
    device: str = "cpu"  # or "gpu": where the model is


class Alive(Struct, frozen=True, tag="alive"):
    """A sign of life, and no more: how much of one window is done nobody knows before it is."""


class Planned(Struct, frozen=True, tag="planned"):
    plan: Plan


class Transcribed(Struct, frozen=True, tag="transcribed"):
    segments: list[Segment]
    seconds: float  # it took
    warnings: tuple[str, ...] = ()  # "repetition"


class Muted(Struct, frozen=True, tag="muted"):
    pass


class Refused(Struct, frozen=True, tag="refused"):
    """The child is well, but cannot do this.

    `retry`: it may go better; `wait`: it will, once the disk has room, and nobody is to blame; `replan`: the
    pcm is gone, or the plan is not for this engine with this model.
    """

    code: str
    message: str
    then: Literal["fail", "retry", "wait", "replan"] = "fail"


class Aborted(Struct, frozen=True, tag="aborted"):
    pass


Work = MakePlan | Transcribe | Probe | Mute
Request = Work | Abort
Answer = Ready | Alive | Planned | Transcribed | Muted | Refused | Aborted

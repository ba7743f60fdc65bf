"""What the daemon and a process that searches tell each other: a JSON object a line, each answered by one."""

from __future__ import annotations

from msgspec import Raw, Struct

from whisperd.look import Sighting
from whisperd.task import Detection


class Settings(Struct, frozen=True, kw_only=True):
    """How it is to run; its command line holds it as JSON."""

    daemon_pid: int  # it ends when this is not its parent any more
    rules_dir: str
    nice: int
    max_memory_bytes: int = 2**30  # of address space, most of which are libraries


class Begin(Struct, frozen=True, tag="begin"):
    """Go by these packs, by file; `reread`: then read the files, of which a broken one stays as it was."""

    sources: dict[str, str]
    left_out: tuple[str, ...]  # files whose packs are broken, and never were whole
    reread: bool


class Check(Struct, frozen=True, kw_only=True, tag="check"):
    """Whether there are such packs, and the rules can be used beside them."""

    packs: tuple[str, ...]
    rules: str | None  # a JSON array


class Search(Struct, frozen=True, kw_only=True, tag="search"):
    segments: Raw  # a JSON array
    asked: Detection
    rules: str | None  # a JSON array
    so_far: bool = False  # the call goes on: nothing is missing yet, and where its end is nobody knows


class InForce(Struct, frozen=True, kw_only=True, tag="in_force"):
    sources: dict[str, str]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]  # of the files, each with its line


class Wrong(Struct, frozen=True, tag="wrong"):
    """The request makes no sense: of packs or rules, as `field` says."""

    field: str
    message: str


class Right(Struct, frozen=True, tag="right"):
    pass


class Found(Struct, frozen=True, kw_only=True, tag="found"):
    document: Raw  # a whisperd.risk.report.Document
    counts: tuple[tuple[str, str, int], ...]  # category, severity, and how many were found
    sightings: tuple[Sighting, ...]


class NoMemory(Struct, frozen=True, tag="no_memory"):
    pass


Request = Begin | Check | Search
Answer = InForce | Wrong | Right | Found | NoMemory

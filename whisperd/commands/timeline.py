"""How `whisperd show` prints what happened to a task."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from whisperd.terminal import rfc3339, safe, show_table, spell

if TYPE_CHECKING:
    from whisperd.client import Moment, Timeline


def show_timeline(timeline: Timeline) -> None:
    """A line each; chunks that were finished in a row are one. Below them what dead workers said last."""
    if timeline.truncated:
        print("what happened before is not kept", file=sys.stderr)
    show_table(("WHEN", "WHAT", "MORE"), list(_rows(timeline.events)), "MORE")
    for moment in timeline.events:
        if moment.stderr:
            print(f"\nlast words of worker {moment.worker}, {_when(moment)}:")
            print("".join(f"    {safe(line)}\n" for line in moment.stderr.splitlines()), end="")


def _rows(moments: Sequence[Moment]) -> Iterator[Sequence[str]]:
    for is_chunk, found in groupby(moments, lambda moment: moment.kind == "chunk"):
        some = list(found)
        if is_chunk and len(some) > 1:
            yield _when(some[-1]), f"{len(some)} chunks", _work(some)
        else:
            yield from ((_when(moment), moment.kind.replace("_", " "), _more(moment)) for moment in some)


def _when(moment: Moment) -> str:
    return (rfc3339(moment.at) or "")[:19] + "Z"


def _work(chunks: Sequence[Moment]) -> str:
    workers = {chunk.worker for chunk in chunks} - {None}
    seconds = sum(chunk.seconds or 0.0 for chunk in chunks)
    return f"{len(workers) or 'unknown'} workers, {spell(seconds)} of work"


def _more(moment: Moment) -> str:
    said = (
        f"chunk {moment.chunk}" if moment.chunk else "plan" if moment.chunk == 0 else None,
        f"attempt {moment.attempt}" if (moment.attempt or 1) > 1 else None,
        f"worker {moment.worker}" if moment.worker is not None else None,
        spell(moment.seconds) if moment.seconds is not None else None,
        f"{moment.real_time_factor:.2g} s a second" if moment.real_time_factor is not None else None,
        moment.message,
        f"again in {spell(moment.retry_in_seconds)}" if moment.retry_in_seconds is not None else None,
        _priority(moment),
        f"not before {rfc3339(moment.run_at)}" if moment.run_at else None,
        f"task {moment.twin_id}" if moment.twin_id else None,
        f"{moment.times} times, last {(rfc3339(moment.last_at) or '')[:19]}Z" if moment.times > 1 else None,
    )
    return ", ".join(part for part in said if part)


def _priority(moment: Moment) -> str | None:
    if moment.priority is None:
        return None
    return f"by priority {moment.priority}" if moment.kind == "overtaken" else f"priority {moment.priority}"

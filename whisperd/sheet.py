"""All there is to say of one task, in groups of named values, for `show` and the details of `watch`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from whisperd.client import Task
from whisperd.terminal import clock, megabytes, rfc3339, spell

Fields = Sequence[tuple[str, object]]  # None: nothing to say of it


def sheet(task: Task) -> Sequence[Fields]:
    return (_state(task), _audio(task), _terms(task), _times(task))


def _state(task: Task) -> Fields:
    error, eta = task.error, task.eta_seconds
    return (
        ("task", task.task_id),
        ("status", task.status),
        ("error", error and f"{error.message} ({error.code})"),
        ("position", task.position),
        ("done", f"{task.progress:.0%}"),
        ("expected", None if eta is None else f"in about {spell(eta)}"),
        ("warnings", ", ".join(task.warnings) or None),
    )


def _audio(task: Task) -> Fields:
    audio, sure = task.audio, task.language_probability
    language = task.language and task.language + (f" ({sure:.0%} sure)" if sure is not None else "")
    return (
        ("file", audio.name),
        ("length", clock(audio.duration)),
        ("size", megabytes(audio.size)),
        ("sha256", audio.sha256 or None),
        ("language", language),
    )


def _terms(task: Task) -> Fields:
    return (
        ("kind", task.kind),
        ("model", task.model),
        ("priority", task.priority),
        ("tenant", task.tenant),
        ("attempt", f"{task.attempt} of {task.max_retries + 1}"),
        ("metadata", json.dumps(task.metadata, ensure_ascii=False) if task.metadata else None),
    )


def _times(task: Task) -> Fields:
    return (
        ("submitted", rfc3339(task.created_at)),
        ("runs at", rfc3339(task.run_at)),
        ("started", _after(task.started_at, task.created_at)),
        ("finished", _after(task.finished_at, task.started_at)),
    )


def _after(moment: datetime | None, before: datetime | None) -> str | None:
    if moment is None or before is None or moment < before:
        return rfc3339(moment)
    return f"{rfc3339(moment)} (after {spell((moment - before).total_seconds())})"

"""The command `bench`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whisperd.commands import Json, ModelsDir, Settings, command
from whisperd.terminal import megabytes, show_json, show_table, spell

if TYPE_CHECKING:
    from whisperd.bench import Arrangement, Failure, Figures
    from whisperd.config import Config
    from whisperd.models import ModelFile

app = typer.Typer()

HEAD = ("MODEL", "ENGINE", "WORKERS", "THREADS", "SPEED", "AN HOUR IN", "ONE CLIP", "MEMORY")
HOUR = 3600.0

Only = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="Only this one.", show_default=False)
]
Clip = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Speech of your own, short.", show_default=False)
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=1, max=3600, help="For each row; more is more exact.")
]


@command(app, "bench", "The daemon")
def bench(
    file: Clip = None,
    *,
    model: Only = None,
    seconds: Seconds = 10,
    config: Settings = None,
    models_dir: ModelsDir = None,
    json: Json = False,
) -> None:
    """Measure how fast this machine transcribes, and say which settings suit it.

    Each installed model is run by each installed engine that can, with few workers of many threads and many
    of few, on a queue of its own without the limits of your settings. It takes all the cores that whisperd
    may have: ask for it while no daemon is at work.

    Columns: model, engine, workers, threads of each, seconds of audio in a second, how long an hour of audio
    takes when all workers are busy, how long one clip takes alone, memory of all workers.

      $ whisperd bench
      $ whisperd bench --model small.en --seconds 30 call.wav
    """
    from whisperd import logs
    from whisperd.bench import SAMPLE, arrangements
    from whisperd.config import Logging, cores, find, load

    settings = load(find(config), overrides={"storage.models_dir": models_dir})
    logs.configure(Logging(level="error"))
    wanted = arrangements(_models(settings, model), cores(), gpu=settings.workers.gpu)
    show = _show_json if json else _show
    show(asyncio.run(_measured(settings, wanted, file or SAMPLE, seconds)))


def _models(settings: Config, only: Sequence[str] | None) -> Sequence[ModelFile]:
    """The installed ones, the smallest first. Raises what is not installed."""
    from whisperd import models

    folder = settings.models_dir
    if only:
        found = [models.find(name, folder) for name in only]
    else:
        if not (found := models.installed(folder)):
            models.ensure_default(folder)
            found = models.installed(folder)
    return sorted(found, key=lambda one: one.path.stat().st_size)


async def _measured(
    settings: Config, wanted: Sequence[Arrangement], clip: Path, seconds: float
) -> Sequence[Figures | Failure]:
    from whisperd.bench import measured

    found: list[Figures | Failure] = []
    _say(wanted, 0)
    async for one in measured(settings, wanted, clip, seconds):
        found.append(one)
        _say(wanted, len(found))
    return found


def _say(wanted: Sequence[Arrangement], done: int) -> None:
    """Which one runs now, on a terminal, in one line that goes again."""
    if not sys.stderr.isatty():
        return
    text = ""
    if done < len(wanted):
        text = f"{done + 1} of {len(wanted)}: {_named(wanted[done])} …"
    print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def _show(found: Sequence[Figures | Failure]) -> None:
    from whisperd.bench import best

    figures, failures = _apart(found)
    show_table(HEAD, [_row(one) for one in found], "MODEL")
    for failure in failures:
        print(f"\n{_named(failure.arrangement)} failed: {failure.why}")
    _advise(best(figures))


def _show_json(found: Sequence[Figures | Failure]) -> None:
    from whisperd.bench import best

    figures, failures = _apart(found)
    lists: dict[str, Sequence[Figures | Failure]] = {
        "measured": figures,
        "best": best(figures),
        "failed": failures,
    }
    show_json({name: [_plain(one) for one in some] for name, some in lists.items()})


def _apart(found: Sequence[Figures | Failure]) -> tuple[Sequence[Figures], Sequence[Failure]]:
    """Raises BenchFailed where nothing could be measured."""
    from whisperd.bench import BenchFailed, Figures

    figures = [one for one in found if isinstance(one, Figures)]
    failures = [one for one in found if not isinstance(one, Figures)]
    if not figures:
        raise BenchFailed(failures[0].why)
    return figures, failures


def _named(one: Arrangement) -> str:
    return f"{one.model}, {one.engine}, {one.workers} × {one.threads}"


def _row(one: Figures | Failure) -> Sequence[str]:
    from whisperd.bench import Failure

    begin = [str(part) for part in one.arrangement]
    if isinstance(one, Failure):
        return (*begin, "failed", "", "", "")
    return (
        *(*begin, f"{one.speed:.1f}×"),
        *(spell(HOUR / one.speed), f"{one.alone_seconds:.1f} s", megabytes(one.rss_bytes)),
    )


def _plain(one: Figures | Failure) -> dict[str, object]:
    return {
        **one.arrangement._asdict(),
        **{name: value for name, value in one._asdict().items() if name != "arrangement"},
    }


def _advise(best: Sequence[Figures]) -> None:
    for one in best:
        model, engine, workers, threads = one.arrangement
        keeps_up = (
            f"keeps up with {int(one.speed)} people talking" if one.speed >= 1 else "is slower than speech"
        )
        print(f"\n{model} {keeps_up}: an hour of audio in {spell(HOUR / one.speed)}. In config.toml:")
        print(f'  [workers]\n  model = "{model}"\n  engine = "{engine}"')
        print(f"  count = {workers}\n  threads = {threads}")

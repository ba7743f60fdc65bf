"""The commands `models list|pull|import|verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whisperd.commands import Json, ModelsDir, Settings, command
from whisperd.terminal import megabytes, progress_bar, show_json, show_table

if TYPE_CHECKING:
    from whisperd.catalogue import Entry
    from whisperd.models import ModelFile

app = typer.Typer(no_args_is_help=True, help="The speech models: which there are, and bringing them here.")

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", show_default=False)]
Trust = Annotated[bool, typer.Option("--trust", help="Take the files as they are for right, from now on.")]


@command(app, "list")
def models_list(config: Settings = None, models_dir: ModelsDir = None, json: Json = False) -> None:
    """List the models that are here and those that can be pulled."""
    from whisperd import models
    from whisperd.catalogue import catalogue

    here = {model.name: model for model in models.installed(_models_dir(config, models_dir))}
    rows = [_row(name, here.get(name), catalogue().get(name)) for name in sorted({*here, *catalogue()})]
    if json:
        show_json(rows)
    else:
        show_table(("NAME", "HERE", "SIZE", "LANGUAGES"), [_cells(row) for row in rows], "NAME")


def _row(name: str, model: ModelFile | None, entry: Entry | None) -> dict[str, Any]:
    size = model.path.stat().st_size if model else entry and entry.size_bytes
    multilingual = model.multilingual if model else entry is not None and len(entry.languages) > 1
    return {"name": name, "installed": model is not None, "bytes": size, "multilingual": multilingual}


def _cells(row: dict[str, Any]) -> Sequence[str]:
    size = megabytes(row["bytes"]) if row["bytes"] else "-"
    languages = "many" if row["multilingual"] else "English"
    return row["name"], "yes" if row["installed"] else "-", size, languages


@command(app, "pull")
def models_pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", show_default=False)],
    config: Settings = None,
    models_dir: ModelsDir = None,
) -> None:
    """Download models from the Hugging Face hub and check their SHA-256.

    A download that was cut off goes on where it stopped. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN hold.

      $ whisperd models pull base.en large-v3-turbo-q5_0
    """
    from whisperd import models

    for name in names:
        with progress_bar(name) as report:
            path = models.pull(name, _models_dir(config, models_dir), report)
        print(path)


@command(app, "import")
def models_import(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it; else the folder's name.", show_default=False)
    ] = None,
    config: Settings = None,
    models_dir: ModelsDir = None,
) -> None:
    """Make a model from a CTranslate2 (faster-whisper) folder.

    Without a folder: tiny.en, from the package that the extra tiny-en installs.

      $ whisperd models import ~/faster-whisper-small.en
    """
    from whisperd import models

    here = _models_dir(config, models_dir)
    if folder is None:
        print(models.ensure_default(here))
    else:
        called = name or folder.resolve().name.removeprefix("faster-whisper-")
        print(models.import_ct2(folder, here, called))


@command(app, "verify")
def models_verify(
    names: Names = None,
    trust: Trust = False,
    config: Settings = None,
    models_dir: ModelsDir = None,
    json: Json = False,
) -> None:
    """Check models, or all that are here, against the SHA-256 they must have.

    unknown: nothing says what the file should be; --trust takes it as it is. Exit status 1 unless all are ok.
    """
    from whisperd import models

    paths = _paths(_models_dir(config, models_dir), names)
    if trust:
        for path in paths.values():
            models.trust(path)
    verdicts = {name: str(models.verify(path)) for name, path in paths.items()}
    if json:
        show_json(verdicts)
    else:
        show_table(("NAME", "VERDICT"), list(verdicts.items()), "NAME")
    raise typer.Exit(any(verdict != "ok" for verdict in verdicts.values()))


def _paths(folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Where these models are, or all that are in the folder."""
    from whisperd.catalogue import file_name

    every = [path.stem.removeprefix("ggml-") for path in sorted(folder.glob("ggml-*.bin"))]
    return {name: folder / file_name(name) for name in names or every}


def _models_dir(config: Path | None, folder: str | None) -> Path:
    from whisperd.config import load

    return load(config, overrides={"storage.models_dir": folder}, may_be_foreign=True).models_dir

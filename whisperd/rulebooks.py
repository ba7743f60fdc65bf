"""The rule packs there are: those that come with whisperd, and those in a folder of the user's own.

Reads files, and holds what was read last: a file that is broken on a later look leaves its pack as it was.
What a pack says and does is risk's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from whisperd.risk.reading import BadRules, Problem, ReadPack, read
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.rules import MOST_BYTES

SHIPPED = Path(__file__).with_name("rules")
SCHEMA = SHIPPED / "pack.schema.json"
MOST_FILES = 100  # of the user's own

_LIBRARIES = ("re2", "rapidfuzz", "phonenumbers")


class RiskMissing(Exception):
    """The extra is not installed."""


class Rulebooks:
    """The packs in force. One of the user's own takes the place of the shipped one that has its name."""

    def __init__(self, folder: Path | None) -> None:
        """Reads nothing yet. Raises RiskMissing."""
        need_libraries()
        self._folder = folder
        self._read: Mapping[Path, ReadPack] = {}
        self.rulebook = Rulebook([])

    @property
    def sources(self) -> Mapping[str, str]:
        """What is in force, by file: the old text of one that is broken now."""
        return {str(path): read.source.decode() for path, read in self._read.items()}

    def restore(self, sources: Mapping[str, str]) -> None:
        """Put in force what was so elsewhere, whatever the files hold by now."""
        self._read = {Path(path): read(source.encode(), path) for path, source in sources.items()}
        self.rulebook = Rulebook(list(_by_name(self._read).values()))

    def reload(self) -> Sequence[Problem]:
        """Reads all files anew. A broken one stays as it was, or out, and what is wrong with it comes back.

        Where files cannot be used together, all stay as they were.
        """
        found: dict[Path, ReadPack] = {}
        problems: list[Problem] = []
        for path in files(self._folder):
            try:
                found[path] = load(path)
            except BadRules as error:
                problems += error.problems
                if path in self._read:
                    found[path] = self._read[path]
        try:
            self.rulebook = Rulebook(list(_by_name(found).values()))
        except BadRules as error:
            return [*problems, *error.problems]
        self._read = found
        return problems


def _by_name(found: Mapping[Path, ReadPack]) -> Mapping[str, ReadPack]:
    return {each.pack.name: each for each in found.values()}  # the user's own come last


def files(folder: Path | None) -> Sequence[Path]:
    """The shipped packs, then those of the folder, by name; a folder that is not there has none."""
    own = sorted(path for path in folder.iterdir() if _is_pack(path)) if folder and folder.is_dir() else []
    return [*sorted(SHIPPED.glob("*.toml")), *own[:MOST_FILES]]


def _is_pack(path: Path) -> bool:
    return path.suffix == ".toml" and not path.name.startswith(".")  # what an editor leaves has a dot


def load(path: Path) -> ReadPack:
    """The pack in a file. Raises BadRules, also for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            source = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadRules([Problem(str(path), 1, "", error.strerror or "cannot be read")]) from error
    return read(source, str(path))


def need_libraries() -> None:
    """Raises RiskMissing where the extra is not installed."""
    if not all(find_spec(name) for name in _LIBRARIES):
        raise RiskMissing("risk detection needs more libraries: pip install 'whisperd[risk]'")

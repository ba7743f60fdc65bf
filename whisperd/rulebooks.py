"""The rule packs there are: those that come with whisperd, and those in a folder of the user's own.

Reads files, and holds what was read last: a file that is broken on a later look leaves its pack as it was.
What a pack says and does is risk's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from whisperd.risk.reading import YAML, BadRules, Problem, ReadPack, read
from whisperd.risk.rulebook import Rulebook, conflicts
from whisperd.risk.rules import MOST_BYTES

SHIPPED = Path(__file__).with_name("rules")
SCHEMA = SHIPPED / "pack.schema.json"
MOST_FILES = 100  # the shipped ones with them

_LIBRARIES = ("re2", "rapidfuzz", "phonenumbers", "yaml")


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

    def restore(self, sources: Mapping[str, str], left_out: Sequence[str]) -> None:
        """Put in force what was so elsewhere, whatever the files hold by now."""
        self._read = {Path(path): read(source.encode(), path) for path, source in sources.items()}
        self.rulebook = Rulebook(by_name(self._read), left_out)

    def reload(self) -> Sequence[Problem]:
        """Reads all files anew. A broken one stays as it was, or out, and what is wrong with it comes back.

        Where files cannot be used together, all stay as they were; at first, those that do not fit are out.
        """
        paths = files(self._folder)
        good, problems = read_files(paths)
        found = {path: each for path in paths if (each := good.get(path) or self._read.get(path))}
        fits, misfits = (found, ()) if self._read else _fitting(found)
        try:
            rulebook = Rulebook(by_name(fits), [path.name for path in paths if path not in fits])
        except BadRules as error:
            return [*problems, *error.problems]
        self._read, self.rulebook = fits, rulebook
        return [*problems, *misfits]


def _fitting(found: Mapping[Path, ReadPack]) -> tuple[Mapping[Path, ReadPack], Sequence[Problem]]:
    """Without those of the user's own that do not fit, or without all where that is not clear; and why."""
    problems: list[Problem] = []
    own = {path for path in found if path.parent != SHIPPED}
    while own and (wrong := conflicts(by_name(found))):
        problems += wrong
        misfits = own & {Path(problem.file) for problem in wrong} or set(own)
        own -= misfits
        found = {path: each for path, each in found.items() if path not in misfits}
    return found, problems


def by_name(found: Mapping[Path, ReadPack]) -> Sequence[ReadPack]:
    """One for each name: the last, so that the user's own take the place of the shipped ones."""
    return list({each.pack.name: each for each in found.values()}.values())


def files(folder: Path | None) -> Sequence[Path]:
    """The shipped packs, then those of the folder, by name; a folder that is not there has none."""
    try:
        own = sorted(filter(_is_pack, folder.iterdir())) if folder and folder.is_dir() else []
    except OSError:
        own = [folder] if folder else []  # reading it says why it cannot be read
    return [*sorted(SHIPPED.glob("*.toml")), *own]


def _is_pack(path: Path) -> bool:
    """What an editor leaves begins with a dot."""
    return path.suffix in (".toml", *YAML) and not path.name.startswith(".") and path.is_file()


def read_files(paths: Sequence[Path]) -> tuple[Mapping[Path, ReadPack], Sequence[Problem]]:
    """The packs that can be read, and what is wrong with the others."""
    found: dict[Path, ReadPack] = {}
    problems: list[Problem] = []
    for path in paths[:MOST_FILES]:
        try:
            found[path] = load(path)
        except BadRules as error:
            problems += error.problems
    if beyond := paths[MOST_FILES:]:
        message = f"{len(beyond)} files from this one on are not read: {MOST_FILES} may be"
        problems.append(Problem(str(beyond[0]), 1, "", message))
    return found, problems


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

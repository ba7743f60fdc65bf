"""`make binary`: whisperd, its Python and all that it needs, as one file for machines like this one.

    python packaging/binary/build.py FILE WORK

PyInstaller makes a folder below WORK, and FILE is unpack.sh with that folder behind it. Why that is not
PyInstaller's own single file: docs/decisions.md.
"""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(file: Path, work: Path) -> None:
    folders = ["--distpath", work / "dist", "--workpath", work / "analysis"]
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "WARN", "--noconfirm", *folders]
    root = HERE.parents[1]  # where it finds whisperd
    subprocess.run([*command, HERE / "whisperd.spec"], check=True, cwd=root)
    packed = work / "whisperd.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=6) as archive:
        archive.add(work / "dist" / "whisperd", ".")
    file.parent.mkdir(parents=True, exist_ok=True)
    _join(packed.read_bytes(), file)


def _join(packed: bytes, file: Path) -> None:
    """Into its place at once, or not at all: the old one may be running."""
    script = (HERE / "unpack.sh").read_text()
    script = script.replace("@DIGEST@", hashlib.sha256(packed).hexdigest()[:16])
    script = script.replace("@LINE@", str(len(script.splitlines()) + 1))
    part = file.with_suffix(".part")
    part.write_bytes(script.encode() + packed)
    part.chmod(0o755)
    part.replace(file)


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))

"""Other people's clients, installed once for all runs: each list of versions into a folder of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock

HERE = Path(__file__).parent
NODE = HERE / "node"
PYTHON = HERE / "python"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisperd-tests" / "clients"


def python(name):
    """The interpreter of a virtual environment with what python/NAME.txt lists."""
    wanted = PYTHON / f"{name}.txt"
    folder = _made(name, wanted.read_bytes(), lambda folder: _venv(folder, wanted))
    return folder / "bin" / "python"


OPENAI_CLIENTS = ["openai-3", "openai-2", "openai", "openai-6"]  # two of Python, two of Node


def openai_client(name):
    """The command that runs the scenarios of one of them: URL KEY FILE SCENARIO … go behind it."""
    if name in ("openai-3", "openai-2"):
        return [python(name), PYTHON / "openai_client.py"]
    return ["node", node_modules() / "openai_client.mjs", name]


def node_modules(source=NODE):
    """The folder that package-lock.json describes, with the scripts beside it: Node looks beside them."""
    wanted = (source / "package-lock.json").read_bytes()
    folder = _made(source.name, wanted, lambda folder: _npm(folder, source))
    for script in [*source.glob("*.mjs"), *source.glob("*.js")]:
        shutil.copy(script, folder)
    return folder


def _made(name, wanted, make):
    folder = CACHE / f"{name}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(CACHE / f"{name}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / "made").touch()
    return folder


def _venv(folder, wanted):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "-r", wanted], check=True)


def _npm(folder, source):
    folder.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(source / file, folder)
    # No scripts: what the packages bring is JavaScript, and is all there is to run.
    subprocess.run(
        ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True
    )


def environment():
    """Ours, but for what would have the interpreter of a client find our modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def outcomes(*command, timeout=110):
    """What each scenario of a script came to."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

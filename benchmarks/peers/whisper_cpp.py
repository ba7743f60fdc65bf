"""whisper.cpp's own programs, built from its repository: whisper-cli; whisper-server and 8 clients."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.peers import by_clients
from benchmarks.peers.ports import free_port, wait_for

HOUR = 3600.0


@dataclass
class WhisperCli:
    """One process for all files; loading the model, some tenths of a second once, is in its time."""

    name: str
    command: list[str]

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            where: list[str] = []
            for number, file in enumerate(files):
                where += ["-f", str(file), "-of", f"{folder}/{number}"]
            subprocess.run([*self.command, "-otxt", *where], check=True, capture_output=True)
            return [Path(folder, f"{number}.txt").read_text() for number in range(len(files))]


@dataclass
class WhisperServer:
    name: str
    url: str

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        return by_clients(self._one, files)

    def _one(self, file: Path) -> str:
        with file.open("rb") as sound:
            answer = httpx.post(
                f"{self.url}/inference",
                files={"file": sound},
                data={"response_format": "text", "language": "en"},
                timeout=HOUR,
            )
        return answer.raise_for_status().text


@contextlib.contextmanager
def whisper_cli(bin: Path, model: str, threads: int) -> Iterator[WhisperCli]:
    yield WhisperCli(
        "whisper-cli", [str(bin / "whisper-cli"), "-m", model, "-t", str(threads), "-l", "en", "-np"]
    )


@contextlib.contextmanager
def whisper_server(bin: Path, model: str, threads: int, warm: Path) -> Iterator[WhisperServer]:
    port = free_port()
    command = [str(bin / "whisper-server"), "-m", model, "-t", str(threads), "-l", "en", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            peer = WhisperServer("whisper-server", f"http://127.0.0.1:{port}")
            wait_for(port, "whisper-server")
            peer.transcribe([warm])
            yield peer
        finally:
            process.kill()

"""faster-whisper on the CPU in int8, in an interpreter that has it; its defaults, and its batched mode.

Run as a program, it is that interpreter's side: a JSON list of paths a line, and one of texts back.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class FasterWhisper:
    name: str
    process: subprocess.Popen[str]

    def transcribe(self, files: Sequence[Path]) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(file) for file in files]), file=self.process.stdin, flush=True)
        texts: list[str] = json.loads(self.process.stdout.readline())
        return texts


@contextlib.contextmanager
def faster_whisper(python: str, model: str, threads: int, batch: int, warm: Path) -> Iterator[FasterWhisper]:
    """`batch` 0: file after file, window after window; else so many windows of a file at a time."""
    command = [python, __file__, model, str(threads), str(batch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            peer = FasterWhisper(
                f"faster-whisper, {f'batches of {batch}' if batch else 'sequential'}", process
            )
            peer.transcribe([warm])
            yield peer
        finally:
            process.kill()


def main() -> None:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    path, threads, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)
    how = {"batch_size": batch} if batch else {}
    heard = BatchedInferencePipeline(model=model) if batch else model
    for line in sys.stdin:
        texts = []
        for file in json.loads(line):
            segments, _ = heard.transcribe(file, language="en", **how)
            texts.append(" ".join(segment.text for segment in segments))
        print(json.dumps(texts), flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, in which faster_whisper would be this file
    main()

"""A real child process as the daemon has it: requests as structs in, answers as structs out."""

import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from whisperd.engine.protocol import Abort, Alive, Answer, MakePlan, Ready, Settings, Transcribe
from whisperd.task import Options

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 20.0  # seconds
FAST = Options(language="en", beam_size=1, vad=False)


class Child:
    """Ready once it is entered. `folder` holds its last words, in `stderr`."""

    def __init__(self, folder, model, before=(), **settings):
        self.folder, self.model = folder, str(model)
        self.number = 0
        always = {"model": self.model, "model_sha256": "m", "daemon_pid": os.getpid(), "threads": 1}
        settings = Settings(**{**always, **settings})
        command = [sys.executable, "-P", "-W", "error", "-m", "whisperd.child"]
        with open(folder / "stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                [*before, *command, msgspec.json.encode(settings).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "OMP_WAIT_POLICY": "passive",
                    "GGML_NO_BACKTRACE": "1",
                },
            )
        self._said = b""

    def __enter__(self):
        try:
            assert isinstance(self.answer(), Ready)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exception):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def plan(self, audio, pcm, options=FAST, max_seconds=86_400.0, cpu_seconds=0.0):
        """Send the request and do not wait for its answer."""
        self.number += 1
        self.send(
            MakePlan(
                number=self.number,
                audio=str(audio),
                pcm=str(pcm),
                model=self.model,
                model_sha256="m",
                audio_sha256="a",
                options=options,
                max_seconds=max_seconds,
                cpu_seconds=cpu_seconds,
            )
        )

    def transcribe(self, pcm, cut, options=FAST, sha256="m", heard_by=None):
        self.number += 1
        self.send(
            Transcribe(
                number=self.number,
                pcm=str(pcm),
                model=self.model,
                model_sha256=sha256,
                heard_by=heard_by,
                options=options,
                language=options.language,
                cut=cut,
            )
        )

    def abort(self):
        self.send(Abort(self.number))

    def send(self, request):
        self.process.stdin.write(msgspec.json.encode(request) + b"\n")

    def answer(self, seconds=DEADLINE):
        """Its last word on a request, whatever signs of life come before it."""
        until = time.monotonic() + seconds
        while True:
            line, ended, rest = self._said.partition(b"\n")
            if not ended:
                self._said += self._heard(until)
                continue
            self._said = rest
            answer = msgspec.json.decode(line, type=Answer)
            if answer != Alive():
                return answer

    def _heard(self, until):
        readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
        assert readable, "it says nothing"
        data = os.read(self.process.stdout.fileno(), 2**16)
        assert data, (self.folder / "stderr").read_text()
        return data


def silence(path, seconds, rate=44_100, channels=2):
    """A WAV file that takes no disk, and a second to decode for each seven minutes."""
    size = round(seconds * rate) * channels * 2
    head = (b"fmt ", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16, b"data", size)
    with open(path, "wb") as file:
        file.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", *head))
        file.truncate(file.tell() + size)
    return path


def until(condition):
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)

"""What uploads cost in memory: the daemon's resident set before, at its peak while they come, and after.

    python -m benchmarks.upload [--mb 1024] [--slow 200]

One large file as a form and one by `audio_url`, each at full speed, then many uploads at a time that come a
KiB at a time and are all held open half-way. Fails when a large file costs more than 32 MB. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, a_daemon

MOST_MB = 32
PIECE = bytes(64 * 1024)
WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(28)  # that it is a WAV is all that a submission looks at
FORM = "multipart/form-data; boundary=frontier"
HEAD = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + WAV
TAIL = b"\r\n--frontier--\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1024, help="size of the large file")
    parser.add_argument("--slow", type=int, default=200, help="uploads that trickle at a time")
    args = parser.parse_args()
    table = Table(title="memory of the daemon, MB")
    for column in ("what comes", "before", "peak", "after", "more at the peak", "seconds"):
        table.add_column(column, justify="right")
    with a_daemon(OUTBOUND__ALLOWED_NETWORKS="127.0.0.1") as daemon:
        daemon.client.pause()
        by_form(daemon, 1)  # what is loaded by the first upload of all is no cost of a large one
        _by_url(daemon, 1)
        costs = [
            _measured(table, daemon, f"{args.mb} MB as a form", lambda: by_form(daemon, args.mb)),
            _measured(table, daemon, f"{args.mb} MB by audio_url", lambda: _by_url(daemon, args.mb)),
        ]
        _measured(table, daemon, f"{args.slow} that trickle", lambda: _trickling(daemon, args.slow))
    Console().print(table)
    sys.exit(max(costs) > MOST_MB)


def _measured(table: Table, daemon: Daemon, name: str, load: Callable[[], None]) -> float:
    """A row of the table; returns how many MB more there were at the peak."""
    forget_peak(daemon)
    before, started = mb_of(daemon, "VmRSS"), monotonic()
    load()
    seconds, peak, after = monotonic() - started, mb_of(daemon, "VmHWM"), mb_of(daemon, "VmRSS")
    row = [before, peak, after, peak - before, seconds]
    table.add_row(name, *(f"{number:.1f}" for number in row))
    return peak - before


def forget_peak(daemon: Daemon) -> None:
    """It begins anew (man 5 proc)."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


def mb_of(daemon: Daemon, name: str) -> float:
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def by_form(daemon: Daemon, mb: int) -> None:
    size = mb * 2**20
    headers = {"Content-Type": FORM, "Content-Length": str(len(HEAD) + size + len(TAIL))}
    with contextlib.closing(HTTPConnection(urlsplit(daemon.url).netloc, timeout=600)) as connection:
        connection.request("POST", "/tasks/transcription", _form(size), headers)
        answer = connection.getresponse()
        assert answer.status == 202, answer.read()


def _form(size: int) -> Iterator[bytes]:
    yield HEAD
    for _ in range(size // len(PIECE)):
        yield PIECE
    yield TAIL


def _by_url(daemon: Daemon, mb: int) -> None:
    with _a_site(mb * 2**20) as url:
        daemon.client.submit(audio_url=url)


@contextlib.contextmanager
def _a_site(size: int) -> Iterator[str]:
    """Of one file, of so many bytes."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(WAV) + size))
            self.end_headers()
            self.wfile.write(WAV)
            for _ in range(size // len(PIECE)):
                self.wfile.write(PIECE)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.wav"
        server.shutdown()


def _trickling(daemon: Daemon, many: int) -> None:
    """All of them send half of a file of 300 KiB, and wait; the answer to another request comes last."""
    address = urlsplit(daemon.url)
    with contextlib.ExitStack() as stack:
        clients = [socket.create_connection((address.hostname, address.port)) for _ in range(many)]
        for client in clients:
            stack.enter_context(client)
            length = len(HEAD) + 300 * 1024 + len(TAIL)
            lines = ["POST /tasks/transcription HTTP/1.1", "Host: localhost", f"Content-Type: {FORM}"]
            client.sendall("\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode() + HEAD)
        for _ in range(150):
            for client in clients:
                client.sendall(bytes(1024))
        assert daemon.client.health().status != "down"


if __name__ == "__main__":
    main()

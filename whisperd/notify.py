"""What systemd is told: sd_notify(3), the part of it that a service needs.

Our own lines, for want of a library: `sdnotify` has had no release since 2017, `systemd-python` needs a
compiler and systemd's headers. The protocol is one datagram of NAME=value lines to the socket that
$NOTIFY_SOCKET names. Outside systemd every call does nothing. None raises, or waits longer than SEND_SECONDS.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

SEND_SECONDS = 0.2  # systemd's queue of datagrams is full only when systemd hangs


class Notifier:
    """Speaks for this process. Make one before any child: it takes the variables out of the environment,

    so that no child speaks in the daemon's name, or takes the watchdog for its own.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        limit, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = pid in ("", str(os.getpid()))
        self._watchdog_seconds = int(limit) / 1e6 if mine and limit.isdecimal() and int(limit) else None

    @property
    def watchdog_seconds(self) -> float | None:
        """systemd kills a service silent for so long: call `watchdog` twice as often. None: it does not."""
        return self._watchdog_seconds

    def ready(self, status: str = "") -> bool:
        """The start, or a reload, is over."""
        return self._send("READY=1", _status(status))

    def reloading(self) -> bool:
        """A reload has begun; `ready` must follow, whatever came of it."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000  # asked for by Type=notify-reload
        return self._send("RELOADING=1", f"MONOTONIC_USEC={moment}")

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", _status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`. Anyone on the machine can read it."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """All is well. To be said only after having looked."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """A start or a stop that goes on may take so much longer from now, whatever TimeoutStartSec= says."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *lines: str) -> bool:
        """Whether systemd has got it."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaking:
                speaking.settimeout(SEND_SECONDS)
                speaking.sendto("\n".join(filter(None, lines)).encode(errors="replace"), self._address)
        except OSError:  # systemd is being restarted, or hangs
            return False
        return True


def _address(name: str) -> str | None:
    """A path, or with "@" a name in the abstract namespace. Others ("vsock:…") are for virtual machines."""
    if name.startswith("/"):
        return name
    return f"\0{name[1:]}" if name.startswith("@") else None


def _status(text: str) -> str:
    """On one line: what follows a line break would be an order of its own."""
    return f"STATUS={' '.join(text.split())}" if text else ""

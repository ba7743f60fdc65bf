"""What holds a process that the daemon starts: it dies with the daemon, gives way to it, gains nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def tie(daemon_pid: int, nice: int) -> None:
    """Tie this process to the daemon that started it. Ends it at once where that is gone already."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != daemon_pid:
        os._exit(0)  # the daemon died before PDEATHSIG was set
    limit(resource.RLIMIT_CORE, 0)
    with suppress(OSError):
        os.nice(nice)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def limit(what: int, most: int) -> None:
    """Lower a limit for good; one that is lower already stays, since only root may raise it."""
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))

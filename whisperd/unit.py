"""The text of whisperd's systemd unit. `packaging/systemd/whisperd.service` is what `text(Unit())` gives.

Of the system's unit, systemd-analyze judges the exposure; what makes it worse has its reason beside it in the
text. A user's own manager cannot drop capabilities or hide folders: its unit keeps what works without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

NAME = "whisperd.service"
ACCOUNT = "whisperd"
STATE = "/var/lib/whisperd"
MARK = "# Written by `whisperd service install`."
SYSUSERS = f'{MARK}\nu {ACCOUNT} - "whisperd" {STATE}\n'


@dataclass(frozen=True, slots=True)
class Unit:
    """What differs from one machine to the next."""

    command: tuple[str, ...] = ("/usr/bin/whisperd", "serve")  # the program's absolute path first
    user: bool = False  # for a user's manager: `systemctl --user`
    stop_seconds: int = 150  # above shutdown.grace_seconds, with time for the last backup
    groups: tuple[str, ...] = ("video", "render")  # may use a GPU; each must exist, or the start fails
    home_visible: bool = False  # something that is needed lies below /home
    writable: tuple[str, ...] = ()  # folders besides STATE


def text(unit: Unit) -> str:
    """The whole file. Raises ValueError for a path that no unit can hold."""
    return "\n".join([MARK, _HEAD, *_lines(unit)])


def quoted(argument: str) -> str:
    """One word of a command line as systemd reads it: systemd.service(5), "Command lines".

    Raises ValueError for what no unit can hold.
    """
    if "\0" in argument or not argument.isprintable():
        raise ValueError(f"{argument!a} cannot stand in a unit: it has control characters, or is no UTF-8")
    safe = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{safe}"' if not safe or set(safe) & set(" \"'\\;") else safe


def _program(path: str) -> str:
    if set(path) & set("\"'\\"):  # systemd: "Executable name contains special characters"
        raise ValueError(f"systemd starts no program with quotes or backslashes in its path: {path}")
    return quoted(path)


def _lines(unit: Unit) -> Iterator[str]:
    yield _UNIT_SECTION.format(after="" if unit.user else _AFTER)
    yield "[Service]"
    # The colon: a $ in an argument is a $.
    yield f"ExecStart=:{_program(unit.command[0])} {' '.join(map(quoted, unit.command[1:]))}"
    yield _SERVICE.format(stop_seconds=unit.stop_seconds)
    if not unit.user:
        yield from _system_service(unit)
    yield _SANDBOX
    if not unit.user:
        yield _SYSTEM_SANDBOX.format(protect_home="read-only" if unit.home_visible else "yes")
    yield f"[Install]\nWantedBy={'default' if unit.user else 'multi-user'}.target\n"


def _system_service(unit: Unit) -> Iterator[str]:
    yield _SYSTEM_SERVICE.rstrip("\n")
    if unit.groups:
        yield f"SupplementaryGroups={' '.join(unit.groups)}"
    for folder in unit.writable:
        yield f"ReadWritePaths={quoted(folder)}"
    yield ""


_HEAD = "# Changes go into a drop-in, which stays when this is written anew: systemctl edit whisperd"

_UNIT_SECTION = """\

[Unit]
Description=whisperd, speech to text
{after}# A disk that comes back late, a port that is still taken: it is tried again for as long as it takes.
StartLimitIntervalSec=0
"""

# CUDA would load its second module by a setuid program, which NoNewPrivileges= stops.
_AFTER = """\
Wants=modprobe@nvidia_uvm.service
After=network.target modprobe@nvidia_uvm.service nvidia-persistenced.service
"""

_SERVICE = """\
ExecReload=/bin/kill -HUP $MAINPID
Type=notify
NotifyAccess=main
# The daemon says that it is well only after having looked at its loop, its database and its workers.
WatchdogSec=30
Restart=on-failure
RestartSec=2
# Wrong settings do not mend by themselves.
RestartPreventExitStatus=2
# A backup to restore or a database to upgrade takes its time.
TimeoutStartSec=900
TimeoutStopSec={stop_seconds}
# SIGTERM to the daemon alone: its workers finish their chunks.
KillMode=mixed
# A worker that takes too much memory is one worker's end.
OOMPolicy=continue
LimitNOFILE=65536
LimitCORE=0
UMask=0077
# Not where a foreign config.toml may lie.
WorkingDirectory=/
# Secrets: WHISPERD_BACKUP__S3__SECRET_ACCESS_KEY=…, in a file of mode 0600.
EnvironmentFile=-%E/whisperd/environment
"""

_SYSTEM_SERVICE = f"""\
User={ACCOUNT}
StateDirectory=whisperd
StateDirectoryMode=0700
"""

_SANDBOX = """\
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
# With @resources, which is in it: workers lower their own priority, CUDA binds memory.
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
"""

_SYSTEM_SANDBOX = """\
AmbientCapabilities=
CapabilityBoundingSet=
KeyringMode=private
PrivateIPC=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={protect_home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# No ProcSubset=pid: the free memory stands in /proc/meminfo, and CUDA reads /proc/driver.
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
# No PrivateDevices=yes: it would hide the GPU. Whose driver is not loaded does not count.
DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidiactl rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
"""

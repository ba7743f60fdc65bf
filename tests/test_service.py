"""The unit, judged by systemd's own tools; and the commands, with systemctl played by a script."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whisperd import service, unit
from whisperd.commands.service import app
from whisperd.config import ConfigError
from whisperd.service import Place, Program, ServiceError, install, plan, status, uninstall
from whisperd.unit import Unit, quoted, text

PACKAGING = Path(__file__).parents[1] / "packaging"
TRUE = Program((shutil.which("true"),))
SYSTEMCTL = """\
#!/bin/sh
echo "$(basename "$0") $@" >> "$LOG"
case "$*" in
  *show*) cat "$SHOWN" ;;
  *daemon-reload*) [ -z "$FAILS" ] || { echo "Failed to reload: $FAILS" >&2; exit 1; } ;;
esac
"""


def analyze(*arguments, **environ):
    assert shutil.which("systemd-analyze"), "there is no systemd-analyze: apt-get install systemd"
    return subprocess.run(
        ["systemd-analyze", *arguments], env={**os.environ, **environ}, capture_output=True, text=True
    )


def verified(folder, content, *options):
    """What systemd has to say against a unit."""
    folder.mkdir(exist_ok=True)
    (folder / "whisperd.service").write_text(content)
    done = analyze(*options, "verify", folder / "whisperd.service", XDG_RUNTIME_DIR=str(folder))
    return done.returncode, done.stdout + done.stderr


def directives(content):
    lines = [line.partition("=") for line in content.splitlines() if "=" in line and line[0] not in "#["]
    return {name: value for name, _, value in lines}


# The unit.


def test_the_packaged_unit_is_what_the_code_says():
    assert (PACKAGING / "systemd" / "whisperd.service").read_text() == text(Unit())
    assert (PACKAGING / "sysusers.d" / "whisperd.conf").read_text() == unit.SYSUSERS


@pytest.mark.parametrize("of", ["system", "user"])
def test_systemd_has_nothing_against_the_unit(tmp_path, of):
    written = text(Unit(TRUE.command, user=of == "user"))

    assert verified(tmp_path / "unit", written, f"--{of}") == (0, "")


def test_the_exposure_is_at_most_2(tmp_path):
    (tmp_path / "whisperd.service").write_text(text(Unit()))
    done = analyze("security", "--offline=true", "--threshold=20", tmp_path / "whisperd.service")

    assert done.returncode == 0, done.stdout


def test_a_plain_unit_is_judged_too_exposed(tmp_path):
    (tmp_path / "plain.service").write_text("[Service]\nExecStart=/bin/true\n")

    assert analyze("security", "--offline=true", "--threshold=20", tmp_path / "plain.service").returncode != 0


@pytest.mark.parametrize("name", ["plain", "with space", "100% $HOME ${A} %h", "ü;é"])
def test_the_path_of_the_program_may_be_odd(tmp_path, name):
    program = tmp_path / name
    program.symlink_to(TRUE.command[0])

    assert verified(tmp_path / "unit", text(Unit((str(program), "serve")))) == (0, "")


@pytest.mark.parametrize("name", ["with space", "100% $HOME ${A} %h", "a\"b'c", "back\\slash\\n", "ü;é", ";"])
def test_other_paths_may_be_odder(tmp_path, name):
    odd = text(Unit((*TRUE.command, "serve", "--config", name), writable=(f"/{name}",)))

    assert verified(tmp_path / "unit", odd) == (0, "")


@pytest.mark.parametrize("name", ['/a"b', "/a'b", "/a\\b"])
def test_a_program_that_systemd_does_not_start_is_refused(name):
    with pytest.raises(ValueError, match="no program with quotes or backslashes"):
        text(Unit((name, "serve")))


def test_systemd_sees_that_a_program_is_missing(tmp_path):
    assert verified(tmp_path / "unit", text(Unit(("/no/such/whisperd",))))[0] != 0


@pytest.mark.parametrize("name", ["a\nExecStartPre=/bin/sh", "a\x07", "a\udcff"])
def test_a_path_that_no_unit_can_hold_is_refused(name):
    with pytest.raises(ValueError, match="cannot stand in a unit"):
        quoted(name)


def test_workers_are_left_to_finish_when_systemd_stops_the_daemon():
    assert directives(text(Unit()))["KillMode"] == "mixed"


CALLS = ["setpriority", "sched_setscheduler", "prctl", "prlimit64", "memfd_create", "flock", "mbind"]


@pytest.mark.parametrize("call", CALLS)
def test_what_the_daemon_and_its_workers_call_is_allowed(call):
    filters = [line for line in text(Unit()).splitlines() if line.startswith("SystemCallFilter=")]

    assert filters == ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged"]
    assert call in set(calls("@system-service")) - set(calls("@privileged"))


def calls(group):
    """The system calls of a group, and of the groups in it."""
    for word in analyze("syscall-filter", group).stdout.split("\n")[2:]:
        name = word.strip()
        yield from calls(name) if name.startswith("@") else [name]


# What an installation will be.


def planned(config="", tmp_path=None, **options):
    """The directives of the unit for these settings."""
    file = None
    if config:
        file = tmp_path / "config.toml"
        file.write_text(config)
    place = Place(options.pop("user", True), {"XDG_CONFIG_HOME": "/xdg"}, Path("/none"))
    made = plan(place, config=file, program=TRUE, **options)
    return made, directives(made.files[place.unit])


def test_the_command_is_the_running_whisperd_with_its_options(tmp_path):
    _, said = planned("[logging]\nlevel = 'debug'", tmp_path, host="::1", port=9000)

    assert (
        said["ExecStart"]
        == f":{TRUE.command[0]} serve --config {tmp_path}/config.toml --host ::1 --port 9000"
    )
    assert os.access(Program.running().command[0], os.X_OK)


def test_the_stop_may_take_longer_than_the_grace(tmp_path):
    assert planned("[shutdown]\ngrace_seconds = 600.5", tmp_path)[1]["TimeoutStopSec"] == "721"
    assert directives(text(Unit()))["TimeoutStopSec"] == planned()[1]["TimeoutStopSec"] == "150"


def test_a_users_unit_asks_for_nothing_that_a_users_manager_cannot_do():
    made, said = planned()

    assert {"User", "StateDirectory", "CapabilityBoundingSet", "ProtectSystem", "DevicePolicy"} & set(
        said
    ) == set()
    assert said["WantedBy"] == "default.target"
    assert list(made.files) == [Path("/xdg/systemd/user/whisperd.service")]
    assert made.commands == [
        ("systemctl", "--user", "daemon-reload"),
        ("systemctl", "--user", "enable", "whisperd.service"),
    ]


def test_the_systems_unit_comes_with_an_account():
    made, said = planned(user=False, now=True)

    assert (said["User"], said["WantedBy"]) == ("whisperd", "multi-user.target")
    assert list(made.files) == [
        Path("/none/etc/sysusers.d/whisperd.conf"),
        Path("/none/etc/systemd/system/whisperd.service"),
    ]
    assert made.commands == [
        ("systemd-sysusers", "/none/etc/sysusers.d/whisperd.conf"),
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "whisperd.service"),
        ("systemctl", "restart", "whisperd.service"),
    ]


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """Settings of the system, where no file of the test's folder may be named: /tmp is not seen."""
    monkeypatch.setattr(service, "SYSTEM", tmp_path / "config.toml")
    return tmp_path / "config.toml"


def test_folders_elsewhere_may_be_written_and_are_made_for_the_account(etc):
    etc.write_text('[backup]\nfolder = "/no such disk/a"\n[storage]\nmodels_dir = "/var/lib/whisperd/m"')
    made, said = planned(user=False)

    assert said["ReadWritePaths"] == '"/no such disk/a"'
    install = ("install", "-d", "-m", "0700", "-o", "whisperd", "-g", "whisperd", "/no such disk/a")
    assert made.commands[1] == install


def test_home_is_seen_only_when_something_needed_is_there(etc):
    assert planned(user=False)[1]["ProtectHome"] == "yes"
    etc.write_text('[http]\nallowed_roots = ["/home/media"]')

    assert planned(user=False)[1]["ProtectHome"] == "read-only"


def test_a_whisperd_that_the_account_cannot_reach_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_is_below", lambda path, *folders: False)  # tmp_path may be in /tmp
    (tmp_path / "python").touch()
    tmp_path.chmod(0o700)

    with pytest.raises(ServiceError, match=r" is closed to others.*/opt/whisperd.* or use --user"):
        plan(Place(user=False), program=Program(TRUE.command, (tmp_path / "python",)))


def test_a_whisperd_below_tmp_is_refused():
    with pytest.raises(ServiceError, match="a service sees only its own"):
        plan(Place(user=False), program=Program(TRUE.command, (Path("/tmp/venv/python"),)))


def test_wrong_settings_are_told_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"http\.port = -1"):
        planned("[http]\nport = -1", tmp_path)


def test_the_variables_of_this_shell_do_not_count(monkeypatch):
    monkeypatch.setenv("WHISPERD_SHUTDOWN__GRACE_SECONDS", "1000")

    assert planned()[1]["TimeoutStopSec"] == "150"


# The installation.


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that systemd runs, and the log of what it was told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "systemd-sysusers"):
        (programs / name).write_text(SYSTEMCTL)
        (programs / name).chmod(0o755)
    (tmp_path / "root" / "run" / "systemd" / "system").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def told(machine):
    return (machine / "log").read_text().splitlines() if (machine / "log").exists() else []


@pytest.fixture
def place(machine):
    return Place(user=False, root=machine / "root")


def test_a_service_is_written_and_enabled(machine, place):
    planned = plan(place, now=True, program=TRUE)
    changed = install(place, planned)

    assert changed == [place.account, place.unit]
    assert [line.split("/")[0].strip() for line in told(machine)] == [
        "systemd-sysusers",
        "systemctl daemon-reload",
        "systemctl enable whisperd.service",
        "systemctl restart whisperd.service",
    ]
    assert place.unit.read_text() == planned.files[place.unit]
    assert stat.S_IMODE(place.unit.stat().st_mode) == 0o644
    assert verified(machine / "unit", place.unit.read_text()) == (0, "")


def test_to_install_again_changes_only_what_differs(machine, place):
    install(place, plan(place, program=TRUE))

    assert install(place, plan(place, program=TRUE)) == []
    assert install(place, plan(place, program=TRUE, port=9000)) == [place.unit]
    assert [path.name for path in place.unit.parent.iterdir()] == ["whisperd.service"]


def test_a_unit_of_somebody_else_is_left_alone(machine, place):
    place.unit.parent.mkdir(parents=True)
    place.unit.write_text("[Service]\nExecStart=/usr/local/bin/mine")

    with pytest.raises(ServiceError, match="is not of `whisperd service install`"):
        install(place, plan(place, program=TRUE))
    assert place.unit.read_text().endswith("mine")
    assert told(machine) == []


def test_who_is_not_root_is_told_both_ways(machine, place, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ServiceError, match="sudo it, or use --user"):
        install(place, plan(place, program=TRUE))
    mine = Place(user=True, root=place.root)
    assert install(mine, plan(mine, program=TRUE)) == [machine / "xdg/systemd/user/whisperd.service"]


def test_without_systemd_nothing_is_written(machine):
    place = Place(user=False, root=machine / "elsewhere")

    for action in (lambda: install(place, plan(place, program=TRUE)), lambda: uninstall(place)):
        with pytest.raises(ServiceError, match="systemd does not run this machine"):
            action()
    assert not place.root.exists()


def test_what_systemd_refuses_is_told_in_its_words(machine, place, monkeypatch):
    monkeypatch.setenv("FAILS", "out of luck")

    with pytest.raises(ServiceError, match="`systemctl daemon-reload` failed: Failed to reload: out of luck"):
        install(place, plan(place, program=TRUE))


def test_a_service_is_taken_away_and_its_data_is_not(machine, place):
    install(place, plan(place, program=TRUE))
    (machine / "log").unlink()
    uninstall(place)

    assert told(machine) == ["systemctl disable --now whisperd.service", "systemctl daemon-reload"]
    assert not place.unit.exists()
    with pytest.raises(ServiceError, match="nothing to uninstall"):
        uninstall(place)


SAID = "ActiveState=active\nSubState=running\nMainPID=42\nStatusText=2 workers\nResult=success\nNRestarts=1\n"


def test_systemd_is_asked_how_the_service_is(machine, place):
    (machine / "shown").write_text(SAID)

    assert status(place)["MainPID"] == "42"
    assert told(machine)[0].startswith("systemctl show whisperd.service --property=FragmentPath,")


# The commands.


@pytest.fixture
def run(machine, monkeypatch):
    monkeypatch.setattr(service, "Place", lambda user: Place(user, root=machine / "root"))
    return lambda *words: CliRunner().invoke(app, words)


def test_a_dry_run_prints_the_unit_and_the_commands_and_writes_nothing(run, machine):
    done = run("install", "--user", "--dry-run", "--now")

    assert "[Service]" in done.output
    assert done.output.splitlines()[-3:] == [
        "$ systemctl --user daemon-reload",
        "$ systemctl --user enable whisperd.service",
        "$ systemctl --user restart whisperd.service",
    ]
    assert (told(machine), (machine / "xdg").exists()) == ([], False)


def test_a_service_is_installed_and_removed_by_command(run, machine):
    unit_file = machine / "xdg/systemd/user/whisperd.service"

    assert f"{unit_file}: written" in run("install", "--user").output
    assert f"{unit_file}: as it was" in run("install", "--user").output
    assert f"{unit_file}: removed" in run("uninstall", "--user").output


@pytest.mark.parametrize(("state", "exit_code"), [("active", 0), ("failed", 1), ("inactive", 1)])
def test_the_status_is_shown_and_is_the_exit_status(run, machine, state, exit_code):
    (machine / "shown").write_text(SAID.replace("=active", f"={state}"))
    done = run("status")

    assert done.exit_code == exit_code
    assert f"{state} (running)" in done.output
    assert run("status", "--json").exit_code == exit_code

import asyncio
import contextlib
import os
import sqlite3
import struct
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import a_task
from tests.stand_in import serving, standing_in
from whisperd import doctor, keys, models
from whisperd.backup import BackupStore
from whisperd.condition import Condition
from whisperd.config import BackupS3, Config, Storage, Workers, load
from whisperd.db import Database, owned
from whisperd.doctor import examine, installation, running, storage
from whisperd.doctor.finding import Finding
from whisperd.engine import features
from whisperd.events import Events
from whisperd.queue import SqliteQueue
from whisperd.task import Rules


def of(findings, check):
    return [finding for finding in findings if finding.check == check]


@pytest.fixture
def config(tmp_path):
    return load(None, {}, {"storage.data_dir": str(tmp_path / "data")})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with the real tiny.en in it."""
    folder = tmp_path_factory.mktemp("models")
    models.ensure_default(folder)
    return folder


def test_a_sound_machine_has_nothing_to_mend(tmp_path, weights):
    environ = {"WHISPERD_STORAGE__DATA_DIR": str(tmp_path), "WHISPERD_STORAGE__MODELS_DIR": str(weights)}
    tmp_path.chmod(0o700)
    (tmp_path / "config.toml").write_text("[storage]\nmin_free_mb = 1")
    with standing_in() as daemon:
        findings = examine(tmp_path / "config.toml", daemon.url, environ)

    assert [finding for finding in findings if finding.status == "fail"] == []
    assert [
        finding.check
        for finding in findings
        if finding.check not in ("disk", "whisper.cpp", "ctranslate2", "service")
    ] == [
        "python",
        "sqlite",
        "libraries",
        "config",
        "data",
        "database",
        "backups",
        "models",
        "speech",
        "daemon",
    ]
    assert of(findings, "models")[0].message == "tiny.en is sound, the default"
    assert of(findings, "whisper.cpp")[0].message.startswith("CPU: ")


@pytest.mark.parametrize(
    ("version", "status", "bug"),
    [
        ((3, 36, 0), "fail", False),
        ((3, 40, 1), "ok", True),
        ((3, 44, 6), "ok", False),
        ((3, 45, 0), "ok", True),
        ((3, 50, 7), "ok", False),
        ((3, 51, 2), "ok", True),
        ((3, 51, 3), "ok", False),
        ((3, 53, 0), "ok", False),
    ],
)
def test_the_linked_sqlite_is_named_with_its_bug(version, status, bug):
    finding = installation.sqlite(version)

    assert finding.status == status
    assert ("WAL-reset" in finding.message) == bug


def test_an_old_python_fails():
    assert installation.python((3, 10, 9)).status == "fail"


def test_wrong_settings_are_told_and_the_rest_still_checked(tmp_path):
    (tmp_path / "config.toml").write_text("[http]\nport = -1")
    finding = doctor._settings(tmp_path / "config.toml", {})[1]

    assert finding.status == "fail"
    assert "http.port = -1" in finding.message


def stored(folder, **settings):
    return load(
        None, {}, {"storage.data_dir": str(folder), **{k.replace("__", "."): v for k, v in settings.items()}}
    )


def test_a_data_folder_that_others_can_read_is_a_warning(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "spool").mkdir(mode=0o750)
    (tmp_path / "backups").mkdir(mode=0o700)
    open_to_all = [tmp_path / "whisperd.db", tmp_path / "backups" / "whisperd-1.db.zst"]
    for file in open_to_all:
        file.touch(mode=0o644)

    assert [finding.advice for finding in storage.folder(stored(tmp_path))] == [
        f"chmod 700 {tmp_path}",
        f"chmod 600 {open_to_all[0]}",
        f"chmod 700 {tmp_path / 'spool'}",
        f"chmod 600 {open_to_all[1]}",
    ]
    for path in (tmp_path, tmp_path / "spool"):
        path.chmod(0o700)
    for file in open_to_all:
        file.chmod(0o600)
    assert list(storage.folder(stored(tmp_path))) == [Finding("data", "ok", str(tmp_path))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_root_left_in_the_daemons_folder_fails(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "whisperd.db").touch(mode=0o600)
    os.chown(tmp_path, 12345, 12345)
    (finding,) = storage.folder(stored(tmp_path))

    assert finding.status == "fail"
    assert finding.message.endswith(str(tmp_path / "whisperd.db"))
    assert finding.advice.startswith(f"chown -R --reference={tmp_path} ")


def a_key(folder, **settings):
    _, key = keys.new_key(
        **{
            "name": "",
            "tenant": "acme",
            "plan": "PRO",
            "scopes": ["read"],
            "expires_at": None,
            "now": datetime.now(UTC),
            **settings,
        }
    )
    keys.add(folder / keys.FILE, key)
    return key


def test_keys_are_counted(tmp_path):
    assert list(storage.known_keys(stored(tmp_path))) == []
    active = a_key(tmp_path)
    a_key(tmp_path, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert list(storage.known_keys(stored(tmp_path))) == [Finding("keys", "ok", "1 active, 1 expired")]

    keys.revoke(tmp_path / keys.FILE, active.id, datetime.now(UTC))

    (finding,) = storage.known_keys(stored(tmp_path))
    assert (finding.status, finding.message) == ("warn", "1 expired, 1 revoked: nobody is served")


def test_keys_that_are_all_revoked_are_none(tmp_path):
    keys.revoke(tmp_path / keys.FILE, a_key(tmp_path).id, datetime.now(UTC))

    (finding,) = storage.known_keys(stored(tmp_path))
    assert (finding.status, finding.message) == (
        "ok",
        "1 revoked: only this machine is served, without a key",
    )


def test_a_broken_file_of_keys_fails(tmp_path):
    (tmp_path / keys.FILE).write_text("{")

    (finding,) = storage.known_keys(stored(tmp_path))
    assert (finding.check, finding.status) == ("keys", "fail")
    assert "serves nobody" in finding.message


def test_a_file_of_keys_that_others_may_write_fails_and_one_they_may_read_is_a_warning(tmp_path):
    a_key(tmp_path)
    (tmp_path / keys.FILE).chmod(0o620)
    (finding,) = storage.known_keys(stored(tmp_path))
    assert (finding.status, finding.advice) == ("fail", f"chmod 600 {tmp_path / keys.FILE}")

    tmp_path.chmod(0o700)
    (tmp_path / keys.FILE).chmod(0o640)

    assert [f.status for f in storage.known_keys(stored(tmp_path))] == ["ok"]
    assert [f.advice for f in storage.folder(stored(tmp_path))] == [f"chmod 600 {tmp_path / keys.FILE}"]


def test_a_data_folder_that_is_not_there_yet_is_fine(config):
    assert [finding.status for finding in storage.folder(config)] == ["ok"]


def test_a_data_folder_that_cannot_be_written_fails(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")

    assert [finding.status for finding in storage.folder(stored(file))] == ["fail"]
    assert [finding.status for finding in storage.folder(stored(file / "new"))] == ["fail"]


def test_the_disk_needs_its_reserve(tmp_path):
    huge = Config(storage=Storage(data_dir=str(tmp_path), min_free_mb=2**30))

    assert [finding.status for finding in storage.disks(huge)] == ["fail"]


def test_the_disk_of_the_backups_is_looked_at_when_it_is_another(tmp_path):
    findings = storage.disks(stored(tmp_path, backup__folder="/dev/shm/backups"))

    assert [finding.message.split()[-1] for finding in findings] == [str(tmp_path), "/dev/shm"]


async def a_database(folder):
    async with Database(folder / "whisperd.db") as db:
        await SqliteQueue(db, Events(), Rules()).submit(a_task())


def test_a_database_is_examined_where_no_daemon_runs(tmp_path):
    assert storage.database(stored(tmp_path)) == Finding("database", "ok", "absent: it is not there")
    asyncio.run(a_database(tmp_path))
    finding = storage.database(stored(tmp_path))

    assert (finding.status, finding.message.split(":")[0]) == ("ok", "clean")
    assert finding.message.endswith(", 1 tasks")


def test_a_damaged_database_fails_with_what_to_do(tmp_path):
    asyncio.run(a_database(tmp_path))
    os.truncate(tmp_path / "whisperd.db", 10_000)
    finding = storage.database(stored(tmp_path))

    assert (finding.status, finding.message.split(":")[0]) == ("fail", "torn")
    assert "whisperd restore --list" in finding.advice


@pytest.mark.parametrize("condition", Condition)
def test_every_condition_of_a_database_has_its_advice(condition):
    status, advice = storage._ADVICE[condition]

    assert bool(advice) == (status != "ok")


def test_a_database_that_a_daemon_has_is_left_alone(tmp_path):
    path = tmp_path / "whisperd.db"
    path.write_bytes(b"not looked at")
    with owned(path):
        assert storage.database(stored(tmp_path)) == Finding("database", "ok", "a daemon has it open")
    assert not storage.is_owned(path)
    assert storage.database(stored(tmp_path)).status == "fail"


def test_a_lock_file_of_a_daemon_that_is_gone_says_nothing(tmp_path):
    (tmp_path / "whisperd.lock").write_text(f"{os.getpid()}\n")

    assert not storage.is_owned(tmp_path / "whisperd.db")


def test_a_database_too_large_to_be_read_is_left_to_the_start(tmp_path, monkeypatch):
    asyncio.run(a_database(tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "whisperd.db", isolation_level=None)) as conn:
        conn.execute("create table ballast as select zeroblob(50000000) as it")
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.001)

    assert "too large to be checked here" in storage.database(stored(tmp_path)).message


async def backed_up(folder, taken_at=None):
    store = BackupStore(folder / "backups", now=lambda: taken_at or time.time())
    async with Database(folder / "whisperd.db") as db:
        return (await store.take(db, "manual")).path


def test_the_newest_backup_is_named_with_its_age(tmp_path):
    asyncio.run(backed_up(tmp_path, time.time() - 3 * 3600))
    finding = storage.backups(stored(tmp_path))

    assert finding.status == "ok"
    assert ", 3 h old, " in finding.message
    assert finding.message.endswith(" 0 tasks")


def test_while_a_daemon_runs_an_old_backup_is_a_warning(tmp_path):
    asyncio.run(backed_up(tmp_path, time.time() - 3600))
    with owned(tmp_path / "whisperd.db"):
        assert storage.backups(stored(tmp_path)).status == "warn"
        assert storage.backups(stored(tmp_path, backup__interval_seconds=3600)).status == "ok"


def test_a_backup_that_is_damaged_fails(tmp_path):
    path = asyncio.run(backed_up(tmp_path))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    finding = storage.backups(stored(tmp_path))

    assert (finding.status, finding.advice) == ("fail", "whisperd backup makes a new one")


def test_a_database_without_a_backup_is_a_warning(tmp_path):
    assert storage.backups(stored(tmp_path)) == Finding("backups", "ok", "none is needed yet")
    (tmp_path / "whisperd.db").touch()

    assert storage.backups(stored(tmp_path)).advice == "whisperd backup"


def test_a_folder_of_backups_that_is_none_fails(tmp_path):
    (tmp_path / "whisperd.db").touch()
    (tmp_path / "backups").touch()

    assert storage.backups(stored(tmp_path)).status == "fail"


def test_copies_off_the_machine_need_their_library(monkeypatch):
    assert list(installation.offsite(BackupS3())) == []
    assert next(installation.offsite(BackupS3(bucket="b"))).status == "ok"
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "obstore")

    assert next(installation.offsite(BackupS3(bucket="b"))).advice == "pip install 'whisperd[s3]'"


SYSTEMCTL = """\
#!/bin/sh
cat <<.
FragmentPath=/etc/systemd/system/whisperd.service
ActiveState={state}
Result={result}
NeedDaemonReload={changed}
ExecStart={{ path={program} ; argv[]={program} serve --config /etc/w.toml --port 1 ; ignore_errors=no ; }}
.
"""


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """A machine that systemd runs, on which the service is as given."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))

    def found(state="active", config="/etc/w.toml", result="success", changed="no", program=sys.executable):
        (tmp_path / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/systemd/system/whisperd.service").touch()
        said = SYSTEMCTL.format(state=state, result=result, changed=changed, program=program)
        (tmp_path / "systemctl").write_text(said)
        (tmp_path / "systemctl").chmod(0o755)
        (finding,) = running.units(Path(config), tmp_path)
        return finding

    return found


@pytest.mark.parametrize(
    ("engine", "here", "status", "words"),
    [
        ("ctranslate2", True, "ok", "runs the models in float16"),
        ("ctranslate2", False, "fail", "every task would fail"),
        ("auto", False, "ok", "whisper.cpp runs all models"),
        ("whisper.cpp", True, "ok", "set workers.engine to auto"),
        ("whisper.cpp", False, None, ""),
    ],
)
def test_the_other_engine_is_named_where_it_is_asked_for_or_would_help(
    monkeypatch, engine, here, status, words
):
    monkeypatch.setattr(features, "has_ctranslate2", lambda: here)
    found = list(installation.ctranslate2(Config(workers=Workers(engine=engine))))

    assert [finding.status for finding in found] == ([status] if status else [])
    assert words in "".join(finding.message for finding in found)


def test_a_quantised_default_that_the_engine_cannot_run_is_named(monkeypatch, tmp_path):
    """All was called well, and no worker could start."""
    monkeypatch.setattr(features, "has_ctranslate2", lambda: True)
    head = struct.pack("<12i", 0x67676D6C, 51864, *[0] * 9, 7)  # the type of its weights: q8_0
    (tmp_path / "ggml-small-q8_0.bin").write_bytes(head)
    workers, storage = Workers(engine="ctranslate2", model="small-q8_0"), Storage(models_dir=str(tmp_path))
    (finding,) = installation.ctranslate2(Config(workers=workers, storage=storage))

    assert (finding.status, finding.advice) == ("fail", "set workers.engine to auto")
    assert "small-q8_0, the default, is quantised" in finding.message


def test_a_service_that_runs_is_fine(systemd):
    assert systemd() == Finding("service", "ok", "/etc/systemd/system/whisperd.service is active")


@pytest.mark.parametrize(
    ("said", "status", "advice"),
    [
        ({"state": "inactive"}, "warn", "systemctl start whisperd"),
        (
            {"state": "failed", "result": "watchdog"},
            "fail",
            "journalctl -u whisperd; systemctl start whisperd",
        ),
        ({"changed": "yes"}, "warn", "systemctl daemon-reload"),
        ({"config": "/else.toml"}, "warn", "whisperd doctor --config /etc/w.toml"),
        ({"program": "/gone/whisperd"}, "fail", "whisperd service install writes it anew"),
    ],
)
def test_what_is_wrong_with_the_service_is_told(systemd, said, status, advice):
    finding = systemd(**said)

    assert (finding.status, finding.advice) == (status, advice)


def test_where_systemd_runs_a_service_is_offered_and_elsewhere_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert list(running.units(None, tmp_path)) == []
    (tmp_path / "run/systemd/system").mkdir(parents=True)

    assert [finding.status for finding in running.units(None, tmp_path)] == ["ok"]


def test_a_damaged_model_fails_with_what_to_do(tmp_path):
    (tmp_path / "ggml-tiny.en.bin").write_bytes(b"no model")
    config = Config(storage=Storage(models_dir=str(tmp_path)))
    (finding,) = installation.model_files(config)

    assert (finding.status, finding.message) == ("fail", "tiny.en is corrupt")
    assert finding.advice.endswith("whisperd models pull tiny.en")


def test_a_model_of_unknown_origin_is_a_warning(tmp_path, weights):
    (tmp_path / "ggml-mine.bin").symlink_to(weights / "ggml-tiny.en.bin")
    config = Config(storage=Storage(models_dir=str(tmp_path)), workers=Workers(model="mine"))
    (finding,) = installation.model_files(config)

    assert (finding.status, finding.advice) == ("warn", "whisperd models verify --trust mine")


def test_a_default_model_that_is_not_here_fails(tmp_path):
    config = Config(storage=Storage(models_dir=str(tmp_path)), workers=Workers(model="small"))
    (finding,) = installation.model_files(config)

    assert (finding.status, finding.message) == ("fail", "small is missing")


def test_a_library_that_does_not_load_is_named():
    assert installation.loads("json") is None
    assert "No module named 'no_such_module'" in installation.loads("no_such_module")


@pytest.mark.parametrize(("python", "needed"), [((3, 13), True), ((3, 14), False), ((4, 0), False)])
def test_a_library_is_asked_for_only_where_it_is_needed(python, needed):
    assert installation._is_for('backports.zstd>=1; python_version < "3.14"', python) == needed
    assert installation._is_for("av>=18", python)
    assert not installation._is_for("obstore>=0.8; extra == 's3'", python)


def test_a_daemon_that_is_away_is_a_warning():
    finding = running.daemon("http://127.0.0.1:9")

    assert (finding.status, finding.advice) == ("warn", "whisperd serve")


@pytest.mark.parametrize(("health", "status"), [("ok", "ok"), ("degraded", "warn"), ("down", "fail")])
def test_the_daemon_is_asked_how_it_is(health, status):
    with standing_in() as daemon:
        trouble = {
            "workers": {"status": health, "message": None if health == "ok" else "1 of 2 workers are up"}
        }
        daemon.health |= {"status": health, "checks": trouble}
        finding = running.daemon(daemon.url)

    assert finding.status == status
    assert ("1 of 2 workers are up" in finding.message) == (health != "ok")


def test_another_program_on_the_port_fails():
    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(other) as url:
        assert running.daemon(url).status == "fail"

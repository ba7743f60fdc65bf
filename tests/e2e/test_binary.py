"""whisperd as one file, as `make binary` makes it, where there is no Python and nothing else of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon

ROOT = Path(__file__).parents[2]
UNPACKING = ("sh", "gzip", "mkdir", "mktemp", "mv", "rm", "sync", "tail", "tar")
SAID = "ask not what your country can do for you"
pytestmark = pytest.mark.timeout(2400)  # it is built first: three minutes of processor time


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("binary")
    build = [sys.executable, ROOT / "packaging" / "binary" / "build.py", folder / "whisperd", folder / "work"]
    subprocess.run(build, check=True, timeout=2000)
    shutil.rmtree(folder / "work")
    return folder / "whisperd"


def bare(folder):
    """All variables that there are: a home that is empty, and the programs that unpack the file."""
    programs, home = folder / "programs", folder / "home"
    for made in (programs, home):
        made.mkdir(parents=True)
    for name in UNPACKING:
        (programs / name).symlink_to(shutil.which(name))
    return {"PATH": str(programs), "HOME": str(home)}


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
    return bare(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def whisperd(binary, environ, tmp_path_factory):
    """Runs a command of it in an empty folder; what it says on standard output."""

    def whisperd(*words):
        folder = tmp_path_factory.mktemp("empty")
        done = subprocess.run(
            [binary, *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return whisperd


@pytest.fixture(scope="module")
def daemon(binary, environ, whisperd, tmp_path_factory):
    """One that has just this file, an empty folder and an empty home, its weights included."""
    whisperd("--version")  # unpacked: a start is waited for less long
    folder = tmp_path_factory.mktemp("daemon")
    away = {"WHISPERD_BROKERS__URL": "amqp://127.0.0.1:1"}  # refused where the libraries of that are missing
    settings = [f"{name}={value}" for name, value in (environ | away).items()]
    daemon = Daemon(folder, folder / "models", inside=["env", "-C", folder, "-i", *settings])
    daemon.program = (str(binary),)
    try:
        yield daemon.start()
        assert daemon.stop() == 0
    finally:
        daemon.end()


def test_it_transcribes_in_an_empty_folder_without_a_daemon(whisperd, jfk):
    assert SAID in whisperd("transcribe", str(jfk))


def test_its_daemon_transcribes(daemon, jfk):
    task_id = daemon.queued(jfk)

    assert daemon.finished(task_id)["status"] == "completed"
    assert SAID in daemon.result(task_id)


def test_its_commands_find_its_daemon(whisperd, daemon, jfk):
    task_id = whisperd("submit", "--url", daemon.url, str(jfk)).strip()

    assert daemon.finished(task_id)["status"] == "completed"


def test_every_process_of_its_daemon_is_the_same_file(daemon):
    """Workers, the one that looks for risk, the one that packs a backup."""
    programs = {os.readlink(f"/proc/{pid}/exe") for pid in daemon.worker_pids()}
    task = daemon.http.post("/tasks/risk-detection", json={"text": "Please install AnyDesk."}).json()
    backup = daemon.http.post("/admin/backup").json()

    assert programs == {os.readlink(f"/proc/{daemon.process.pid}/exe")}
    assert daemon.finished(task["task_id"])["status"] == "completed"
    assert json.loads(daemon.result(task["task_id"], "json"))["findings"]
    assert backup["verified"]


@pytest.mark.parametrize("page", ["/", "/docs", "/openapi.json", "/metrics"])
def test_its_pages_are_in_it(daemon, page):
    answer = daemon.http.get(page, headers={"Accept": "text/html, */*"})

    assert answer.status_code == 200
    assert answer.content


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("--version", "whisperd "),
        ("--man", ".TH WHISPERD 1"),
        ("rules list", "fraud-basic"),
        ("models list", "tiny.en"),
        ("config check", ""),
        ("service install --user --dry-run", "whisperd serve\n"),
    ],
)
def test_its_commands_have_what_they_need(whisperd, command, says):
    assert says in whisperd(*command.split())


def test_the_doctor_finds_all_libraries(whisperd):
    findings = json.loads(whisperd("doctor", "--json"))

    assert [one for one in findings if one["status"] == "fail"] == []


def test_a_service_runs_the_file_and_not_what_it_was_unpacked_to(whisperd, binary):
    assert f"ExecStart=:{binary} serve\n" in whisperd("service", "install", "--user", "--dry-run")


def test_two_first_starts_at_once_unpack_it_once(binary, tmp_path):
    environ = bare(tmp_path)
    both = [
        subprocess.Popen([binary, "--version"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]

    assert [process.communicate(timeout=300)[0][:9] for process in both] == [b"whisperd "] * 2
    assert len(os.listdir(Path(environ["HOME"], ".cache", "whisperd"))) == 1


def test_a_file_that_was_cut_off_says_so_and_leaves_nothing(binary, tmp_path):
    environ, half = bare(tmp_path), tmp_path / "half"
    half.write_bytes(binary.read_bytes()[: binary.stat().st_size // 2])
    half.chmod(0o755)

    done = subprocess.run([half, "--version"], env=environ, capture_output=True, text=True, timeout=300)

    assert done.returncode == 1
    assert "cannot be unpacked" in done.stderr
    assert os.listdir(Path(environ["HOME"], ".cache", "whisperd")) == []

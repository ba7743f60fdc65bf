"""A daemon with keys: the commands send theirs, and no key is ever said, logged, listed or backed up."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus

from whisperd import keys


@pytest.fixture
def keyed(new_daemon):
    """A daemon that logs all it can, with a key made before its first start."""
    daemon = new_daemon(LOGGING__LEVEL="debug", BACKUP__INTERVAL_SECONDS="1")
    daemon.key = command(daemon, "keys", "add", "--scope", "admin").stdout.strip()
    return daemon.start()


def command(daemon, *args, key=None):
    """A command on the daemon's folder or, once it runs, on its URL."""
    if args[0] == "keys":
        args += ("--data-dir", str(daemon.data))
    return subprocess.run(
        [sys.executable, "-P", "-m", "whisperd", *args],
        env={**os.environ, "WHISPERD_URL": daemon.url or "http://127.0.0.1:9", "WHISPERD_KEY": key or ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


def processes():
    """What `ps` shows anybody of any process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue


def test_the_commands_work_with_the_key_of_the_environment(keyed, jfk):
    transcribed = command(keyed, "transcribe", str(jfk), key=keyed.key)
    strange = command(keyed, "stats")

    assert "ask not what your country" in transcribed.stdout
    assert command(keyed, "stats", key=keyed.key).returncode == 0
    assert json.loads(command(keyed, "watch", "--json", key=keyed.key).stdout)
    assert (strange.returncode, strange.stdout) == (1, "")
    assert "WHISPERD_KEY" in strange.stderr
    assert "Traceback" not in strange.stderr


def test_a_key_is_revoked_while_the_daemon_runs(keyed):
    made = json.loads(command(keyed, "keys", "add", "--scope", "read", "--json").stdout)
    assert command(keyed, "stats", key=made["key"]).returncode == 0

    command(keyed, "keys", "revoke", made["id"])

    assert "this key is revoked" in command(keyed, "stats", key=made["key"]).stderr


def test_no_key_is_said_logged_listed_or_backed_up(keyed, jfk):
    """RELIABILITY.md 23: whatever is done with a key, right or wrong, it is found nowhere afterwards."""
    made = json.loads(command(keyed, "keys", "add", "--name", "phone", "--json").stdout)
    secrets = {keyed.key, made["key"], "whd_" + "w" * 43}
    said, seen = [], b""
    for secret in secrets:
        said += used(keyed, secret, jfk)
        seen += b"".join(processes())
        said.append(command(keyed, "stats", key=secret).stderr)
    for args in (["keys", "list"], ["keys", "list", "--json"], ["doctor"], ["config", "show"]):
        done = command(keyed, *args, key=keyed.key)
        said += [done.stdout, done.stderr]
    said.append(command(keyed, "keys", "revoke", made["id"], "--json").stdout)
    said += used(keyed, made["key"], jfk)
    keyed.http.post("/admin/backup").raise_for_status()
    assert keyed.stop() == 0

    files = {path: path.read_bytes() for path in keyed.folder.rglob("*") if path.is_file()}
    hashes = {key.sha256 for key in keys.read(keyed.data / keys.FILE)}
    assert "the keys have changed" in keyed.said()  # it did log
    for secret in secrets:
        assert secret not in "".join(said)
        assert secret.encode() not in seen
        assert [path for path, content in files.items() if secret.encode() in content] == []
    for sha256 in hashes:
        assert sha256 not in "".join(said)
        kept = [path.name for path, content in files.items() if sha256.encode() in content]
        assert kept == [keys.FILE]


def used(daemon, secret, jfk):
    """Whatever a client may do with a key, and all that it is answered."""
    header = {"Authorization": f"Bearer {secret}"}
    said = []
    with httpx.Client(base_url=daemon.url, timeout=60) as client:
        for answer in (
            *(client.get(path, headers=header) for path in ("/stats", "/health", "/metrics", "/nosuch")),
            client.get("/tasks", params={"q": secret}, headers=header),
            client.get("/stats", params={"key": secret}),
            client.get(f"/tasks/{secret}/result", headers=header),
            client.get("/stats", headers={"X-API-Key": secret, "Authorization": "Bearer x"}),
            client.put("/stats", headers=header),
            client.post("/tasks/transcription", content=b"{", headers={**header, **JSON}),
            client.post("/tasks/transcription", json={"nosuch": 1}, headers=header),
            client.post("/tasks/transcription", files={"file": jfk.read_bytes()}, headers=header),
            client.post("/admin/clear", content=b"[" * 10_000, headers=header),
        ):
            # What a caller asks for by its name comes back to this caller: no secret to it.
            said.append(f"{answer.headers} {answer.text}".replace(f"no task {secret}", ""))
    try:
        url = daemon.url.replace("http", "ws") + "/ws"
        with websockets.sync.client.connect(
            url, subprotocols=["whisperd", f"bearer.{secret}"], proxy=None
        ) as socket:
            said += [str(socket.response.headers), socket.recv(timeout=10)]
    except (InvalidStatus, ConnectionClosed) as refused:
        said.append(str(refused))
    return said


JSON = {"Content-Type": "application/json"}


def test_the_manual_tells_how_to_make_the_key_that_prometheus_needs(keyed):
    manual = Path(__file__).parents[2] / "docs" / "metrics.md"
    told = re.search(r"credentials_file: .*# whisperd (keys add .*)", manual.read_text())[1]
    key = command(keyed, *shlex.split(told)).stdout.strip()

    answer = httpx.get(f"{keyed.url}/metrics", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text

"""The file of keys: what is kept, what is not, and who may change it."""

import asyncio
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.terminal import command_line
from whisperd import keys
from whisperd.keys import KeyRing, KeysUnusable, NoSuchKey, TooManyKeys

NOW = datetime(2026, 11, 28, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def a_key(file, scopes=("submit", "read"), tenant="acme", expires_at=None):
    secret, key = keys.new_key(
        name="", tenant=tenant, plan="PRO", scopes=scopes, now=NOW, expires_at=expires_at
    )
    keys.add(file, key)
    return secret, key


def test_a_key_has_256_random_bits_and_only_their_hash_is_kept(file):
    secret, key = a_key(file)

    kept = file.read_text()
    assert secret.startswith("whd_")
    assert len(secret) == 4 + 43
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in kept
    assert secret[4:20] not in kept


def test_the_file_and_its_lock_are_for_the_owner_only(file):
    umask = os.umask(0)
    try:
        a_key(file)
    finally:
        os.umask(umask)

    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_key_is_found_by_all_of_it_and_by_nothing_less(file):
    secret, key = a_key(file)
    ring = keys.ring(file)

    assert ring.find(secret) == key
    for wrong in (
        "",
        secret[:-1],
        secret + "A",
        secret.upper(),
        key.id,
        key.sha256,
        f"{secret}\n",
        "whd_" * 99,
    ):
        assert ring.find(wrong) is None, wrong


def test_two_that_agree_in_the_id_only_are_told_apart(file):
    """The id is a part of the hash: whoever met it by chance still has no key."""
    secret, key = a_key(file)
    twin = key.sha256[:12] + "0" * 52
    file.write_text(file.read_text().replace(key.sha256, twin))

    assert keys.ring(file).find(secret) is None


def test_a_revoked_key_stays_in_the_list(file):
    _, key = a_key(file)

    keys.revoke(file, key.id, NOW)
    again = keys.revoke(file, key.id, NOW + timedelta(days=1))

    assert [k.status(NOW) for k in keys.read(file)] == ["revoked"]
    assert again.revoked_at == NOW


def test_a_key_that_was_revoked_long_ago_is_forgotten_when_another_is_made(file):
    _, old = a_key(file)
    _, late = a_key(file)
    _, stays = a_key(file)
    keys.revoke(file, old.id, NOW - timedelta(days=90))
    keys.revoke(file, late.id, NOW - timedelta(days=89))
    _, new = a_key(file)

    assert [key.id for key in keys.read(file)] == [late.id, stays.id, new.id]


def test_no_file_is_written_that_could_not_be_read_again(file, monkeypatch):
    """The next look refused everybody, and no command could mend it."""
    _, revoked = a_key(file)
    _, one = a_key(file)
    keys.revoke(file, revoked.id, NOW)
    full = file.stat().st_size
    monkeypatch.setattr(keys, "MAX_BYTES", full)

    _, other = a_key(file)  # in the place of the one that was revoked
    assert [key.id for key in keys.read(file)] == [one.id, other.id]
    before = file.read_bytes()
    with pytest.raises(TooManyKeys, match="as many keys as can be read"):
        a_key(file)
    assert file.read_bytes() == before
    assert keys.revoke(file, one.id, NOW).revoked_at == NOW
    a_key(file)


def test_an_unknown_id_revokes_nothing(file):
    a_key(file)
    before = file.read_bytes()

    with pytest.raises(NoSuchKey, match="there is no key key_0"):
        keys.revoke(file, "key_0", NOW)

    assert file.read_bytes() == before


def test_keys_are_asked_for_until_the_last_is_revoked_and_not_until_it_expires(file):
    assert not keys.ring(file).is_asked_for
    _, key = a_key(file, expires_at=NOW - timedelta(days=1))
    assert key.status(NOW) == "expired"
    assert keys.ring(file).is_asked_for

    keys.revoke(file, key.id, NOW)

    assert not keys.ring(file).is_asked_for


def test_of_many_writers_at_once_none_undoes_what_another_did(file):
    writers = [threading.Thread(target=a_key, args=[file]) for _ in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert len(keys.read(file)) == 16


def test_a_writer_that_was_killed_leaves_the_file_as_it_was_and_no_lock(file):
    a_key(file)
    before = file.read_bytes()
    dying = f"""
import os
from pathlib import Path
from whisperd import durable, keys
durable.publish = lambda part, target: os._exit(9)
file = Path({str(file)!r})
(key,) = keys.read(file)
keys.revoke(file, key.id, key.created_at)
"""
    killed = subprocess.run([sys.executable, "-c", dying], cwd=ROOT)

    assert killed.returncode == 9
    assert file.read_bytes() == before
    a_key(file)
    assert len(keys.read(file)) == 2


GOOD = {
    "name": "",
    "tenant": "acme",
    "plan": "PRO",
    "scopes": ["read"],
    "sha256": "0" * 64,
    "created_at": "2026-11-28T00:00:00Z",
}
BROKEN = {
    "empty": b"",
    "no JSON": b"keys",
    "cut short": json.dumps({"version": 1, "keys": [GOOD]}).encode()[:-3],
    "no UTF-8": b'{"version": 1, "keys": [], "\xff": 1}',
    "no keys in it": b"{}",
    "a list": b"[]",
    "null": b"null",
    "nested": b"[" * 100_000,
    "of a newer whisperd": b'{"version": 2, "keys": []}',
    "with what is unknown": b'{"version": 1, "keys": [], "admins": []}',
    **{
        f"{name} {value!r}": json.dumps({"version": 1, "keys": [{**GOOD, name: value}]}).encode()
        for name, value in [
            ("scopes", []),
            ("scopes", ["root"]),
            ("scopes", "admin"),
            ("tenant", ""),
            ("tenant", None),
            ("plan", "GOLD"),
            ("sha256", "0" * 63),
            ("sha256", "0" * 64 + "\n"),
            ("expires_at", "tomorrow"),
            ("expires_at", "2030-01-01T00:00:00"),
            ("revoked", True),
        ]
    },
    "a key twice": json.dumps(
        {"version": 1, "keys": [GOOD, {**GOOD, "revoked_at": GOOD["created_at"]}]}
    ).encode(),
    "too large": b" " * (keys.MAX_BYTES + 1),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_not_one_without_keys_and_is_not_overwritten(file, content):
    file.write_bytes(content)

    with pytest.raises(KeysUnusable):
        keys.read(file)
    with pytest.raises(KeysUnusable):
        a_key(file)

    assert keys.ring(file).is_asked_for
    assert file.read_bytes() == content


def test_what_is_no_file_is_not_one_without_keys(file):
    for make in (file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to("nowhere"), lambda: loop(file)):
        make()

        assert keys.ring(file).trouble

        file.rmdir() if file.is_dir() else file.unlink()


def loop(file):
    file.symlink_to(file)


def test_a_key_in_the_wrong_place_of_the_file_is_not_told_on(file):
    file.write_text(json.dumps({"version": 1, "keys": [{**GOOD, "plan": "whd_secret"}]}))

    trouble = keys.ring(file).trouble

    assert trouble == "keys.json is not what whisperd writes, at $.keys[0].plan"


def test_the_ring_follows_the_file_at_once(file):
    async def body():
        ring = KeyRing(file)
        assert not (await ring.current()).is_asked_for

        secret, key = a_key(file)
        assert (await ring.current()).find(secret).status(NOW) == "active"

        keys.revoke(file, key.id, NOW)
        assert (await ring.current()).find(secret).status(NOW) == "revoked"

    asyncio.run(body())


def test_an_unchanged_file_is_not_read_again(file, monkeypatch):
    async def body():
        a_key(file)
        ring = KeyRing(file)
        monkeypatch.setattr(keys, "_read", None)

        assert (await ring.current()).is_asked_for

    asyncio.run(body())


def test_a_file_that_breaks_or_vanishes_leaves_nobody_in_until_it_is_back(file):
    async def body():
        secret, _ = a_key(file)
        ring, whole = KeyRing(file), file.read_bytes()
        for harm in (lambda: file.write_bytes(b"{"), file.unlink):
            harm()
            assert (await ring.current()).find(secret) is None
            assert (await ring.current()).is_asked_for
            assert ring.trouble

            file.write_bytes(whole)
            assert (await ring.current()).find(secret)
            assert ring.trouble is None

    asyncio.run(body())


# --- the commands ---


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    command = command_line(monkeypatch, capfd, tmp_path)
    return lambda *args: command("keys", *args, url="http://127.0.0.1:9")


def test_a_key_is_printed_once_alone_on_standard_output(run, tmp_path):
    made = run("add", "--tenant", "acme", "--plan", "PRO", "--scope", "submit,read", "--name", "phone")

    secret = made.out.rstrip("\n")
    ring = keys.ring(tmp_path / "share/whisperd/keys.json")
    key = ring.find(secret)
    assert (key.tenant, key.plan, key.scopes, key.name) == ("acme", "PRO", ("submit", "read"), "phone")
    assert "every call needs a key" in made.err
    assert secret not in made.err
    assert secret not in run("list").out + run("list", "--json").out


def test_the_second_key_changes_nothing_for_those_without_one(run):
    run("add")

    assert "every call" not in run("add").err


def test_keys_are_listed_for_cut_and_for_jq(run):
    made = json.loads(run("add", "--tenant", "acme", "--scope", "admin", "--json").out)

    (listed,) = json.loads(run("list", "--json").out)

    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert run("list").out == f"{made['id']}\tactive\tacme\tFREE\tadmin\t-\t\n"


def test_a_key_is_revoked_by_its_id_and_the_last_one_is_told(run):
    first, second = (json.loads(run("add", "--json").out)["id"] for _ in range(2))

    one, other = run("revoke", first), run("revoke", second)

    assert (one.out, one.err) == (f"{first}: revoked\n", "")
    assert "only this machine is served" in other.err
    assert [view["status"] for view in json.loads(run("list", "--json").out)] == ["revoked", "revoked"]


def test_one_key_too_many_is_told(run, monkeypatch):
    run("add")
    monkeypatch.setattr(keys, "MAX_BYTES", 500)

    outcome = run("add")

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("whisperd: keys.json holds as many keys as can be read")


def test_an_unknown_key_cannot_be_revoked(run):
    run("add")

    outcome = run("revoke", "key_0")

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "whisperd: there is no key key_0; see `whisperd keys list`\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tenant", ""),
        ("--tenant", "a b"),
        ("--tenant", "**"),
        ("--plan", "GOLD"),
        ("--scope", ""),
        ("--scope", "read,root"),
        ("--expires", "0d"),
        ("--expires", "2020-01-01"),
        ("--expires", "999999w"),
        ("--expires", "soon"),
    ],
)
def test_what_a_key_cannot_be_is_wrong_usage_and_makes_none(run, tmp_path, option, value):
    outcome = run("add", option, value)

    assert outcome.status == 2
    assert outcome.out == ""
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize(
    ("text", "days"), [("36h", 1.5), ("90d", 90), ("2w", 14), ("2999-01-31T00:00:00+01:00", None)]
)
def test_a_key_ends_when_it_is_told_to(run, text, days):
    began = datetime.now(UTC)
    view = json.loads(run("add", "--expires", text, "--json").out)

    ends = datetime.fromisoformat(view["expires_at"])
    if days is None:
        assert view["expires_at"] == "2999-01-30T23:00:00Z"
    else:
        assert abs(ends - began - timedelta(days=days)) < timedelta(minutes=5)


def test_a_broken_file_is_told_by_every_command(run, tmp_path):
    run("add")
    (tmp_path / "share/whisperd/keys.json").write_text("{")

    for command in (["list"], ["add"], ["revoke", "key_0"]):
        outcome = run(*command)
        assert (outcome.status, outcome.out) == (1, "")
        assert "keys.json is not what whisperd writes" in outcome.err

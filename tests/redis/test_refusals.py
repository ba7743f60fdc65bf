"""What a start says of settings, and of a Redis, that would never do."""

import re
from pathlib import Path

import pytest
import trustme

from tests.redis.conftest import over
from tests.redis_server import Redis
from tests.s3_server import a_free_port


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"REDIS__STORAGE": ""}, "redis.storage is not set"),
        ({"REDIS__STORAGE": "/no/such/folder"}, "there is no folder at redis.storage"),
        ({"REDIS__STORAGE": "s3://others/x"}, "none of those in s3.buckets"),
        ({"REDIS__PASSWORD_FILE": "/no/such/file"}, "redis.password_file cannot be read"),
        ({"REDIS__CA_FILE": "/etc/hosts"}, "redis.url begins with rediss://"),
        ({"REDIS__URL": "http://127.0.0.1"}, 'expected a URL like "redis://host:6379/0"'),
        ({"REDIS__URL": "redis://127.0.0.1:port"}, "redis.url has a port that is no number"),
        ({"REDIS__URL": "redis://one:6379,two:6379"}, "names several hosts: that is for Sentinels"),
        ({"REDIS__URL": "redis://one,two", "REDIS__PREFIX": "{}bull{x}"}, "a hash tag in redis.prefix"),
        (
            {"REDIS__SENTINEL_MASTER": "m", "REDIS__SENTINEL_PASSWORD_FILE": "/no/such/file"},
            "redis.sentinel_password_file cannot be read",
        ),
    ],
)
def test_a_setting_that_would_never_do_is_refused_at_the_start(new_host, settings, said):
    status, told = new_host(**settings).refused()

    assert status != 0
    assert said in told
    assert "Traceback" not in told


def test_a_redis_that_may_forget_jobs_is_refused(new_host, redis):
    redis.cli("config", "set", "maxmemory-policy", "allkeys-lru")

    status, told = new_host().refused()

    assert status == 1
    assert "maxmemory-policy is allkeys-lru" in told


def test_a_node_of_a_cluster_is_refused_where_the_prefix_has_no_hash_tag(new_host, tmp_path):
    node = Redis(tmp_path / "node", **{"cluster-enabled": "yes"})
    try:
        status, told = new_host(REDIS__URL=node.start().url).refused()
    finally:
        node.stop()

    assert status == 1
    assert "redis.url names a node of a Redis Cluster: redis.prefix has to have a hash tag" in told


def test_a_wrong_password_is_refused_at_once_and_never_told(new_host, redis, tmp_path):
    redis.cli("config", "set", "requirepass", "right-password")
    (tmp_path / "password").write_text("wrong-password\n")

    refusals = [
        new_host().refused(),
        new_host(REDIS__PASSWORD_FILE=tmp_path / "password").refused(),
        new_host(REDIS__URL=redis.url.replace("//", "//:wrong-password@")).refused(),
    ]

    for status, told in refusals:
        assert status == 1
        assert "Redis refuses redis.username, its password" in told
        assert "password@" not in told
        assert "wrong-password" not in told


def test_a_password_from_a_file_lets_in(new_host, redis, tmp_path):
    redis.cli("config", "set", "requirepass", "right-password")
    (tmp_path / "password").write_text("right-password\n")

    host = new_host(REDIS__PASSWORD_FILE=tmp_path / "password").start()

    assert host.health()["checks"]["redis"] == {"status": "ok", "message": None}


def test_an_acl_user_needs_the_rights_that_the_docs_name_and_no_more(
    new_host, redis, node, submitted, tmp_path
):
    docs = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    rights = re.search(r"An ACL has to allow `([^`]+)`", docs)[1].split()
    redis.cli("acl", "setuser", "whisperd", "on", ">secret", *rights)
    (tmp_path / "password").write_text("secret")

    host = new_host(REDIS__USERNAME="whisperd", REDIS__PASSWORD_FILE=tmp_path / "password").start()

    assert over(node, submitted(host, "by-acl"))["state"] == "completed"
    assert len(host.get("/tasks")["tasks"]) == 1


def test_tls_asks_for_a_certificate_that_holds(new_host, redis, tmp_path):
    ours, others = trustme.CA(), trustme.CA()
    for name, ca in (("ours", ours), ("others", others)):
        ca.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    cert = ours.issue_cert("127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    port = a_free_port()
    for name, value in {
        "tls-cert-file": tmp_path / "cert.pem",
        "tls-key-file": tmp_path / "key.pem",
        "tls-ca-cert-file": tmp_path / "ours.pem",
        "tls-port": port,
    }.items():
        redis.cli("config", "set", name, value)
    settings = {"REDIS__URL": f"rediss://127.0.0.1:{port}"}
    known = {"REDIS__CERT_FILE": tmp_path / "cert.pem", "REDIS__KEY_FILE": tmp_path / "key.pem"}

    for refused in (settings, {**settings, **known, "REDIS__CA_FILE": tmp_path / "others.pem"}):
        status, told = new_host(**refused).refused()
        assert status == 1
        assert "no certificate that holds for its name, or refuses ours" in told
    host = new_host(**settings, **known, REDIS__CA_FILE=tmp_path / "ours.pem").start()
    assert host.health()["checks"]["redis"]["status"] == "ok"


def test_a_redis_that_is_away_is_waited_for(new_host, redis):
    redis.stop()
    host = new_host().start()
    assert host.health()["checks"]["redis"]["status"] == "degraded"

    redis.start()

    host.until(lambda: host.health()["checks"]["redis"]["status"] == "ok")

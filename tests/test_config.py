import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, fields

from whisperd.config import (
    KEYS,
    BackupS3,
    Config,
    ConfigError,
    Workers,
    cores,
    find,
    hidden,
    load,
    read,
    reading,
    to_toml,
    with_values,
)

SHIPPED = Path(__file__).parent.parent / "config.toml"
README = SHIPPED.with_name("README.md")
HOME = {"XDG_DATA_HOME": "/var/data"}


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No file is found that a test did not write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reading, "SYSTEM", tmp_path / "etc" / "config.toml")


def refused(**environ):
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    return str(caught.value)


def test_the_shipped_file_is_what_the_code_says():
    assert SHIPPED.read_text() == to_toml(Config())


def names(table, before=""):
    """ "backup.s3.bucket" for each key of nested tables, in their order."""
    for name, value in table.items():
        if f"{before}{name}" in KEYS:
            yield f"{before}{name}"
        else:
            yield from names(value, f"{before}{name}.")


def test_the_shipped_file_shows_every_key_with_its_default():
    assert list(names(tomllib.loads(SHIPPED.read_text()))) == list(KEYS)
    assert load(SHIPPED, HOME) == load(None, HOME)


@pytest.mark.parametrize("text", ["lan", "10.0.0.1/8", "10.0.0.0/8,10.0.0.0/33"])
def test_what_is_no_network_is_refused(text):
    told = refused(WHISPERD_OUTBOUND__ALLOWED_NETWORKS=text)

    assert told.startswith("WHISPERD_OUTBOUND__ALLOWED_NETWORKS: outbound.allowed_networks = ")
    assert told.endswith("expected a list of networks such as 10.1.0.0/16")


def test_networks_are_read_from_a_file_and_from_the_environment(tmp_path):
    (tmp_path / "my.toml").write_text('[outbound]\nallowed_networks = ["10.0.0.0/8", "::1"]')

    assert load(tmp_path / "my.toml", {}).outbound.allowed_networks == ("10.0.0.0/8", "::1")
    variables = {"WHISPERD_OUTBOUND__ALLOWED_NETWORKS": "10.0.0.0/8, fd00::/8"}
    assert load(None, variables).outbound.allowed_networks == ("10.0.0.0/8", "fd00::/8")


def test_every_key_in_the_shipped_file_is_explained():
    lines = SHIPPED.read_text().splitlines()
    keys = [(above, line.split(" = ")[0]) for above, line in pairwise(lines) if re.match(r"\w+ = ", line)]
    explained = {name for above, name in keys if above[0] == "#"}

    assert {name for _, name in keys} - explained == {"FREE", "PRO", "PAYG"}


def test_without_a_file_the_defaults_hold():
    config = load(None, {})

    assert config.http.host == "127.0.0.1"
    assert config.http.port == 8002
    assert config.queue == Config().queue


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read: No such file"):
        load(tmp_path / "gone.toml", {})
    assert "gone.toml" in refused(WHISPERD_CONFIG="gone.toml")


def test_the_file_is_looked_for_in_order(tmp_path):
    places = [
        "etc/config.toml",
        "home/.config/whisperd/config.toml",
        "config.toml",
        "named.toml",
        "option.toml",
    ]
    environ = {"WHISPERD_CONFIG": "named.toml"}

    assert find(None, {}) is None
    for port, place in enumerate(places):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(f"[http]\nport = {port}")
        option = Path("option.toml") if place == "option.toml" else None
        assert load(option, environ if port > 2 else {}).http.port == port


def test_the_users_file_is_where_the_desktop_says(tmp_path):
    mine = tmp_path / "xdg" / "whisperd" / "config.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("[http]\nport = 5")

    assert find(None, {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}) == mine


@pytest.mark.parametrize(
    "text", ["[tool.other]\nport = 1", "[http]\nport = 1\n[http.tls]\ncert = 'x'", "title = 'x'", "no toml"]
)
def test_another_programs_file_is_passed_over_where_the_settings_of_a_daemon_are_not_the_point(text):
    defaults = load(None, HOME)
    Path("config.toml").write_text(text)

    assert load(None, HOME, may_be_foreign=True) == defaults
    with pytest.raises(ConfigError):
        load(None, HOME)


def test_a_file_of_our_own_counts_everywhere_and_its_wrong_values_are_told():
    Path("config.toml").write_text("[http]\nport = 7")
    assert load(None, {}, may_be_foreign=True).http.port == 7
    Path("config.toml").write_text("[http]\nport = -7")

    with pytest.raises(ConfigError, match=r"http\.port = -7"):
        load(None, {}, may_be_foreign=True)


def test_a_file_that_is_named_is_read_whatever_is_in_it():
    Path("config.toml").write_text("[tool.other]")

    with pytest.raises(ConfigError, match="unknown section tool"):
        load(Path("config.toml"), {}, may_be_foreign=True)


def test_each_layer_wins_over_the_one_before_and_the_source_is_known():
    Path("config.toml").write_text("[workers]\ncount = 2\n[queue]\nmax_retries = 7")
    old = {"QUEUE_CONCURRENCY": "3"}
    new = {"WHISPERD_WORKERS__COUNT": "4"}

    assert read(None, {})[1] == {"workers.count": "config.toml", "queue.max_retries": "config.toml"}
    assert load(None, old).workers.count == 3
    assert load(None, old | new).workers.count == 4
    config, sources = read(None, old | new, {"workers.count": 5, "http.port": None})
    assert (config.workers.count, config.queue.max_retries) == (5, 7)
    assert sources == {"workers.count": "command line", "queue.max_retries": "config.toml"}


TABLES = {"queue.tenants": "a=0", "limits.weights": "a=1"}


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_is_an_environment_variable(key):
    default = key.of(Config())
    text = ",".join(default) if isinstance(default, tuple) else str(default or "0")
    special = {"queue.tenants": "a=0", "limits.weights": "a=1", "logging.levels": "a=info"}
    special |= {"redis.url": "redis://a", "redis.storage": "/a", "redis.routes": "model:base=a"}
    special |= {"s3.links": "s3://bucket/links", "brokers.url": "amqp://a"}
    text = "http://a" if key.name.endswith(".endpoint") else special.get(key.name, text)

    assert read(None, {key.variable: text} | HOME)[1] == ({key.name: key.variable} if text else {})


@pytest.mark.parametrize(
    ("name", "section", "key", "value"),
    [
        ("MAX_PROCESSING_TIME", "workers", "max_processing_seconds", 42),
        ("BACKUP_INTERVAL", "backup", "interval_seconds", 42),
        ("QUEUE_CONCURRENCY", "workers", "count", 42),
        ("QUEUE_MAX_RETRIES", "queue", "max_retries", 42),
        ("QUEUE_RETRY_DELAY", "queue", "retry_delay_ms", 42),
        ("JOB_RETENTION_HOURS", "retention", "job_hours", 42),
        ("FAILED_JOB_RETENTION_HOURS", "retention", "failed_job_hours", 42),
    ],
)
def test_the_old_names_still_work(name, section, key, value):
    assert getattr(getattr(load(None, {name: "42"}), section), key) == value


def test_lists_and_tables_come_from_the_environment():
    config = load(
        None, {"WHISPERD_HTTP__ALLOWED_HOSTS": "a.lan, b.lan", "WHISPERD_QUEUE__TENANTS": "acme=2,b=3"}
    )

    assert config.http.allowed_hosts == ("a.lan", "b.lan")
    assert config.queue.tenants == {"acme": 2, "b": 3}


def test_an_empty_variable_counts_as_not_set():
    assert load(None, {"WHISPERD_HTTP__PORT": "", "QUEUE_CONCURRENCY": ""}).http.port == 8002


def test_variables_of_other_programs_and_of_the_client_are_left_alone():
    load(
        None,
        {"WHISPERD_URL": "http://x", "QUEUE_SERVICE_URL": "http://x", "A__B": "1"},
    )
    load(None, {"WHISPERD_EXAMPLE": "a.wav"})


def test_the_old_name_of_redis_counts_and_its_password_is_never_shown():
    config = load(None, {"REDIS_URL": "redis://:pa55word@queue.lan:6379/1"})

    assert config.redis.url == "redis://:pa55word@queue.lan:6379/1"
    assert "pa55word" not in to_toml(config) + repr(config)
    assert "pa55word" not in refused(REDIS_URL="redis:/:secret@queue.lan")


def test_an_old_interval_in_milliseconds_is_refused():
    assert "backup.interval_seconds = '300000': expected a number from 1" in refused(BACKUP_INTERVAL="300000")


def test_an_error_names_the_place_the_key_the_value_and_what_is_allowed():
    Path("config.toml").write_text('[queue]\norder = "random"\nmax_retries = -1')

    assert refused() == (
        "config.toml: queue.order = 'random': expected one of lifo, fifo\n"
        "config.toml: queue.max_retries = -1: expected a whole number from 0 to 100"
    )


def test_a_wrong_variable_is_named():
    assert refused(QUEUE_RETRY_DELAY="1s").startswith(
        "QUEUE_RETRY_DELAY: queue.retry_delay_ms = '1s': expected a whole"
    )
    assert "WHISPERD_WORKERS__GPU: workers.gpu = 'perhaps': expected true or false" in refused(
        WHISPERD_WORKERS__GPU="perhaps"
    )
    assert "a table from name to a whole number from 0" in refused(WHISPERD_QUEUE__TENANTS="acme=many")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", ""])
def test_a_limit_in_seconds_is_a_number_that_can_pass(value):
    Path("config.toml").write_text(f"[workers]\nsilence_seconds = {value or repr('')}")

    assert "silence_seconds" in refused()


def test_a_text_in_place_of_a_number_is_refused_in_a_file():
    Path("config.toml").write_text('[http]\nport = "8002"')

    assert "http.port = '8002': expected a whole number from 0 to 65535" in refused()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queue]\nmax_retrys = 1", "unknown key queue.max_retrys; did you mean queue.max_retries?"),
        ("[qeue]\nmax_retries = 1", "unknown section qeue; did you mean queue?"),
        ("port = 1", "unknown key port; did you mean http.port?"),
        ("queue = 1", "queue is a section: [queue]"),
        ("[zzz]", "unknown section zzz"),
        ("[backup.s4]\nbucket = 'a'", "unknown key backup.s4; did you mean backup.s3?"),
        ("[backup]\ns3 = 'a'", "backup.s3 is a section: [backup.s3]"),
        ("[backup.s3]\nbuket = 'a'", "unknown key backup.s3.buket; did you mean backup.s3.bucket?"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_match(text, said):
    Path("config.toml").write_text(text)

    assert refused() == f"config.toml: {said}"


def test_an_unknown_variable_is_an_error_with_the_nearest_match():
    assert refused(WHISPERD_HTTP__PROT="1") == (
        "environment: unknown variable WHISPERD_HTTP__PROT; did you mean WHISPERD_HTTP__PORT?"
    )


@pytest.mark.parametrize("content", [b"[http", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused_with_its_name(content):
    Path("config.toml").write_bytes(content)

    assert refused().startswith("config.toml: not TOML: ")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/whisperd:/var/lib/b", "XDG_DATA_HOME": "/x"}, "/var/lib/whisperd"),
        ({"XDG_DATA_HOME": "/x"}, "/x/whisperd"),
        ({"WHISPERD_STORAGE__DATA_DIR": "/mine", "STATE_DIRECTORY": "/y"}, "/mine"),
    ],
)
def test_the_data_folder_is_found(environ, folder):
    config = load(None, environ)

    assert config.data_dir == Path(folder)
    assert config.models_dir == Path(folder) / "models"
    assert config.backups_dir == Path(folder) / "backups"
    assert config.rules_dir == Path(folder) / "rules"


def test_folders_are_absolute_and_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {
        "storage.data_dir": "here",
        "storage.models_dir": "~/models",
        "backup.folder": "~/backups",
        "risk.rules_dir": "~/rules",
        "http.allowed_roots": ["~/in", "b"],
    }
    config = load(None, {}, given)

    assert config.http.allowed_roots == ("/home/me/in", str(tmp_path / "b"))
    assert config.data_dir == tmp_path / "here"
    assert config.models_dir == Path("/home/me/models")
    assert config.backups_dir == Path("/home/me/backups")
    assert config.rules_dir == Path("/home/me/rules")
    assert load(None, {}).data_dir == Path("/home/me/.local/share/whisperd")


def test_a_home_of_nobody_is_a_wrong_setting():
    assert (
        refused(WHISPERD_HTTP__ALLOWED_ROOTS="~no.such.user/in") == "~no.such.user/in: there is no such user"
    )


@pytest.mark.parametrize(
    ("workers", "machine", "on_gpu", "sized"),
    [
        (Workers(), 2, 0, (2, 1)),
        (Workers(), 3, 0, (3, 1)),
        (Workers(), 4, 0, (4, 1)),
        (Workers(), 5, 0, (5, 1)),
        (Workers(), 6, 0, (3, 2)),
        (Workers(), 7, 0, (7, 1)),
        (Workers(), 8, 0, (4, 2)),
        (Workers(), 9, 0, (3, 3)),
        (Workers(), 11, 0, (5, 2)),
        (Workers(), 64, 0, (4, 16)),
        (Workers(), 1, 0, (1, 1)),
        (Workers(), 8, 1, (1, 8)),
        (Workers(), 8, 4, (4, 2)),
        (Workers(), 16, 3, (3, 5)),
        (Workers(), 2, 4, (2, 1)),
        (Workers(threads=4), 8, 4, (2, 4)),
        (Workers(threads=16), 8, 4, (1, 16)),
        (Workers(count=3), 8, 0, (3, 2)),
        (Workers(count=16), 8, 0, (16, 1)),
        (Workers(threads=4), 8, 0, (2, 4)),
        (Workers(threads=16), 8, 0, (1, 16)),
        (Workers(count=2, threads=3), 8, 4, (2, 3)),
        (Workers(count=2, max=8), 8, 0, (8, 1)),
    ],
)
def test_workers_and_threads_fit_the_machine(workers, machine, on_gpu, sized):
    assert workers.sized(machine, on_gpu) == sized


@pytest.mark.parametrize("machine", range(1, 130))
def test_of_no_machine_more_than_a_tenth_is_left_idle(machine):
    """Of seven cores there were three."""
    workers, threads = Workers().sized(machine)

    assert 0.9 * machine <= workers * threads <= machine
    assert workers <= 7


def test_a_process_may_use_at_least_one_core():
    assert cores() >= 1


def test_a_plan_is_a_named_priority():
    plans = load(None, {"WHISPERD_PLANS__PRO": "50"}).plans

    assert [plans.priority(name) for name in ("FREE", "PRO", "PAYG", "pro", "GOLD")] == [
        1,
        50,
        10,
        None,
        None,
    ]


@settings(deadline=None)
@given(
    port=st.integers(0, 65535),
    grace=st.floats(0, 86_400),
    hosts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    tenants=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 10_000)),
)
def test_what_is_shown_can_be_read_again(tmp_path_factory, port, grace, hosts, tenants):
    given = {
        "http.port": port,
        "shutdown.grace_seconds": grace,
        "http.allowed_hosts": hosts,
        "queue.tenants": tenants,
    }
    config = load(None, HOME, given)
    file = tmp_path_factory.mktemp("shown") / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8", newline="")

    assert load(file, {}) == config


def test_what_is_shown_names_where_a_value_came_from():
    config, sources = read(None, {"WHISPERD_HTTP__PORT": "9000"})

    assert "port = 9000  # WHISPERD_HTTP__PORT" in to_toml(config, sources).splitlines()
    assert "# Address" not in to_toml(config, sources)


SECRET = {"backup.s3.secret_access_key": "s3cr3t"}


def test_a_secret_is_never_shown():
    config = load(None, HOME, SECRET)

    assert config.backup.s3.secret_access_key == "s3cr3t"
    assert 'secret_access_key = "***"' in to_toml(config).splitlines()
    assert "s3cr3t" not in f"{to_toml(config, {})}{config!r}{hidden(config)}"
    assert hidden(config).backup.s3.secret_access_key == "***"
    assert hidden(Config()) == Config()


SIGNING = f"whsec_{'A' * 44}"
HOOKS = {"webhooks.endpoints": ["https://hooks.example/T0/B1?k=s3cr3t"], "webhooks.secrets": [SIGNING]}


def test_where_webhooks_go_and_what_signs_them_is_never_shown():
    config = load(None, HOME, HOOKS)
    shown = f"{to_toml(config)}{to_toml(config, {})}{config!r}{hidden(config)}"

    assert config.webhooks.endpoints == ("https://hooks.example/T0/B1?k=s3cr3t",)
    assert 'endpoints = "***"' in shown.splitlines()
    assert "hooks.example" not in shown
    assert SIGNING not in shown


@pytest.mark.parametrize(
    "url",
    ["hooks.example", "ftp://hooks.example/", "https://user:pass@hooks.example/", "https://", "https:///x"],
)
def test_an_endpoint_is_a_url_without_user_and_password(url):
    Path("config.toml").write_text(f'[webhooks]\nendpoints = ["{url}"]')

    assert refused() == (
        "config.toml: webhooks.endpoints = ***: expected a list of URLs with no user or password in them"
    )


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "A" * 44, "whsec_" + "A" * 28, "whsec_" + "A" * 43, "whsec_é"]
)
def test_a_signing_secret_has_the_form_of_the_standard(secret):
    assert refused(WHISPERD_WEBHOOKS__SECRETS=f"{SIGNING},{secret} x").endswith(
        'expected a list of texts "whsec_…" (base64)'
    )


def test_what_stands_for_a_secret_is_not_one():
    assert "only stands for what was not shown" in refused(WHISPERD_BACKUP__S3__SECRET_ACCESS_KEY="***")


def test_a_wrong_secret_is_refused_without_being_told():
    Path("config.toml").write_text("[backup.s3]\nsecret_access_key = 12345")

    assert refused() == "config.toml: backup.s3.secret_access_key = ***: expected a text"


def test_a_password_in_a_url_is_refused_without_being_told():
    said = refused(WHISPERD_BACKUP__S3__ENDPOINT="https://me:s3cr3t@minio.lan:9000")

    assert "'https://***@minio.lan:9000': expected a URL with http:// or https:// and no user" in said


@pytest.mark.parametrize("endpoint", ["minio.lan", "ftp://a", "https://", "https://a/?key=1", "https://a b"])
def test_an_endpoint_is_a_plain_url(endpoint):
    assert "expected a URL" in refused(WHISPERD_BACKUP__S3__ENDPOINT=endpoint)


def test_a_nested_section_is_read_from_every_place():
    Path("config.toml").write_text('[backup]\nkeep_daily = 1\n[backup.s3]\nbucket = "a"\nregion = "b"')
    config = load(None, {"WHISPERD_BACKUP__S3__BUCKET": "c"}, {"backup.s3.prefix": "d/"})

    assert config.backup.keep_daily == 1
    assert config.backup.s3 == BackupS3(bucket="c", region="b", prefix="d/")


def test_values_are_set_wherever_they_stand():
    config = with_values(Config(), {"plans.FREE": 2, "backup.s3.bucket": "a"})

    assert (config.plans.free, config.backup.s3.bucket) == (2, "a")
    assert with_values(config, {"plans.FREE": 1, "backup.s3.bucket": ""}) == Config()


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config().http.port = 1
    assert set(asdict(Config())) == {section.name for section in fields(Config)}

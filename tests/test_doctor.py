import pytest

from tests.stand_in import serving, standing_in
from whisperd import doctor, models
from whisperd.config import Config, Storage, Workers, load
from whisperd.doctor import Finding, examine


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
    assert [finding.check for finding in findings if finding.check not in ("disk", "whisper.cpp")] == [
        "python",
        "sqlite",
        "libraries",
        "config",
        "data",
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
    finding = doctor._sqlite(version)

    assert finding.status == status
    assert ("WAL-reset" in finding.message) == bug


def test_an_old_python_fails():
    assert doctor._python((3, 10, 9)).status == "fail"


def test_wrong_settings_are_told_and_the_rest_still_checked(tmp_path):
    (tmp_path / "config.toml").write_text("[http]\nport = -1")
    finding = doctor._settings(tmp_path / "config.toml", {})[1]

    assert finding.status == "fail"
    assert "http.port = -1" in finding.message


def test_a_data_folder_that_others_can_read_is_a_warning(tmp_path):
    tmp_path.chmod(0o755)
    database = tmp_path / "whisperd.db"
    database.write_bytes(b"")
    database.chmod(0o644)

    assert [finding.advice for finding in doctor._folder(tmp_path)] == [
        f"chmod 700 {tmp_path}",
        f"chmod 600 {database}",
    ]
    tmp_path.chmod(0o700)
    database.chmod(0o600)
    assert list(doctor._folder(tmp_path)) == [Finding("data", "ok", str(tmp_path))]


def test_a_data_folder_that_is_not_there_yet_is_fine(config):
    assert [finding.status for finding in doctor._folder(config.data_dir)] == ["ok"]


def test_a_data_folder_that_cannot_be_written_fails(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")

    assert [finding.status for finding in doctor._folder(file)] == ["fail"]
    assert [finding.status for finding in doctor._folder(file / "new")] == ["fail"]


def test_the_disk_needs_its_reserve(tmp_path):
    huge = Config(storage=Storage(data_dir=str(tmp_path), min_free_mb=2**30))

    assert doctor._disk(huge).status == "fail"


def test_a_damaged_model_fails_with_what_to_do(tmp_path):
    (tmp_path / "ggml-tiny.en.bin").write_bytes(b"no model")
    config = Config(storage=Storage(models_dir=str(tmp_path)))
    (finding,) = doctor._models(config)

    assert (finding.status, finding.message) == ("fail", "tiny.en is corrupt")
    assert finding.advice.endswith("whisperd models pull tiny.en")


def test_a_model_of_unknown_origin_is_a_warning(tmp_path, weights):
    (tmp_path / "ggml-mine.bin").symlink_to(weights / "ggml-tiny.en.bin")
    config = Config(storage=Storage(models_dir=str(tmp_path)), workers=Workers(model="mine"))
    (finding,) = doctor._models(config)

    assert (finding.status, finding.advice) == ("warn", "whisperd models verify --trust mine")


def test_a_default_model_that_is_not_here_fails(tmp_path):
    config = Config(storage=Storage(models_dir=str(tmp_path)), workers=Workers(model="small"))
    (finding,) = doctor._models(config)

    assert (finding.status, finding.message) == ("fail", "small is missing")


def test_a_library_that_does_not_load_is_named():
    assert doctor._loads("json") is None
    assert "No module named 'no_such_module'" in doctor._loads("no_such_module")


def test_a_daemon_that_is_away_is_a_warning():
    finding = doctor._daemon("http://127.0.0.1:9")

    assert (finding.status, finding.advice) == ("warn", "whisperd serve")


@pytest.mark.parametrize(("health", "status"), [("ok", "ok"), ("degraded", "warn"), ("down", "fail")])
def test_the_daemon_is_asked_how_it_is(health, status):
    with standing_in() as daemon:
        trouble = {
            "workers": {"status": health, "message": None if health == "ok" else "1 of 2 workers are up"}
        }
        daemon.health |= {"status": health, "checks": trouble}
        finding = doctor._daemon(daemon.url)

    assert finding.status == status
    assert ("1 of 2 workers are up" in finding.message) == (health != "ok")


def test_another_program_on_the_port_fails():
    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(other) as url:
        assert doctor._daemon(url).status == "fail"

import pytest
import structlog

from whisperd import logs
from whisperd.config import KEYS, Config, ConfigError, Logging, load, with_values
from whisperd.reload import Change, changes, merged

# What an operator wants to turn while tasks run. A new key stands here or needs a restart: think about which.
RELOADABLE = {
    "http.interactive_priority",
    "http.abandoned_seconds",
    "http.heartbeat_after_seconds",
    "http.heartbeat_seconds",
    "http.session_hours",
    "queue.max_retries",
    "queue.retry_delay_ms",
    "queue.max_retry_delay_seconds",
    "queue.max_queued",
    "queue.max_wait_seconds",
    "queue.tenant_concurrent",
    "queue.tenants",
    "limits.weights",
    *(
        f"limits.{plan}.{name}"
        for plan in ("FREE", "PRO", "PAYG")
        for name in ("concurrent", "queued", "per_minute", "weight")
    ),
    "webhooks.endpoints",
    "webhooks.secrets",
    "cache.enabled",
    "cache.hours",
    "search.enabled",
    "retention.job_hours",
    "risk.max_seconds",
    "retention.failed_job_hours",
    "retention.usage_days",
    "workers.count",
    "workers.max",
    "workers.min",
    "workers.max_processing_seconds",
    "workers.silence_seconds",
    "workers.max_rss_mb",
    "workers.step_up_seconds",
    "workers.canary_after_seconds",
    "workers.canary_limit_seconds",
    "models.affinity_seconds",
    "models.ttl_seconds",
    "storage.min_free_mb",
    "storage.warn_free_mb",
    "backup.interval_seconds",
    "backup.keep_newest",
    "backup.keep_hourly",
    "backup.keep_daily",
    "shutdown.grace_seconds",
    "logging.level",
    "logging.levels",
    "metrics.tenants",
}


def test_these_settings_change_without_a_restart():
    assert {key.name for key in KEYS.values() if key.reload} == RELOADABLE


def test_nothing_changed_is_nothing_to_do():
    assert changes(Config(), Config()) == ((), ())
    assert merged(Config(), Config()) == Config()


def test_what_can_be_changed_is_taken_over_and_the_rest_is_named():
    new = with_values(Config(), {"logging.level": "debug", "http.port": 9000, "workers.count": 3})

    assert changes(Config(), new).applied == (
        Change("workers.count", 0, 3),
        Change("logging.level", "info", "debug"),
    )
    assert changes(Config(), new).needs_restart == (Change("http.port", 8002, 9000),)
    assert merged(Config(), new) == with_values(new, {"http.port": 8002})


def test_what_waits_for_a_restart_is_named_again_at_the_next_reload():
    new = with_values(Config(), {"http.port": 9000, "logging.level": "debug"})
    running = merged(Config(), new)

    assert changes(running, new) == ((), (Change("http.port", 8002, 9000),))


def test_a_new_secret_is_named_but_not_told():
    old = with_values(Config(), {"backup.s3.secret_access_key": "s3cr3t"})
    new = with_values(Config(), {"backup.s3.secret_access_key": "an0th3r"})

    assert changes(old, new).needs_restart == (Change("backup.s3.secret_access_key", "***", "***"),)
    assert merged(old, new) == old


def test_a_broken_file_is_refused_as_a_whole_with_every_problem(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[logging]\nlevel = 'debug'\n[http]\nport = -1\nprt = 1")

    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert len(refused.value.problems) == 2


def test_the_log_level_changes_for_loggers_that_are_there_already(capsys):
    log = structlog.get_logger("whisperd.test")
    try:
        logs.configure(Logging(format="json"))
        log.debug("before")
        logs.set_levels(Logging(level="debug"))
        log.debug("after")
    finally:
        logs.close()
        structlog.reset_defaults()

    told = capsys.readouterr().err
    assert ("before" in told, "after" in told) == (False, True)

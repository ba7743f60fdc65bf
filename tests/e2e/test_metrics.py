"""/metrics of a real daemon that has worked."""

import subprocess

from prometheus_client.parser import text_string_to_metric_families


def scraped(daemon):
    text = daemon.http.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return text, {
        (sample.name.removeprefix("whisperd_"), *sample.labels.values()): sample.value for sample in samples
    }


def test_a_daemon_counts_what_it_did_in_a_text_that_prometheus_approves_of(daemon, jfk):
    daemon.finished(daemon.queued(jfk))
    text, found = scraped(daemon)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert found["ready",] == found["chunks_total",] == found["tasks_ended_total", "completed"] == 1
    assert 10 < found["audio_seconds_total",] < 12
    assert found["chunk_seconds_sum",] / found["audio_seconds_total",] == found["real_time_factor_sum",]
    assert found["task_wait_seconds_count", "normal"] == found["task_processing_seconds_count",] == 1
    assert found["database_commit_seconds_count",] > 5
    assert found["http_requests_total", "POST", "/tasks/transcription", "2xx"] == 1
    assert found["worker_memory_bytes", "1"] > 50_000_000
    assert found["spool_bytes",] > 0
    daemon.until(lambda: scraped(daemon)[1]["loop_lag_seconds_count",] > 0)

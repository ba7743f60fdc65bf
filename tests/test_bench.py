"""`whisperd bench`: what it runs, what it calls best, and that it runs."""

import io
import json
import struct
import tomllib
import wave
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whisperd.bench import SAMPLE, Arrangement, Figures, arrangements, best, config_of
from whisperd.cli import app
from whisperd.config import Config, Queue, Workers
from whisperd.engine import features
from whisperd.engine.audio import Limits, decode
from whisperd.models import ModelFile
from whisperd.task import SAMPLE_RATE

MEGABYTE = 2**20


def a_head(weights):
    """Of a model's file, and no more: 1 is float16, 7 is q8_0."""
    return struct.pack("<12i", 0x67676D6C, 51864, *[0] * 9, weights)


def a_model(name, path="/nowhere"):
    return ModelFile(Path(path), name, multilingual=False)


def figures(model, workers, speed, rss):
    return Figures(Arrangement(model, "whisper.cpp", workers, 1), speed, 1.0, 11.0, rss * MEGABYTE)


@pytest.fixture
def one_engine(monkeypatch):
    monkeypatch.setattr(features, "has_ctranslate2", lambda: False)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (8, [(1, 8), (2, 4), (4, 2), (8, 1)]),
    ],
)
def test_the_cores_are_shared_out_in_several_ways(one_engine, cores, expected):
    assert [(one.workers, one.threads) for one in arrangements([a_model("tiny.en")], cores)] == expected


def test_on_a_gpu_a_few_workers_share_it_however_many_cores_there_are(one_engine, monkeypatch):
    monkeypatch.setattr(features, "on_gpu", lambda engine: True)

    found = arrangements([a_model("large-v3")], 16)
    assert [(one.workers, one.threads) for one in found] == [(1, 16), (2, 8), (4, 4)]


def test_a_gpu_that_is_not_to_be_used_changes_nothing(one_engine, monkeypatch):
    monkeypatch.setattr(features, "on_gpu", lambda engine: True)

    found = arrangements([a_model("large-v3")], 2, gpu=False)
    assert [(one.workers, one.threads) for one in found] == [(1, 2), (2, 1)]


def test_a_quantised_model_is_run_by_whisper_cpp_alone(monkeypatch, tmp_path):
    """All that had been measured was lost: CTranslate2 takes no such model."""
    monkeypatch.setattr(features, "has_ctranslate2", lambda: True)
    (tmp_path / "ggml-tiny.en-q8_0.bin").write_bytes(a_head(7))

    found = arrangements([a_model("tiny.en-q8_0", tmp_path / "ggml-tiny.en-q8_0.bin")], 1)
    assert [one.engine for one in found] == ["whisper.cpp"]


def test_what_is_run_is_what_its_row_says_whatever_the_settings_limit():
    workers = Workers(max=4, min=2, count=7, nice=3, gpu=False, max_rss_mb=900)
    limited = Config(workers=workers, queue=Queue(tenant_concurrent=1, max_queued=1))
    made = config_of(limited, Arrangement("base", "whisper.cpp", 2, 3))

    assert made.workers.sized(8) == (2, 3)
    assert (made.workers.model, made.workers.engine, made.queue) == ("base", "whisper.cpp", Queue())
    assert (made.workers.nice, made.workers.gpu, made.workers.max_rss_mb) == (3, False, 900)
    assert (made.models_dir, made.cache.enabled) == (limited.models_dir, False)


def test_each_model_is_run_by_each_engine_that_is_installed(monkeypatch):
    monkeypatch.setattr(features, "has_ctranslate2", lambda: True)

    assert [(one.model, one.engine) for one in arrangements([a_model("tiny.en"), a_model("base")], 1)] == [
        ("tiny.en", "whisper.cpp"),
        ("tiny.en", "ctranslate2"),
        ("base", "whisper.cpp"),
        ("base", "ctranslate2"),
    ]


def test_the_best_is_the_fastest_or_what_is_about_as_fast_with_less_memory():
    thrifty = figures("tiny.en", 1, 9.6, 150)
    slow = figures("tiny.en", 4, 8.0, 100)
    large = figures("base", 2, 3.0, 900)

    assert best([thrifty, figures("tiny.en", 2, 10.0, 300), slow, large]) == [thrifty, large]


@pytest.fixture
def clip(tmp_path):
    """Two seconds of silence, which cost next to nothing."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 2 * 16000))
    return tmp_path / "a.wav"


@pytest.fixture
def run(one_engine, weights, clip, monkeypatch):
    monkeypatch.setattr("whisperd.config.cores", lambda: 1)

    def run(*words):
        always = ["bench", "--seconds", "1", "--models-dir", str(weights), str(clip)]
        return CliRunner().invoke(app, [*always, *words])

    return run


def test_the_speech_that_comes_with_it_can_be_decoded():
    with SAMPLE.open("rb") as file:
        decoded = decode(
            file, io.BytesIO(), split=False, limits=Limits(seconds=60), tick=lambda seconds: None
        )

    assert decoded.samples / SAMPLE_RATE == pytest.approx(11.0, abs=0.1)


def test_it_says_how_fast_the_machine_is_and_what_to_write(run):
    told = run().output

    assert tomllib.loads(told[told.index("  [workers]") :]) == {
        "workers": {"model": "tiny.en", "engine": "whisper.cpp", "count": 1, "threads": 1}
    }


def test_in_json_it_gives_all_that_was_measured(run):
    told = json.loads(run("--json", "--model", "tiny.en").output)

    (measured,) = told["measured"]
    assert told["best"] == [measured]
    assert (measured["model"], measured["workers"], measured["threads"]) == ("tiny.en", 1, 1)
    assert measured["speed"] > 0
    assert measured["clip_seconds"] == pytest.approx(2.0, abs=0.1)
    assert measured["rss_bytes"] > 50 * MEGABYTE


def test_an_arrangement_that_fails_is_a_row_and_the_others_are_measured(run, weights, tmp_path):
    """One that could not start ended it without a word of what had been measured."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "ggml-tiny.en.bin").symlink_to(weights / "ggml-tiny.en.bin")
    (folder / "ggml-broken.bin").write_bytes(a_head(1))  # the smallest, so it comes first
    told = json.loads(run("--json", "--models-dir", str(folder)).output)

    assert [one["model"] for one in told["measured"]] == ["tiny.en"]
    assert [one["model"] for one in told["failed"]] == ["broken"]
    assert told["failed"][0]["why"].startswith("a worker could not start: ")


def test_limits_on_tasks_are_none_on_what_is_measured(run, tmp_path):
    (tmp_path / "config.toml").write_text("[queue]\nmax_queued = 1\n")
    told = json.loads(run("--json", "--model", "tiny.en", "--config", str(tmp_path / "config.toml")).output)

    assert (len(told["measured"]), told["failed"]) == (1, [])


def test_a_file_that_is_no_audio_and_a_model_that_is_not_there_are_named(run, clip):
    assert "whisperd models pull base.en" in str(run("--model", "base.en").exception)
    clip.write_text("no audio")
    assert "a.wav was not transcribed: not a media file" in str(run().exception)

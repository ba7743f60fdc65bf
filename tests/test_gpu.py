"""The memory of the GPUs, asked of a library that a C compiler makes in the driver's stead."""

import json
import os
import struct
import subprocess
import sys
import time
from ctypes.util import find_library

import pytest

from whisperd import bench, children, fitting, gpu, machine, orders
from whisperd.config import Config, Models, Storage, Workers
from whisperd.doctor import installation
from whisperd.engine import features

NVML = """
#include <stdio.h>
#include <unistd.h>
#ifndef CARDS
#define CARDS 3
#endif
#ifndef FREE
#define FREE 1
#endif
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) {
#ifdef ASKED
  FILE *asked = fopen(ASKED, "a");
  fputs(".", asked); fclose(asked);
#endif
  if (INIT < 0) sleep(60);
  return INIT;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = CARDS; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(0x700000000000 + index);  /* a pointer that fits no int */
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory *said) {
  unsigned long long index = (unsigned long long)device - 0x700000000000;
  said->total = 80000000000 + index; said->used = 5000000000 + index; said->free = FREE + index;
  return index == 1 ? 15 /* lost */ : 0;
}
"""


@pytest.fixture
def asked(tmp_path):
    """What a fresh process is told, with a library that begins with this status."""

    def ask(status=None):
        if status is not None:
            (tmp_path / "nvml.c").write_text(NVML)
            library = tmp_path / "libnvidia-ml.so.1"
            made = ["cc", f"-DINIT={status}", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"]
            subprocess.run(made, check=True)
        code = f"import json; from whisperd import gpu; gpu.LIBRARY = {str(tmp_path / 'libnvidia-ml.so.1')!r}"
        command = [sys.executable, "-c", f"{code}; print(json.dumps(gpu.memory()))"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    return ask


def test_each_gpu_that_answers_tells_its_memory(asked):
    assert asked(0) == [[0, 5_000_000_000, 80_000_000_000, 1], [2, 5_000_000_002, 80_000_000_002, 3]]


def test_where_there_is_no_driver_there_is_no_gpu(asked):
    assert asked() == []


def test_a_driver_that_is_not_loaded_is_none(asked):
    assert asked(9) == []


# (n_audio_state, n_text_state, n_text_layer, bytes): as published
MODELS = {
    "tiny": (384, 384, 4, 77_691_713),
    "base": (512, 512, 6, 147_951_465),
    "small": (768, 768, 12, 487_601_967),
    "medium": (1024, 1024, 24, 1_533_763_059),
    "large-v3": (1280, 1280, 32, 3_095_033_483),
    "large-v3-turbo": (1280, 1280, 4, 1_624_555_275),
    "large-v3-q5_0": (1280, 1280, 32, 1_081_140_203),
}
GB = 10**9


@pytest.fixture
def config(tmp_path):
    """Of a machine with models that begin as the published ones, and are as long."""
    for name, (columns, text_columns, text_layers, length) in MODELS.items():
        head = (0x67676D6C, 51866, 1500, columns, 8, 8, 448, text_columns, 8, text_layers, 128, 1)
        with (tmp_path / f"ggml-{name}.bin").open("wb") as file:
            file.write(struct.pack("<12i", *head))
            file.truncate(length)

    def of(model="large-v3", preload=(), **workers):
        storage = Storage(models_dir=str(tmp_path), data_dir=str(tmp_path / "data"))
        return Config(
            storage=storage, workers=Workers(model=model, **workers), models=Models(preload=preload)
        )

    return of


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Set up a driver that says so many bytes are free on its first card; tells how often one was asked.

    Of three the second does not tell, the third has two bytes more.
    """

    def say(free, init=0, cards=1):
        (tmp_path / "nvml.c").write_text(NVML)
        flags = [
            f"-DINIT={init}",
            f"-DFREE={free}",
            f"-DCARDS={cards}",
            f'-DASKED="{tmp_path / "asked"}"',
            "-shared",
            "-fPIC",
        ]
        made = ["cc", *flags, "-o", tmp_path / "libnvidia-ml.so.1", tmp_path / "nvml.c"]
        subprocess.run(made, check=True)

    def asked():
        return (tmp_path / "asked").stat().st_size

    monkeypatch.setattr(features, "on_gpu", lambda engine: True)
    monkeypatch.setattr(features, "by_cuda", lambda engine: True)
    monkeypatch.setattr(machine, "cores", lambda: 16)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    say.asked = asked
    gpu.free.cache_clear()
    yield say
    gpu.free.cache_clear()


def workers(config):
    return machine.pool_settings(config).workers


@pytest.mark.parametrize(
    ("free", "model", "count"),
    [
        (80 * GB, "large-v3", 4),
        (24 * GB, "large-v3", 4),
        (16 * GB, "large-v3", 3),
        (8 * GB, "large-v3", 1),
        (8 * GB, "large-v3-turbo", 2),
        (8 * GB, "large-v3-q5_0", 2),
        (4 * GB, "tiny", 4),
        (4 * GB, "large-v3", 1),
        (0, "tiny", 1),
    ],
)
def test_so_many_workers_share_a_gpu_as_its_free_memory_has_room_for(card, config, free, model, count):
    card(free)

    assert workers(config(model)) == count


def test_it_is_the_largest_model_that_has_to_fit(card, config):
    card(16 * GB)

    assert workers(config("tiny", preload=("base", "large-v3"))) == 3


def test_what_is_set_is_not_found_out(card, config):
    card(80 * GB)

    assert workers(config(count=2)) == 2
    assert machine.pool_settings(config(gpu=False)).workers == 4  # by the cores


@pytest.mark.parametrize(
    ("visible", "cards"),
    [
        (None, ("0", "2", "2")),
        ("1", ("",)),
        ("2,0", ("2", "0", "2")),
        ("0", ("",)),
        ("2", ("", "")),
        ("2,1,0", ("", "")),
        ("GPU-8f2a", ("",)),
        ("", ("",)),
    ],
)
def test_workers_are_shared_out_among_the_gpus_that_they_may_use(
    card, config, monkeypatch, tmp_path, visible, cards
):
    """Where there is one to choose they are told none: it is as if nobody had counted."""
    needed = fitting.bytes_needed(tmp_path / "ggml-tiny.bin")
    card(2 * needed - 2, cards=3)  # the third has just enough for two workers
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    settings = machine.pool_settings(config("tiny"))

    assert (settings.cards, settings.workers) == (cards, len(cards))


def test_workers_whose_number_is_set_are_shared_out_too(card, config):
    card(80 * GB, cards=3)

    settings = machine.pool_settings(config(count=3))

    assert settings.workers == 3
    of = [orders.child_settings(orders.Model("", ""), settings, number).card for number in (1, 2, 3)]
    assert of == ["0", "2", "0"]


def test_where_the_engine_cannot_be_told_which_gpu_the_memory_of_one_counts(card, config, monkeypatch):
    monkeypatch.setattr(features, "by_cuda", lambda engine: False)
    card(80 * GB, cards=3)

    assert machine.pool_settings(config()).cards == ("",) * 4


@pytest.mark.parametrize(
    ("engine", "backends", "is_so"),
    [
        ("whisper.cpp", {"cpu", "cuda"}, True),
        ("whisper.cpp", {"cpu", "vulkan"}, False),
        ("ctranslate2", {"cpu"}, True),
    ],
)
def test_vulkan_does_not_go_by_the_variables_of_cuda(monkeypatch, engine, backends, is_so):
    monkeypatch.setattr(features, "build", lambda: features.Build(libraries=frozenset(backends)))

    assert features.by_cuda(engine) is is_so


def test_no_worker_goes_to_a_gpu_without_room(card, config, tmp_path):
    needed = fitting.bytes_needed(tmp_path / "ggml-tiny.bin")
    card(needed - 1, cards=3)
    assert machine.pool_settings(config("tiny")).cards == ("2",)

    gpu.free.cache_clear()
    card(needed - 3, cards=3)
    assert machine.pool_settings(config("tiny")).cards == ("",)


@pytest.mark.parametrize(
    ("visible", "order", "seen"),
    [
        (None, None, {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ("2,0", None, {"CUDA_VISIBLE_DEVICES": "2"}),
        ("2,0", "FASTEST_FIRST", {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}),
    ],
)
def test_a_worker_sees_its_gpu_and_no_other(monkeypatch, visible, order, seen):
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)

    env = children.environment(1, "2")

    assert {name: value for name, value in env.items() if name.startswith("CUDA")} == seen


def test_where_no_gpu_is_chosen_the_variables_of_cuda_are_passed_on(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")

    assert children.environment(1)["CUDA_VISIBLE_DEVICES"] == "2,0"


def test_a_bench_tries_as_many_workers_as_there_are_gpus(card):
    card(80 * GB, cards=3)

    assert bench._counts(16, on_gpu=True) == [2, 4, 8]


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="this machine has a driver")
def test_a_machine_without_a_driver_has_one_worker(card, config):
    assert workers(config()) == 1


def test_a_driver_that_is_not_loaded_tells_nothing(card, config):
    card(80 * GB, init=9)

    assert workers(config()) == 1


def test_a_driver_that_is_broken_tells_nothing(card, config, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")

    assert workers(config()) == 1


def test_a_driver_that_hangs_does_not_keep_the_daemon_from_starting(card, config, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE_SECONDS", 1.0)
    card(80 * GB, init=-1)
    began = time.monotonic()

    assert workers(config()) == 1
    assert card.asked() == 1
    assert time.monotonic() - began < 30


def test_a_model_that_is_none_has_one_worker(card, config, tmp_path):
    card(80 * GB)
    (tmp_path / "ggml-tiny.bin").write_bytes(b"lmgg")

    assert workers(config("tiny")) == 1
    assert workers(config("base.en")) == 1  # which is not here


def test_a_reload_does_not_count_the_memory_that_our_own_workers_have(card, config):
    card(80 * GB)
    assert workers(config()) == 4
    card(4 * GB)

    assert workers(config(nice=3)) == 4
    assert card.asked() == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [("tiny", 273e6), ("base", 388e6), ("small", 852e6), ("medium", 2.1e9), ("large-v3", 3.9e9)],
)
def test_no_model_is_thought_smaller_than_whisper_cpp_says_nor_half_as_large_again(config, model, said):
    needed = fitting.bytes_needed(config().models_dir / f"ggml-{model}.bin") - fitting.CUDA_BYTES

    assert said <= needed < 1.5 * said


@pytest.mark.parametrize(
    ("free", "init", "status", "words"),
    [
        (80 * GB, 0, "ok", "has memory for 4 workers"),
        (4 * GB, 0, "warn", "too little for one worker with large-v3"),
        (80 * GB, 9, "ok", "nobody tells its free memory"),
    ],
)
def test_the_doctor_says_how_many_fit_and_warns_where_not_even_one_does(
    card, config, free, init, status, words
):
    card(free, init)
    (finding,) = installation.gpu(config())

    assert (finding.status, words in finding.message) == (status, True)


def test_while_a_daemon_runs_its_own_workers_have_the_memory_and_the_doctor_is_silent(
    card, config, monkeypatch
):
    card(4 * GB)
    monkeypatch.setattr(installation, "is_owned", lambda path: True)

    assert list(installation.gpu(config())) == []
    assert "had memory for when the daemon began" in installation.whisper(config()).message


def test_the_doctor_says_nothing_of_a_gpu_where_none_is_used(card, config, monkeypatch):
    monkeypatch.setattr(features, "on_gpu", lambda engine: False)

    assert list(installation.gpu(config())) == []

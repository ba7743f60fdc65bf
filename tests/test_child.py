"""The worker process by itself, real: what it answers, what it survives, what it leaves behind."""

import os
import resource
import signal
from contextlib import ExitStack

import msgspec
import pytest

from tests.child import Child, silence, until
from tests.ct2_folder import write_multilingual
from tests.trouble import on_a_small_disk
from whisperd.child import MOST_FILES, OVERHEAD, _fingerprint
from whisperd.engine import memory
from whisperd.engine.languages import LANGUAGES
from whisperd.engine.protocol import Aborted, MakePlan, Planned, Transcribed
from whisperd.spool import Spool
from whisperd.task import MOST_PEAKS, Cut, Options, Piece

HOURS = 3 * 3600  # of audio: too long to be decoded by the end of any test


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", max_bytes=1)


@pytest.fixture
def new_child(tmp_path, weights):
    """Makes children, which are gone at the end of the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Child(tmp_path, weights / "ggml-tiny.en.bin", **settings)
        )


@pytest.fixture(scope="module")
def child(tmp_path_factory, weights):
    """One for all tests that do it no harm: at the end it is still the same, and well."""
    with Child(tmp_path_factory.mktemp("child"), weights / "ggml-tiny.en.bin") as child:
        yield child
        assert child.process.poll() is None


def left_in(spool):
    return sorted(os.listdir(spool.pcm("t1").parent))


def is_decoding(spool):
    return any(part.stat().st_size for part in spool.pcm("t1").parent.glob("*.parts/*"))


# --- what it is ---


def test_it_ends_when_its_daemon_goes(new_child, spool, tmp_path):
    child = new_child()
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"))
    until(lambda: is_decoding(spool))
    child.process.stdin.close()

    assert child.process.wait(2) == 0


def test_it_does_not_start_for_a_daemon_that_is_gone(tmp_path, weights):
    gone = Child(tmp_path, weights / "ggml-tiny.en.bin", daemon_pid=1)
    with pytest.raises(AssertionError), gone:  # it says nothing, instead of Ready
        pass

    assert (gone.process.returncode, (tmp_path / "stderr").read_bytes()) == (0, b"")


def test_signals_to_the_whole_group_are_the_daemons_to_handle(child, spool, jfk):
    for number in (signal.SIGINT, signal.SIGTERM):
        child.process.send_signal(number)
    child.plan(jfk, spool.pcm("t1"))

    assert isinstance(child.answer(), Planned)


# --- what it answers ---


@pytest.mark.parametrize("engine", ["whisper.cpp", "ctranslate2", "auto"])
def test_it_plans_and_transcribes(new_child, spool, jfk, engine):
    child = new_child(engine=engine)
    child.plan(jfk, spool.pcm("t1"), Options(beam_size=1))
    plan = child.answer().plan
    child.transcribe(spool.pcm("t1"), plan.cuts[0])
    done = child.answer()

    assert (plan.duration, plan.language, plan.warnings, len(plan.cuts)) == (11.0, "en", (), 1)
    assert isinstance(done, Transcribed)
    assert "ask not what your country can do for you" in " ".join(s.text for s in done.segments)
    assert all(0 <= s.start <= s.end <= 11 for s in done.segments)
    assert 0 < done.seconds < 30
    assert (len(plan.peaks), max(plan.peaks) > 100, min(plan.peaks) < 10) == (MOST_PEAKS, True, True)
    assert left_in(spool) == ["t1.pcm"]


def test_chunks_of_a_plan_from_before_windows_had_parts_are_of_use_where_none_is_parted():
    before = msgspec.json.decode('{"pieces":[[0,400000]],"speech":0.9}', type=Cut)
    now = msgspec.structs.replace(before, part=200_000)
    request = MakePlan(
        number=1,
        audio="a",
        pcm="p",
        model="m",
        model_sha256="m",
        audio_sha256="a",
        options=Options(),
        max_seconds=60,
    )
    same = [
        _fingerprint(request, (before,), engine) == _fingerprint(request, (now,), engine)
        for engine in ("whisper.cpp", "ctranslate2")
    ]

    assert (before.part, same) == (0, [True, False])


@pytest.mark.parametrize("engine", ["whisper.cpp", "ctranslate2"])
def test_a_chunk_is_refused_by_another_engine_and_with_another_model_file_than_its_plan_says(
    new_child, spool, jfk, engine
):
    """A transcript was finished by whatever the daemon was set to meanwhile, under the plan of the first."""
    child = new_child(engine=engine)
    child.plan(jfk, spool.pcm("t1"))
    plan = child.answer().plan

    def outcome(heard_by, sha256="m"):
        child.transcribe(spool.pcm("t1"), plan.cuts[0], sha256=sha256, heard_by=heard_by)
        return child.answer()

    other = {"whisper.cpp": "ctranslate2", "ctranslate2": "whisper.cpp"}[engine]
    assert plan.heard_by == f"{engine} m"
    assert isinstance(outcome(plan.heard_by), Transcribed)
    assert isinstance(outcome(None), Transcribed)  # of a plan from before this was known
    for refused in (outcome(f"{other} m"), outcome(plan.heard_by, sha256="n")):
        assert (refused.code, refused.then) == ("plan_outdated", "replan")


@pytest.mark.parametrize("engine", ["whisper.cpp", "ctranslate2"])
def test_a_model_file_that_was_replaced_is_loaded_anew(tmp_path, weights, spool, jfk, engine):
    """The one that was in memory went on, under the name of the new one."""
    model = tmp_path / "ggml-own.bin"
    model.symlink_to(weights / "ggml-tiny.en.bin")
    with Child(tmp_path, model, engine=engine) as child:
        child.plan(jfk, spool.pcm("t1"))
        (cut,) = child.answer().plan.cuts
        model.unlink()
        model.write_bytes(b"no model")
        child.transcribe(spool.pcm("t1"), cut)
        before = child.answer()
        child.transcribe(spool.pcm("t1"), cut, sha256="n")
        after = child.answer()

    assert isinstance(before, Transcribed)  # nobody has said that there is another
    assert (after.code, after.then) == ("model_unusable", "fail")


@pytest.mark.parametrize("engine", ["whisper.cpp", "ctranslate2"])
def test_a_language_that_the_model_does_not_know_is_refused_for_good(tmp_path, spool, jfk, engine):
    model = write_multilingual(tmp_path / "ggml-noise.bin", tmp_path / "noise")  # without Cantonese
    options = Options(language="yue", beam_size=1, vad=False)
    with Child(tmp_path, model, engine=engine) as child:
        child.plan(jfk, spool.pcm("t1"), options)
        child.transcribe(spool.pcm("t1"), child.answer().plan.cuts[0], options)
        refused = child.answer()

    assert (refused.code, refused.then) == ("model_unusable", "fail")
    assert "yue" in refused.message


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("a04_random.mp3", "unsupported_media"),
        ("a08_image.png", "unsupported_media"),
        ("h01_hls_passwd.m3u8", "unsupported_media"),
        ("missing.wav", "audio_missing"),
    ],
)
def test_what_it_cannot_decode_it_refuses_for_good(child, spool, corpus, file, code):
    child.plan(corpus / "hostile" / file, spool.pcm("t1"))
    refused = child.answer()

    assert (refused.code, refused.then) == (code, "fail")
    assert left_in(spool) == []


def test_audio_that_is_too_long_is_refused_before_all_of_it_is_decoded(child, spool, tmp_path):
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"), max_seconds=60.0)
    refused = child.answer()

    assert (refused.code, refused.then) == ("audio_too_long", "fail")
    assert left_in(spool) == []


def test_an_abort_while_it_decodes_is_answered_within_a_second(child, spool, tmp_path):
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"))
    until(lambda: is_decoding(spool))
    child.abort()

    assert child.answer(seconds=1.0) == Aborted()
    assert left_in(spool) == []


def test_an_abort_that_comes_too_late_does_not_touch_the_next_request(child, spool, jfk):
    child.plan(jfk, spool.pcm("t1"))
    child.answer()
    child.abort()
    child.plan(jfk, spool.pcm("t1"))

    assert isinstance(child.answer(), Planned)


@pytest.mark.parametrize("size", [None, 1000])
def test_decoded_audio_that_is_gone_or_cut_off_is_asked_for_again(child, spool, size):
    if size is not None:
        spool.pcm("t1").write_bytes(bytes(size))
    child.transcribe(spool.pcm("t1"), Cut(pieces=(Piece(0, 16_000),)))
    refused = child.answer()

    assert (refused.code, refused.then) == ("pcm_gone", "replan")


@pytest.mark.parametrize("language", ["auto", "en"])
def test_a_task_that_only_asks_for_the_language_is_all_plan(child, spool, jfk, language):
    child.plan(jfk, spool.pcm("t1"), Options(language=language, detect_only=True))
    plan = child.answer().plan

    assert (plan.duration, plan.language, plan.cuts) == (11.0, "en", ())
    assert plan.language_probability == (1.0 if language == "auto" else None)  # tiny.en knows no other


def test_where_nothing_is_said_no_language_is_detected(child, spool, tmp_path):
    child.plan(silence(tmp_path / "short.wav", 5), spool.pcm("t1"), Options(detect_only=True))
    plan = child.answer().plan

    assert (plan.language, plan.language_probability) == ("en", None)


def test_a_model_of_many_languages_elects_one_always_alike(tmp_path, spool, jfk):
    """Its weights are noise, and so is its choice."""
    model = write_multilingual(tmp_path / "ggml-noise.bin", tmp_path / "noise")
    elected = []
    for _ in range(2):
        with Child(tmp_path, model) as child:
            child.plan(jfk, spool.pcm("t1"), Options(detect_only=True))
            plan = child.answer().plan
            elected.append((plan.language, plan.language_probability))

    assert elected[0] == elected[1]
    assert elected[0][0] in LANGUAGES
    assert 1 / 99 < elected[0][1] < 1


# --- what else works on the same task ---


def test_a_task_that_is_cancelled_and_run_again_at_once_is_decoded_by_two(child, new_child, spool, tmp_path):
    """Found by a cancel with a retry right behind it: the first child took the file of the second away."""
    again = new_child()
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"))
    until(lambda: is_decoding(spool))
    again.plan(silence(tmp_path / "short.wav", 120), spool.pcm("t1"))
    until(lambda: (tmp_path / "spool" / "t1.parts" / f"{again.process.pid}-1").exists())
    again.process.send_signal(signal.SIGSTOP)
    child.abort()
    assert child.answer() == Aborted()
    again.process.send_signal(signal.SIGCONT)

    assert isinstance(again.answer(), Planned)
    assert left_in(spool) == ["t1.pcm"]


def test_decoded_audio_that_is_removed_while_it_is_made_is_made_again_and_nobody_is_to_blame(
    child, spool, tmp_path
):
    """The late echo of a cancel removes what a task keeps, and the task may be running again."""
    child.plan(silence(tmp_path / "short.wav", 120), spool.pcm("t1"))
    until(lambda: is_decoding(spool))
    child.process.send_signal(signal.SIGSTOP)
    spool.remove_pcm("t1")
    assert left_in(spool) == []
    child.process.send_signal(signal.SIGCONT)
    refused = child.answer()

    assert (refused.code, refused.then) == ("pcm_gone", "replan")
    assert left_in(spool) == []


def test_what_a_killed_child_leaves_is_removed_by_the_next(child, new_child, spool, tmp_path, jfk):
    killed = new_child()
    killed.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"))
    until(lambda: is_decoding(spool))
    killed.process.kill()
    killed.process.wait()
    assert left_in(spool) == ["t1.parts"]

    child.plan(jfk, spool.pcm("t1"))
    assert isinstance(child.answer(), Planned)
    assert left_in(spool) == ["t1.pcm"]


# --- what it is confined to ---


def test_a_file_that_would_be_larger_than_it_may_be_is_refused_for_good(new_child, spool, tmp_path):
    child = new_child(max_file_bytes=2**20)
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"))
    refused = child.answer()

    assert (refused.code, refused.then) == ("audio_too_long", "fail")
    assert left_in(spool) == []
    assert resource.prlimit(child.process.pid, resource.RLIMIT_CORE) == (0, 0)


def test_a_limit_that_is_lower_already_stays(new_child):
    child = new_child(before=("prlimit", "--fsize=1000000"), max_file_bytes=2**30)

    assert resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE) == (1_000_000, 1_000_000)


def test_a_loop_that_never_ends_is_ended_by_the_kernel_though_nobody_watches(new_child, spool, tmp_path):
    child = new_child()
    child.plan(silence(tmp_path / "long.wav", HOURS), spool.pcm("t1"), cpu_seconds=0.1)

    assert child.process.wait(20) == -signal.SIGXCPU


def test_each_request_has_its_own_processor_time(new_child, spool, jfk):
    child = new_child()
    rations = []
    for _ in range(2):
        child.plan(jfk, spool.pcm("t1"), cpu_seconds=100.0)
        assert isinstance(child.answer(), Planned)
        rations.append(resource.prlimit(child.process.pid, resource.RLIMIT_CPU))

    assert all(100 <= soft <= 130 and hard == resource.RLIM_INFINITY for soft, hard in rations)


def test_by_itself_it_may_address_what_the_machine_holds_and_a_longest_file(new_child):
    child = new_child(max_file_bytes=2**30)

    expected = memory.total_bytes() + 2**30 + OVERHEAD
    assert resource.prlimit(child.process.pid, resource.RLIMIT_AS) == (expected, expected)
    assert resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE)[0] <= MOST_FILES


def test_memory_that_runs_out_is_said_on_stderr_before_it_dies(tmp_path, weights):
    starved = Child(tmp_path, weights / "ggml-tiny.en.bin", max_memory_bytes=600 * 2**20)
    with pytest.raises(AssertionError), starved:
        pass

    assert memory.lacking((tmp_path / "stderr").read_text())


def test_a_model_that_cannot_be_loaded_is_the_fault_of_no_audio_and_no_retry_mends_it(
    child, spool, jfk, tmp_path
):
    (tmp_path / "ggml-bad.bin").write_bytes(b"no model")
    child.plan(jfk, spool.pcm("t1"))
    cut = child.answer().plan.cuts[0]
    good, child.model = child.model, str(tmp_path / "ggml-bad.bin")
    child.transcribe(spool.pcm("t1"), cut)
    refused = child.answer()
    child.model = good
    child.transcribe(spool.pcm("t1"), cut)

    assert (refused.code, refused.then) == ("model_unusable", "fail")
    assert isinstance(child.answer(), Transcribed)


def test_a_child_says_why_it_cannot_load_the_model_that_it_is_to_begin_with(tmp_path):
    (tmp_path / "ggml-bad.bin").write_bytes(b"no model")
    child = Child(tmp_path, tmp_path / "ggml-bad.bin", engine="ctranslate2")
    refused = child.answer()
    child.process.wait(20)
    child.end()

    assert (refused.code, child.process.returncode) == ("model_unusable", 1)
    assert "no model of whisper.cpp" in refused.message


FULL = """
import sys
from pathlib import Path
from tests.child import Child, silence

folder, model = Path(sys.argv[1]), {model!r}
with Child(folder, model) as child:
    for seconds in (600, 10):
        child.plan(silence(folder / "a.wav", seconds), folder / "t1.pcm")
        answer = child.answer()
        print(type(answer).__name__, getattr(answer, "code", ""), getattr(answer, "then", ""))
        print(*sorted(path.name for path in folder.iterdir()))
"""


def test_a_full_disk_is_waited_for_and_nothing_stays_of_what_it_cut_off(tmp_path, weights):
    said = on_a_small_disk(tmp_path, FULL.format(model=str(weights / "ggml-tiny.en.bin")), megabytes=2)

    assert said.splitlines() == [
        "Refused storage_full wait",
        "a.wav stderr",
        "Planned  ",
        "a.wav stderr t1.pcm",
    ]

"""POST /tasks/transcription: what is accepted, what is refused and why, and that a refusal leaves nothing."""

import asyncio
import ctypes
import glob
import hashlib
import json
import os
import re
import threading
import time
import tracemalloc

import msgspec
import pytest

from tests.http_server import (
    NOTHING,
    SOUND,
    SUBMIT,
    a_field,
    a_form,
    a_request,
    refused,
    the_error,
    the_file,
)
from whisperd.task import Options

FORM = "multipart/form-data; boundary=frontier"
OTHER_SOUND = SOUND + b"\x00"


# --- what is accepted ---


def test_an_upload_becomes_a_queued_task(with_server):
    async def body(server):
        answer = await server.post(name="talk.wav")
        task = answer.json()

        assert answer.status_code == 202
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["location"] == f"/tasks/{task['task_id']}"
        assert (task["kind"], task["status"], task["position"]) == ("transcription", "queued", 1)
        assert (task["priority"], task["tenant"], task["model"]) == (0, "default", "tiny.en")
        assert (task["attempt"], task["max_retries"], task["progress"]) == (1, 3, 0.0)
        digest = hashlib.sha256(SOUND).hexdigest()
        assert task["audio"] == {"name": "talk.wav", "size": len(SOUND), "sha256": digest, "duration": None}
        assert (task["error"], task["metadata"], task["run_at"]) == (None, {}, None)
        assert (await server.get(answer.headers["location"])).json() == task

    with_server(body)


def test_an_upload_is_answered_when_the_audio_lies_in_the_spool_under_the_tasks_id(with_server):
    async def body(server):
        task = await server.submit(name="talk.wav")

        assert [path.name for path in server.folder.iterdir()] == [f"{task['task_id']}.audio"]
        assert await server.left() == {
            **NOTHING,
            "files": [f"{task['task_id']}.audio"],
            "task": 1,
            "chunk": 1,
        }

    with_server(body)


def test_an_upload_wakes_whoever_waits_for_work(with_server):
    async def body(server):
        claiming = asyncio.create_task(server.queue.claim())
        task = await server.submit()

        assert (await claiming).task.id == task["task_id"]

    with_server(body)


def test_a_form_may_have_its_fields_in_any_order(with_server):
    async def body(server):
        before, after = a_field("language", "en"), a_field("priority", "7")
        for parts in [(the_file(), before, after), (before, the_file(), after), (before, after, the_file())]:
            task = (await server.post_form(*parts)).json()

            assert task["priority"] == 7
            assert (await server.queue.get(task["task_id"])).options.language == "en"
            assert (server.folder / f"{task['task_id']}.audio").read_bytes() == SOUND

    with_server(body)


CURL = (
    "multipart/form-data; boundary=------------------------GpPg1P1TqYfWQi",
    b'--------------------------GpPg1P1TqYfWQi\r\nContent-Disposition: form-data; name="language"\r\n\r\n'
    b'en\r\n--------------------------GpPg1P1TqYfWQi\r\nContent-Disposition: form-data; name="file"; '
    b'filename="talk.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    + SOUND
    + b"\r\n--------------------------GpPg1P1TqYfWQi--\r\n",
)
NODE = (
    "multipart/form-data; boundary=----formdata-undici-0415",
    b'------formdata-undici-0415\r\nContent-Disposition: form-data; name="file"; filename="talk.wav"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
    + SOUND
    + b'\r\n------formdata-undici-0415\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n'
    b"------formdata-undici-0415--\r\n",
)
PLAIN = (
    'Multipart/Form-Data; Boundary="a b"',  # any case, quotes or none, line breaks before and none behind
    b"\r\n--a b\r\ncontent-disposition: form-data; name=language\r\n\r\nen\r\n--a b\r\n"
    b"CONTENT-DISPOSITION: form-data; filename=talk.wav; name=file\r\n\r\n" + SOUND + b"\r\n--a b--",
)


@pytest.mark.parametrize(("kind", "content"), [CURL, NODE, PLAIN], ids=["curl", "node", "plain"])
def test_a_form_is_read_as_different_programs_write_it(with_server, kind, content):
    async def body(server):
        answer = await server.client.post(SUBMIT, content=content, headers={"Content-Type": kind})
        task = answer.json()

        assert answer.status_code == 202, task
        assert task["audio"]["name"] == "talk.wav"
        assert (await server.queue.get(task["task_id"])).options.language == "en"
        assert (server.folder / f"{task['task_id']}.audio").read_bytes() == SOUND

    with_server(body)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_a_form_may_arrive_in_pieces_of_any_size_and_hold_what_looks_like_its_boundary(with_server, size):
    sound = SOUND + b"\r\n--frontie\r\n-\r\n--front\r\n\r\n--\r--frontier--\r\n--frontieR\r\n"
    form = a_form(a_field("priority", "3"), the_file("talk.wav", sound), a_field("language", "en"))
    pieces = [form[at : at + size] for at in range(0, len(form), size)]

    async def body(server):
        answer = await server.ask(SUBMIT, "POST", [("content-type", FORM)], pieces)
        task = answer.json()

        assert answer.status_code == 202
        assert (task["audio"]["name"], task["priority"]) == ("talk.wav", 3)
        assert (server.folder / f"{task['task_id']}.audio").read_bytes() == sound

    with_server(body)


def test_uploads_at_the_same_time_do_not_mix(with_server):
    async def body(server):
        sounds = [SOUND + bytes([n]) * 100_000 for n in range(8)]
        answers = await asyncio.gather(*(server.post(sound) for sound in sounds))

        for sound, answer in zip(sounds, answers, strict=True):
            assert (server.folder / f"{answer.json()['task_id']}.audio").read_bytes() == sound

    with_server(body)


def test_an_upload_of_64_mib_takes_no_more_memory_than_a_few(with_server):
    block = bytes(range(256)) * 1024
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="long.wav"\r\n\r\n'

    async def content():
        yield head
        for _ in range(256):
            yield block
        yield b"\r\n--frontier--\r\n"

    async def body(server):
        tracemalloc.start()
        answer = await server.client.post(SUBMIT, content=content(), headers={"Content-Type": FORM})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert answer.json()["audio"]["size"] == 64 * 2**20
        assert peak < 8 * 2**20

    with_server(body, http={"max_upload_bytes": 2**30})


# --- the options ---

METADATA = {"your": "own JSON", "n": [1, 2.5, None, {"deep": True}], "ü": "\u2028"}
RIGHT = {
    "model": "tiny",
    "language": "de",
    "translate": True,
    "prompt": "Äpfel, 'Birnen'",
    "temperature": 0.25,
    "beam_size": 4,
    "word_timestamps": True,
    "vad": False,
    "channels": "split",
    "detect_only": True,
    "priority": -100,
    "plan": "PAYG",
    "tenant": "acme.co:berlin@1+2-3_4",
    "max_retries": 0,
    "run_at": "2100-01-02T03:04:05.678+01:00",
    "timeout_seconds": 60.5,
    "metadata": METADATA,
}


@pytest.mark.parametrize("how", ["form", "json"])
def test_every_option_arrives(with_server, how):
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in RIGHT.items()}

    async def body(server):
        answer = await (server.post(**texts) if how == "form" else server.post_json(**RIGHT))
        shown = answer.json()
        task = await server.queue.get(shown["task_id"])

        assert answer.status_code == 202, shown
        names = Options.__struct_fields__
        assert msgspec.to_builtins(task.options) == {name: RIGHT[name] for name in names}
        assert (shown["model"], shown["tenant"], shown["max_retries"]) == ("tiny", RIGHT["tenant"], 0)
        assert (shown["run_at"], shown["position"]) == ("2100-01-02T02:04:05.678Z", None)
        assert shown["metadata"] == METADATA
        assert (task.timeout_seconds, task.priority) == (60.5, -100)

    with_server(body)


def test_a_field_that_a_page_left_empty_is_as_if_it_were_not_there(with_server):
    async def body(server):
        answer = await server.post(model="", language="", priority="", metadata="", run_at="", vad="")

        assert answer.status_code == 202
        assert (await server.queue.get(answer.json()["task_id"])).options == Options()

    with_server(body)


@pytest.mark.parametrize(("plan", "priority"), [("FREE", 1), ("PRO", 5), ("PAYG", 10)])
def test_a_plan_names_a_priority(with_server, plan, priority):
    async def body(server):
        assert (await server.post(plan=plan)).json()["priority"] == priority
        assert (await server.post_json(plan=plan)).json()["priority"] == priority
        assert (await server.post(plan=plan, priority="0")).json()["priority"] == 0  # the explicit one wins

    with_server(body)


def test_a_time_in_the_past_is_now(with_server):
    async def body(server):
        task = (await server.post(run_at="2001-01-01T00:00:00Z")).json()

        assert (task["run_at"], task["position"]) == (None, 1)

    with_server(body)


LONG = "x" * 5000
WRONG = {  # name: (values of a form, values of JSON)
    "model": (["nosuch", "../tiny", "tiny/../tiny", "broken", "a\0b", LONG], ["nosuch", "", 1, ["tiny"]]),
    "language": (["xx", "klingon", "e\0n"], ["xx", "", None, 1]),
    "translate": (["maybe", "2", "yes please"], ["true", 1, None]),
    "prompt": ([LONG], [LONG, 1, {}]),
    "temperature": (["-0.1", "1.1", "nan", "inf", "hot", "1e400"], [-0.1, 1.1, "0.5", None]),
    "beam_size": (["0", "9", "2.5", "many", "99999999999999999999999"], [0, 9, 2.5, "5", None]),
    "word_timestamps": (["maybe"], ["true", 0]),
    "vad": (["maybe"], ["false", 0]),
    "detect_only": (["maybe"], ["false", 0]),
    "channels": (["left", "MIX", "mix,split"], ["left", 1, ["mix"]]),
    "priority": (["101", "-101", "1.5", "high", "0x10"], [101, -101, 1.5, "5"]),
    "plan": (["free", "GOLD", "1"], ["free", 5]),
    "tenant": (["a b", "a/b", "x" * 101, "a\0b", "a\nb", "a\n"], ["", "a\n", 1, "a\u202eb"]),
    "max_retries": (["-1", "101", "1.5"], [-1, 101, 1.5, "3"]),
    "run_at": (
        ["tomorrow", "2100-01-01", "2100-01-01T00:00:00", "2100-13-01T00:00:00Z", "1e300", "nan"],
        ["tomorrow", "2100-01-01T00:00:00", 4_102_444_800],
    ),
    "timeout_seconds": (["0", "-1", "nan", "inf", "1e9"], [0, -1, 1e9, "60"]),
    "metadata": (["[]", "null", '"a"', "{", '{"a":NaN}', '{"a":"\\ud800"}'], [[], "a", 1, None]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(with_idle_server, name):
    of_form, of_json = WRONG[name]

    async def body(server):
        for answer in [
            *[await server.post_form(the_file(), a_field(name, value)) for value in of_form],
            *[await server.post_json(**{name: value}) for value in of_json],
        ]:
            status, code, param = the_error(answer)

            assert (status, param) == (422, name), answer.text
            assert code == (
                "model_not_found" if name == "model" and "cannot be used" in answer.text else "invalid_field"
            )
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize(
    "name", ["beam-size", "Model", "file_name", "a`b", "a\tb", "x" * 300, "", "ü", "$.model"]
)
def test_an_unknown_option_is_refused_by_its_name(with_idle_server, name):
    async def body(server):
        for answer in (
            await server.post_form(the_file(), a_field(name, "1")),
            await server.post_json(**{name: 1}),
        ):
            await refused(server, answer, 422, "unknown_field", name)

    with_idle_server(body)


def test_metadata_holds_16_kib_and_no_more(with_server):
    fits = {"a": "x" * (16 * 1024 - len('{"a":""}'))}
    over = {"a": fits["a"] + "x"}

    async def body(server):
        assert (await server.post(metadata=json.dumps(over))).status_code == 422
        await refused(server, await server.post_json(metadata=over), 422, "invalid_field", "metadata")
        for answer in (await server.post(metadata=json.dumps(fits)), await server.post_json(metadata=fits)):
            assert answer.json()["metadata"] == fits

    with_server(body)


@pytest.mark.parametrize("depth", [100, 900, 930, 960, 8000])
def test_metadata_nested_too_deeply_is_refused_and_not_kept_to_break_every_list(with_idle_server, depth):
    nested = '{"a":' + "[" * depth + "]" * depth + "}"

    async def body(server):
        await refused(server, await server.post(metadata=nested), 422, "invalid_field", "metadata")
        path = json.dumps(str(server.allowed / "a.wav"))
        content = f'{{"audio_path":{path},"metadata":{nested}}}'
        answer = await server.client.post(
            SUBMIT, content=content, headers={"Content-Type": "application/json"}
        )
        assert the_error(answer)[0] in (400, 422)
        assert await server.left() == NOTHING
        assert (await server.get("/tasks")).json()["tasks"] == []

    with_idle_server(body)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00"])
def test_a_time_that_no_calendar_shows_in_utc_is_refused_and_not_kept_to_break_every_list(
    with_idle_server, moment
):
    async def body(server):
        await refused(server, await server.post(run_at=moment), 422, "invalid_field", "run_at")
        await refused(server, await server.post_json(run_at=moment), 422, "invalid_field", "run_at")
        assert (await server.get("/tasks")).status_code == 200

    with_idle_server(body)


def test_a_language_that_the_model_does_not_know_is_refused(with_server):
    async def body(server):
        await refused(server, await server.post(language="de"), 422, "invalid_field", "language")
        await refused(
            server, await server.post(language="xx", model="tiny"), 422, "invalid_field", "language"
        )
        assert (await server.post(language="de", model="tiny")).status_code == 202

    with_server(body)


@pytest.mark.parametrize("given", ["DE", "German", " german "])
def test_a_language_may_be_given_by_its_name_and_in_any_case(with_server, given):
    async def body(server):
        for answer in (
            await server.post(language=given, model="tiny"),
            await server.post_json(language=given, model="tiny"),
        ):
            task = await server.queue.get(answer.json()["task_id"])
            assert task.options.language == "de"

    with_server(body)


# --- idempotency ---


def once(key="once"):
    return {"Idempotency-Key": key}


def test_a_key_with_the_same_body_answers_the_first_task_and_keeps_one_file(with_server):
    async def body(server):
        first = await server.post(headers=once(), priority="3")
        again = await server.post(headers=once(), priority="3", name="other-name.wav")

        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        kept = {"files": [f"{first.json()['task_id']}.audio"], "task": 1, "chunk": 1, "idempotency": 1}
        assert await server.left() == kept

    with_server(body)


def test_a_key_with_another_body_is_a_conflict_and_keeps_the_first_file_only(with_server):
    async def body(server):
        first = await server.post(headers=once())
        for answer in (
            await server.post(OTHER_SOUND, headers=once()),
            await server.post(headers=once(), priority="1"),
            await server.post(headers=once(), metadata='{"a":1}'),
        ):
            assert the_error(answer) == (422, "idempotency_conflict", "Idempotency-Key")

        assert (await server.left())["files"] == [f"{first.json()['task_id']}.audio"]
        assert (await server.post(headers=once())).status_code == 200

    with_server(body)


def test_a_repeat_under_a_key_is_answered_though_its_model_is_gone(with_server):
    async def body(server):
        first = await server.post(headers=once(), model="tiny")
        (server.config.models_dir / "ggml-tiny.bin").unlink()
        again, new = await server.post(headers=once(), model="tiny"), await server.post(model="tiny")

        assert (first.status_code, again.status_code) == (202, 200), again.text
        assert again.json()["task_id"] == first.json()["task_id"]
        assert the_error(new)[1] == "model_not_found"

    with_server(body)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x85b"])
def test_a_key_that_is_not_worth_keeping_is_refused(with_idle_server, key):
    async def body(server):
        headers = [("content-type", FORM), ("idempotency-key", key)]
        answer = await server.ask(SUBMIT, "POST", headers, [a_form(the_file())])
        await refused(server, answer, 422, "invalid_field", "Idempotency-Key")

    with_idle_server(body)


def test_a_key_may_have_255_characters(with_server):
    async def body(server):
        assert (await server.post(headers=once("x" * 255))).status_code == 202
        assert (await server.post(headers=once("x" * 255))).status_code == 200

    with_server(body)


def test_a_key_holds_for_json_as_for_a_form_and_for_each_tenant_alone(with_server):
    async def body(server):
        first = await server.post_json(headers=once())
        assert (await server.post_json(headers=once())).status_code == 200
        assert (await server.post(headers=once())).json() == first.json()
        assert (await server.post(headers=once(), tenant="other")).status_code == 202

    with_server(body)


def test_one_of_many_that_come_with_the_same_key_at_once_is_accepted(with_server):
    async def body(server):
        answers = await asyncio.gather(*(server.post(headers=once()) for _ in range(6)))

        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
        assert len({answer.json()["task_id"] for answer in answers}) == 1
        assert len((await server.left())["files"]) == 1

    with_server(body)


def test_an_answer_to_a_known_key_is_given_even_when_the_queue_is_full(with_server):
    async def body(server):
        first = await server.post(headers=once())
        assert (await server.post()).status_code == 503
        assert (await server.post(headers=once())).json() == first.json()

    with_server(body, max_queued=1)


# --- audio_path ---


def test_a_file_below_an_allowed_root_is_copied(with_server):
    async def body(server):
        (server.allowed / "deep").mkdir()
        path = server.allowed / "deep" / "talk.wav"
        path.write_bytes(OTHER_SOUND)
        answer = await server.post_json(audio_path=str(path))
        path.unlink()

        task = answer.json()
        assert answer.status_code == 202
        assert (task["audio"]["name"], task["audio"]["size"]) == ("talk.wav", len(OTHER_SOUND))
        assert (server.folder / f"{task['task_id']}.audio").read_bytes() == OTHER_SOUND

    with_server(body)


def test_a_path_that_stays_below_the_root_may_go_there_by_links_and_dots(with_server):
    async def body(server):
        (server.allowed / "link.wav").symlink_to("a.wav")
        (server.allowed / "deep").mkdir()
        for path in ("link.wav", "deep/../a.wav", "./a.wav", "deep//../link.wav"):
            assert (await server.post_json(audio_path=f"{server.allowed}/{path}")).status_code == 202

    with_server(body)


OUTSIDE = {
    "a file elsewhere": lambda root: root.parent / "secret.wav",
    "dots": lambda root: f"{root}/../secret.wav",
    "dots from within": lambda root: f"{root}/deep/../../secret.wav",
    "a link to a file": lambda root: root / "to-secret.wav",
    "a link to a folder": lambda root: root / "to-parent" / "secret.wav",
    "a root's name as a mere prefix": lambda root: f"{root}-not/secret.wav",
    "proc": lambda root: "/proc/self/environ",
    "the way back from proc": lambda root: f"/proc/self/root{root.parent}/secret.wav",
    "a device": lambda root: "/dev/zero",
    "a folder": lambda root: root / "deep",
    "the root": lambda root: root,
    "a fifo": lambda root: root / "fifo",
    "a socket of our own": lambda root: "/dev/stdin",
    "nothing there": lambda root: root / "missing.wav",
    "below a file": lambda root: root / "a.wav" / "b.wav",
    "a loop of links": lambda root: root / "loop",
    "a null byte": lambda root: f"{root}/a.wav\0.mp3",
    "no path": lambda root: "",
    "a relative path": lambda root: "a.wav",
    "a home": lambda root: "~/a.wav",
    "a long path": lambda root: f"{root}/{'x' * 300}",
    "a longer path": lambda root: "/x" * 3000,
    "a url": lambda root: f"file://{root}/a.wav",
}


def test_a_path_that_is_no_file_below_an_allowed_root_is_refused_alike(with_server):
    async def body(server):
        root = server.allowed
        (root.parent / "secret.wav").write_bytes(SOUND)
        (root.parent / "allowed-not").mkdir()
        (root.parent / "allowed-not" / "secret.wav").write_bytes(SOUND)
        (root / "deep").mkdir()
        (root / "to-secret.wav").symlink_to(root.parent / "secret.wav")
        (root / "to-parent").symlink_to(root.parent)
        (root / "loop").symlink_to("loop")
        os.mkfifo(root / "fifo")
        for case, path in OUTSIDE.items():
            answer = await server.post_json(audio_path=str(path(root)))

            assert the_error(answer) == (422, "invalid_field", "audio_path"), case
            assert answer.json()["error"]["message"] == "no such file below http.allowed_roots"
        assert await server.left() == NOTHING

    with_server(body)


def test_a_path_that_leads_elsewhere_between_two_looks_at_it_gives_nothing_away(with_server):
    """Found by review: the file that was looked at and the file that was read were opened one by one."""

    async def body(server):
        secret, path, spare = server.allowed.parent / "secret.wav", server.allowed / "x", server.allowed / "y"
        secret.write_bytes(OTHER_SOUND)
        path.write_bytes(SOUND)
        spare.symlink_to(secret)
        over = threading.Event()

        def swap():
            while not over.is_set():
                exchange(path, spare)
                time.sleep(0.0001)

        swapping = asyncio.create_task(asyncio.to_thread(swap))
        answers = [await server.post_json(audio_path=str(path)) for _ in range(60)]
        over.set()
        await swapping

        read = [answer.json()["audio"]["size"] for answer in answers if answer.status_code == 202]
        refusals = {the_error(answer) for answer in answers if answer.status_code != 202}
        assert set(read) == {len(SOUND)}
        assert refusals == {(422, "invalid_field", "audio_path")}

    with_server(body)


def exchange(one, other):
    """Swap two names at once (renameat2(2), RENAME_EXCHANGE): there is always something at each."""
    here = -100  # AT_FDCWD
    failed = ctypes.CDLL(None).renameat2(here, bytes(one), here, bytes(other), 2)
    assert not failed


def test_a_file_that_may_not_be_read_is_refused(with_server):
    async def body(server):
        path = server.allowed / "locked.wav"
        path.write_bytes(SOUND)
        path.chmod(0)
        answer = await server.post_json(audio_path=str(path))

        if os.geteuid():  # root reads everything
            await refused(server, answer, 422, "invalid_field", "audio_path")

    with_server(body)


def test_without_allowed_roots_no_path_is_served(with_server):
    async def body(server):
        await refused(server, await server.post_json(), 422, "invalid_field", "audio_path")

    with_server(body, http={"allowed_roots": ()})


def test_a_root_that_is_not_there_does_not_close_the_others(with_server, tmp_path):
    async def body(server):
        assert (await server.post_json()).status_code == 202

    with_server(body, http={"allowed_roots": (str(tmp_path / "unmounted"), str(tmp_path / "allowed"))})


def test_json_without_a_source_of_audio_is_refused(with_idle_server):
    async def body(server):
        for fields in ({}, {"language": "en"}, {"audio_path": None}):
            answer = await server.client.post(SUBMIT, json=fields)
            await refused(server, answer, 422, "missing_field", "audio_path")
        await refused(server, await server.post_json(audio_path=1), 422, "invalid_field", "audio_path")

    with_idle_server(body)


def test_a_form_cannot_name_a_path(with_server):
    async def body(server):
        for parts in [
            (a_field("audio_path", str(server.allowed / "a.wav")),),
            (the_file(), a_field("audio_path", "/")),
        ]:
            status, _, param = the_error(await server.post_form(*parts))
            assert (status, param) in [(422, "audio_path"), (422, "file")]
        assert await server.left() == NOTHING

    with_server(body)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"a"', b"{}x", b"\xff\xfe", b'{"a":' * 100_000, b"[" * 200_000]
)
def test_what_is_not_a_json_object_is_refused(with_idle_server, content):
    async def body(server):
        answer = await server.client.post(
            SUBMIT, content=content, headers={"Content-Type": "application/json"}
        )
        if len(content) > 256 * 1024:
            await refused(server, answer, 413, "too_large")
        else:
            await refused(server, answer, 400, "malformed_json")

    with_idle_server(body)


# --- names ---


def hostile_names(corpus):
    for entry in json.loads((corpus / "hostile" / "filenames.json").read_text()):
        name = entry.get("filename")
        yield bytes.fromhex(entry["filename_bytes_hex"]) if name is None else name.encode()


def escapings(name):
    """As they are; as pages write them (WHATWG); as RFC 822 would."""
    yield name
    yield name.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")
    yield name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


AUDIO_HEADERS = {
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-length",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "x-content-type-options",
    "x-request-id",
}


def is_shown_safely(name):
    return 0 < len(name) <= 255 and name.isprintable() and not set(name) & set("/\\")


def test_a_hostile_name_is_only_data(with_server, corpus):
    jfk = (corpus / "speech" / "jfk" / "jfk.wav").read_bytes()

    async def body(server):
        accepted = []
        for sent in sorted({sent for name in hostile_names(corpus) for sent in escapings(name)}):
            answer = await server.post_form(the_file(sent, jfk))
            if answer.status_code >= 400:
                assert the_error(answer)[0] == 400
                continue
            task = answer.json()
            accepted.append(task["task_id"])
            assert is_shown_safely(task["audio"]["name"]), task["audio"]["name"]
            assert (server.folder / f"{task['task_id']}.audio").read_bytes() == jfk
            audio = await server.client.head(f"/tasks/{task['task_id']}/audio")
            assert audio.status_code == 200
            assert set(audio.headers) == AUDIO_HEADERS
            assert re.fullmatch(
                r"attachment; filename(\*=utf-8''[\w.~%-]+|=\"[\w.~-]+\")",
                audio.headers["content-disposition"],
            )

        assert len(accepted) > 30
        assert (await server.left())["files"] == sorted(f"{task_id}.audio" for task_id in accepted)
        around = {path.name for path in server.folder.parent.iterdir() if not path.name.startswith("q.")}
        assert around == {"allowed", "models", "spool"}
        assert glob.glob("/tmp/whisperd-pwned*") == []

    with_server(body)


def test_the_hostile_name_of_a_file_on_disk_is_only_data_too(with_server, corpus):
    async def body(server):
        for name in hostile_names(corpus):
            if b"/" in name or b"\0" in name or len(name) > 255 or name == b"..":
                continue
            try:
                text = name.decode()
            except UnicodeDecodeError:
                continue  # JSON cannot name it
            (server.allowed / text).write_bytes(SOUND)
            answer = await server.post_json(audio_path=f"{server.allowed}/{text}")

            assert answer.status_code == 202, text
            assert is_shown_safely(answer.json()["audio"]["name"])

    with_server(body)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("talk.mp3", "talk.mp3"),
        ("Gespräch über 你好 🎤.wav", "Gespräch über 你好 🎤.wav"),
        ("C:\\Users\\me\\talk.mp3", "talk.mp3"),
        ("/etc/passwd", "passwd"),
        ("../../x.wav", "x.wav"),
        ("", "audio"),
        ("   ", "audio"),
        ("a\u202egnp.wav", "agnp.wav"),
        ("a\x00\x1b[31m\x7f\u200b.wav", "a[31m.wav"),
        (b"caf\xe9.wav", "caf\ufffd.wav"),
        ("x" * 300 + ".wav", "x" * 255),
    ],
)
def test_a_name_is_shown_without_its_folders_and_control_characters(with_server, sent, shown):
    async def body(server):
        answer = await server.post_form(the_file(sent))
        assert (answer.status_code, answer.json()["audio"]["name"]) == (202, shown)

    with_server(body)


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ("filename*=UTF-8''na%C3%AFve%20%E4%BD%A0.wav", "naïve 你.wav"),
        ("filename=\"plain.wav\"; filename*=utf-8'en'na%C3%AFve.wav", "naïve.wav"),
        ("filename*=UTF-8''na%C3%AFve.wav; filename=\"plain.wav\"", "naïve.wav"),
        ("filename*=UTF-8''..%2F..%2Fetc%5Cx%00%1B.wav", "x.wav"),
        ("filename=\"plain.wav\"; filename*=UTF-8''", "plain.wav"),
        ("filename=\"plain.wav\"; filename*=latin-9''%A4.wav", "plain.wav"),
        ('filename="plain.wav"; filename*=nonsense', "plain.wav"),
        ("filename*=UTF-8''%FF%zz%.wav", "\ufffd%zz%.wav"),
        ("filename=\"a; filename*=UTF-8''b.wav\"", "a; filename*=UTF-8''b.wav"),
        ("xfilename*=UTF-8''b.wav", "audio"),
    ],
)
def test_a_name_may_be_encoded(with_server, parameters, shown):
    async def body(server):
        head = f'Content-Disposition: form-data; name="file"; {parameters}'
        answer = await server.post_form((head, SOUND))
        assert answer.json()["audio"]["name"] == shown

    with_server(body)


def test_a_long_upload_of_a_length_that_does_not_fit_is_refused_by_its_head(with_server):
    async def body(server):
        request = a_request(b"", f"X: y\r\nContent-Length: {2**61}").replace(b"Content-Length: 0\r\n", b"")
        status, _, content = await server.exchange(request)

        assert (status, json.loads(content)["error"]["code"]) == (507, "storage_full")
        assert await server.left() == NOTHING

    with_server(body, http={"max_upload_bytes": 2**62})


def test_a_file_without_a_name_has_one(with_server):
    async def body(server):
        answer = await server.post_form(('Content-Disposition: form-data; name="file"', SOUND))
        assert answer.json()["audio"]["name"] == "audio"

    with_server(body)

"""POST /tasks/transcription refused: every error, by status and code, and that it leaves nothing behind."""

import asyncio
import json
import threading

import pytest

from tests.http_server import (
    DEADLINE,
    NOTHING,
    SOUND,
    SUBMIT,
    a_field,
    a_form,
    a_request,
    refused,
    the_error,
    the_file,
    until,
)

FORM = "multipart/form-data; boundary=frontier"


# --- what is not media ---

NOT_MEDIA = [
    "a01_empty.wav",
    "a05_text.mp3",
    "a07_json.wav",
    "a08_image.png",
    "a10_image.svg",
    "a11_zip.mp3",
    "b01_gzip_bomb.wav.gz",
    "h01_hls_passwd.m3u8",
    "h04_hls_http_named.mp3",
    "h10_ffconcat.wav",
    "h11_dash.mpd",
    "h22_ffconcat_self.mp3",
]


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_what_is_certainly_not_media_is_refused_by_upload_and_by_path(with_idle_server, corpus, name):
    content = (corpus / "hostile" / name).read_bytes()

    async def body(server):
        (server.allowed / name).write_bytes(content)
        await refused(server, await server.post(content, name), 415, "unsupported_media", "file")
        by_path = await server.post_json(audio_path=str(server.allowed / name))
        status, code, param = the_error(by_path)
        assert (status, code) == (415, "unsupported_media")
        assert param == "audio_path"
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "audio/wav",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=frontier",
        "\xff",
        "; boundary=frontier",
    ],
)
def test_a_body_of_another_kind_is_refused(with_idle_server, kind):
    async def body(server):
        status, headers, content = await server.exchange(a_request(a_form(the_file()), kind=kind))

        assert (status, headers["content-type"]) == (415, "application/json")
        assert json.loads(content)["error"]["code"] == "unsupported_content_type"
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize(
    "parameter", ["", ";", "; boundary", "; boundary=", '; boundary=""', "; bound=frontier"]
)
def test_a_form_without_a_boundary_is_malformed(with_idle_server, parameter):
    async def body(server):
        request = a_request(a_form(the_file()), kind=f"multipart/form-data{parameter}")
        status, _, content = await server.exchange(request)

        assert (status, json.loads(content)["error"]["code"]) == (400, "malformed_multipart")
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_a_compressed_body_is_refused(with_idle_server):
    async def body(server):
        answer = await server.post_form(the_file(), headers={"Content-Encoding": "gzip"})
        await refused(server, answer, 415, "unsupported_media")

    with_idle_server(body)


# --- forms that are wrong ---

FILE = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
MALFORMED = {
    "empty": (b"", 400, "malformed_multipart", None),
    "another boundary": (a_form(the_file(), boundary="other"), 400, "malformed_multipart", None),
    "no last boundary": (a_form(the_file(), end=False), 400, "malformed_multipart", None),
    "cut off in the file": (a_form(the_file())[:-200], 400, "malformed_multipart", None),
    "cut off in a header": (b"--frontier\r\nContent-Dispo", 400, "malformed_multipart", None),
    "cut off in the boundary": (a_form(the_file())[:-5], 400, "malformed_multipart", None),
    "no line break behind the boundary": (b"--frontierX\r\n\r\n", 400, "malformed_multipart", None),
    "a header without a colon": (a_form((b"nonsense", SOUND)), 400, "malformed_multipart", None),
    "a header with a control character": (
        a_form((b"Content-Disp\0sition: x", SOUND)),
        400,
        "malformed_multipart",
        None,
    ),
    "a header of 100 KB": (
        a_form((f"{FILE}\r\nX-Long: {'x' * 100_000}", SOUND)),
        400,
        "malformed_multipart",
        None,
    ),
    "a name of 100 KB": (a_form(the_file("x" * 100_000)), 400, "malformed_multipart", None),
    "a thousand headers": (
        a_form((f"{FILE}\r\n" + "X: y\r\n" * 1000 + "Z: z", SOUND)),
        400,
        "malformed_multipart",
        None,
    ),
    "no parts": (b"--frontier--\r\n", 422, "missing_field", "file"),
    "no file": (a_form(a_field("language", "en")), 422, "missing_field", "file"),
    "a part without headers": (b"--frontier\r\n\r\nx\r\n--frontier--\r\n", 422, "missing_field", "file"),
    "two files": (a_form(the_file(), the_file("b.wav")), 422, "duplicate_field", "file"),
    "a field twice": (
        a_form(the_file(), a_field("model", "tiny"), a_field("model", "x")),
        422,
        "duplicate_field",
        "model",
    ),
    "a field of 65 KiB": (
        a_form(the_file(), a_field("prompt", "x" * 65 * 1024)),
        422,
        "field_too_long",
        "prompt",
    ),
    "a field that is not UTF-8": (
        a_form(the_file(), a_field("prompt", b"\xff")),
        422,
        "invalid_field",
        "prompt",
    ),
    "an empty file": (a_form(the_file(sound=b"")), 415, "unsupported_media", "file"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(with_idle_server, case):
    content, *expected = MALFORMED[case]

    async def body(server):
        answer = await server.client.post(SUBMIT, content=content, headers={"Content-Type": FORM})
        await refused(server, answer, *expected)

    with_idle_server(body)


def test_thousands_of_fields_are_refused(with_idle_server):
    async def body(server):
        many = [a_field(f"f{n}", "x") for n in range(5000)]
        await refused(server, await server.post_form(*many, the_file()), 422, "duplicate_field", "f64")
        same = [a_field("", "") for _ in range(5000)]
        await refused(server, await server.post_form(*same, the_file()), 422, "duplicate_field", "")

    with_idle_server(body)


@pytest.mark.parametrize("boundary", ["x" * 300, "x" * 10_000])
def test_a_boundary_that_is_too_long_is_refused(with_idle_server, boundary):
    async def body(server):
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = await server.client.post(SUBMIT, content=a_form(the_file(), boundary=boundary), headers=kind)
        await refused(server, answer, 400, "malformed_multipart")

    with_idle_server(body)


def test_a_request_whose_head_does_not_end_is_refused(with_idle_server):
    async def body(server):
        request = a_request(b"", f"X-Long: {'x' * 100_000}", kind=FORM)
        status, _, content = await server.exchange(request[:-2])

        assert (status, json.loads(content)["error"]["code"]) == (400, "malformed_request")
        assert await server.left() == NOTHING

    with_idle_server(body)


# --- sizes ---


def test_a_declared_length_over_the_limit_is_refused_before_a_byte_of_the_body_is_sent(with_idle_server):
    async def body(server):
        head = a_request(b"", "Expect: 100-continue", kind=FORM).replace(
            b"Content-Length: 0", b"Content-Length: 9999999999"
        )
        status, headers, content = await server.exchange(head)

        assert status == 413  # and no 100 before it
        assert headers["content-type"] == "application/json"
        assert json.loads(content)["error"]["code"] == "too_large"
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_a_client_that_sends_all_of_a_body_that_is_too_large_reads_why_it_was_refused(with_idle_server):
    async def body(server):
        for _ in range(3):
            await refused(server, await server.post(SOUND * 8192), 413, "too_large", "file")

    with_idle_server(body)


def test_the_limit_is_the_files_own_size(with_server):
    limit = 2**20
    at_limit = SOUND + bytes(limit - len(SOUND))

    async def body(server):
        answer = await server.post(at_limit + b"\0")
        await refused(server, answer, 413, "too_large", "file")
        assert "http.max_upload_bytes" in answer.json()["error"]["message"]
        answer = await server.post(at_limit)
        assert (answer.status_code, answer.json()["audio"]["size"]) == (202, limit)

    with_server(body, http={"max_upload_bytes": limit})


async def chunked(server, content):
    async def pieces():
        for at in range(0, len(content), 65_536):
            yield content[at : at + 65_536]

    return await server.client.post(SUBMIT, content=pieces(), headers={"Content-Type": FORM})


def test_a_body_of_unknown_length_is_counted(with_server):
    async def body(server):
        over = a_form(the_file(sound=SOUND + bytes(2**20)))
        await refused(server, await chunked(server, over), 413, "too_large", "file")
        assert (await chunked(server, a_form(the_file()))).status_code == 202

    with_server(body)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_what_stands_around_a_form_counts_too(with_idle_server, where):
    form = a_form(the_file())
    filler = b"\r\n" * 3_000_000

    async def body(server):
        answer = await chunked(server, filler + form if where == "before" else form + filler)
        await refused(server, answer, 413, "too_large", "file")

    with_idle_server(body)


def test_json_that_is_too_long_is_refused(with_idle_server):
    async def body(server):
        await refused(server, await server.post_json(prompt="x" * 300_000), 413, "too_large")

    with_idle_server(body)


def test_a_file_named_by_its_path_is_counted_too(with_idle_server):
    async def body(server):
        (server.allowed / "long.wav").write_bytes(SOUND + bytes(2**20))
        answer = await server.post_json(audio_path=str(server.allowed / "long.wav"))
        await refused(server, answer, 413, "too_large", "audio_path")
        assert "http.max_upload_bytes" in answer.json()["error"]["message"]

    with_idle_server(body)


# --- clients that leave, queues that are full ---


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_upload_that_its_client_breaks_off_leaves_nothing(with_idle_server, how):
    async def body(server):
        request = a_request(a_form(the_file(sound=SOUND * 300)), kind=FORM)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request[:400_000])
        await until(lambda: any(path.suffix == ".part" for path in server.folder.iterdir()))
        writer.close() if how == "close" else writer.transport.abort()

        await until(lambda: not any(server.folder.iterdir()))
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_json_that_its_client_breaks_off_leaves_nothing(with_idle_server):
    async def body(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(a_request(b'{"audio_path": ' + b" " * 10_000, kind="application/json")[:-5000])
        await until(lambda: server.receives)
        writer.transport.abort()

        await until(lambda: not server.receives)
        assert await server.left() == NOTHING

    with_idle_server(body)


def test_a_full_queue_asks_to_come_back_later(with_server):
    async def body(server):
        first = await server.submit()
        answer = await server.post()

        assert the_error(answer) == (503, "queue_full", None)
        assert int(answer.headers["retry-after"]) > 0
        assert await server.left() == {
            **NOTHING,
            "files": [f"{first['task_id']}.audio"],
            "task": 1,
            "chunk": 1,
        }

    with_server(body, max_queued=1)


def test_a_daemon_that_is_stopping_asks_to_come_back_later(with_server):
    async def body(server):
        server.services.draining = True
        answer = await server.post()

        await refused(server, answer, 503, "shutting_down")
        assert int(answer.headers["retry-after"]) > 0

    with_server(body)


def test_nothing_is_accepted_when_the_reserve_of_the_disk_would_be_touched(with_server):
    async def body(server):
        await refused(server, await server.post(), 507, "storage_full")
        await refused(server, await server.post_json(), 507, "storage_full")

    with_server(body, storage={"min_free_mb": 2**30})


def test_nothing_is_accepted_once_the_database_has_failed(with_server):
    async def body(server):
        server.db._broken = "the database reported: disk I/O error"  # as after a commit that failed so
        answer = await server.post()

        assert the_error(answer) == (503, "storage_failed", None)
        assert int(answer.headers["retry-after"]) > 0
        assert list(server.folder.iterdir()) == []

    with_server(body)


def test_a_task_whose_submission_is_cut_off_at_its_commit_keeps_its_audio(with_server):
    """The server's stop cancels what takes too long: a commit that is under way is not undone by that."""

    held, gate = threading.Event(), threading.Event()

    def hold(conn):
        held.set()
        gate.wait(DEADLINE)

    async def body(server):
        holding = asyncio.create_task(server.db.write(hold))
        await until(held.is_set)
        form = [("content-type", FORM)]
        submitting = asyncio.create_task(server.ask(SUBMIT, "POST", form, [a_form(the_file())]))
        await until(lambda: server.db._jobs.qsize() > 0)  # behind the one that is held
        submitting.cancel()
        await asyncio.wait([submitting])
        gate.set()
        await holding
        await server.db.write(lambda conn: None)  # after all that was asked for before

        (task,) = (await server.get("/tasks")).json()["tasks"]
        assert [path.name for path in server.folder.iterdir()] == [f"{task['task_id']}.audio"]

    with_server(body)

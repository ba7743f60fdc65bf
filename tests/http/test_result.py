"""PUT and DELETE /tasks/{id}/result: a transcript that a person corrects."""

import sys

import pytest

from tests.http_server import the_error
from whisperd import transcript
from whisperd.aside import LITTLE
from whisperd.routes import result
from whisperd.task import Segment, Word

FORMATS = ["json", "text", "srt", "vtt", "tsv", "verbose_json"]


def lines(*texts):
    return [{"start": float(n), "end": n + 1.0, "text": text} for n, text in enumerate(texts)]


async def put(server, task, tag, segments):
    headers = {"If-Match": tag} if tag else {}
    return await server.client.put(
        f"/tasks/{task['task_id']}/result", json={"segments": segments}, headers=headers
    )


async def read(server, task, **query):
    return await server.get(f"/tasks/{task['task_id']}/result", **query)


async def tag_of(server, task, **query):
    return (await read(server, task, **query)).headers["etag"]


async def edited(server, task, *texts):
    answer = await put(server, task, await tag_of(server, task), lines(*texts))
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_corrected_is_shown_in_every_format_and_the_original_stays(with_server, format):
    async def body(server):
        task = await server.completed("Ask nut", "what")
        before = await read(server, task, format=format)
        await edited(server, task, "Ask not")
        after = await read(server, task, format=format)
        original = await read(server, task, format=format, original=True)

        assert "Ask not" in after.text
        assert "what" not in after.text
        assert original.text == before.text
        if "json" in format:
            assert after.json()["edited"] is True
            assert "edited" not in before.json()

    with_server(body)


def test_the_answer_is_the_new_transcript_with_its_etag(with_server):
    async def body(server):
        task = await server.completed("Ask nut")
        answer = await edited(server, task, "Ask not")

        assert answer.json() == (await read(server, task)).json()
        assert answer.headers["etag"] == await tag_of(server, task)

    with_server(body)


@pytest.mark.parametrize("format", FORMATS)
def test_of_two_editors_the_second_is_told_of_the_first(with_server, format):
    async def body(server):
        task = await server.completed("Ask nut")
        tag = await tag_of(server, task, format=format)
        first = await put(server, task, tag, lines("Ask not"))
        second = await put(server, task, tag, lines("Ask what"))

        assert first.status_code == 200
        assert the_error(second) == (412, "edited_meanwhile", "If-Match")
        assert (await read(server, task)).json()["text"] == "Ask not"

    with_server(body)


def test_a_tag_that_a_proxy_weakened_is_as_good(with_server):
    async def body(server):
        task = await server.completed("Ask nut")

        assert (await put(server, task, f"W/{await tag_of(server, task)}", lines("a"))).status_code == 200

    with_server(body)


def test_who_corrects_has_to_say_what(with_server):
    async def body(server):
        task = await server.completed("Ask nut")

        assert the_error(await put(server, task, None, lines("a"))) == (428, "if_match_required", "If-Match")
        assert (await put(server, task, "*", lines("a"))).status_code == 200

    with_server(body)


async def go_back(server, task, tag=None):
    headers = {"If-Match": tag} if tag else {}
    return await server.client.delete(f"/tasks/{task['task_id']}/result", headers=headers)


def test_one_goes_back_to_the_original(with_server):
    async def body(server):
        task = await server.completed("Ask nut")
        before = await read(server, task)
        correction = (await edited(server, task, "Ask not")).headers["etag"]
        back = await go_back(server, task, correction)

        assert (back.status_code, back.content) == (204, b"")
        assert (await read(server, task)).json() == before.json()
        assert (await go_back(server, task)).status_code == 204  # there is nothing to be lost
        stale = await go_back(server, task, correction)
        assert the_error(stale) == (412, "edited_meanwhile", "If-Match")

    with_server(body)


def test_no_correction_is_thrown_away_unseen(with_server):
    """Without If-Match it was."""

    async def body(server):
        task = await server.completed("Ask nut")
        original = await tag_of(server, task)
        await edited(server, task, "Ask not")

        assert the_error(await go_back(server, task)) == (428, "if_match_required", "If-Match")
        assert the_error(await go_back(server, task, original)) == (412, "edited_meanwhile", "If-Match")
        assert (await read(server, task)).json()["text"] == "Ask not"

    with_server(body)


def test_words_stay_with_a_segment_that_stays(with_server):
    async def body(server):
        task = await server.submit(word_timestamps="true")
        await server.plan(1)
        words = tuple(
            Word(start=n, end=n + 0.5, word=w, probability=0.9) for n, w in enumerate(["ask", "not"])
        )
        segments = [Segment(start=n * 2, end=n * 2 + 1.6, text="ask not", words=words) for n in range(3)]
        await server.queue.finish(await server.queue.claim(), segments)
        tag = await tag_of(server, task)
        kept = {"start": 0, "end": 1.6, "text": " ask not ", "speaker": "A"}
        shorter = {"start": 2, "end": 1.2 + 1, "text": "ask not", "id": 7, "words": []}
        other = {"start": 4, "end": 5, "text": "ask what"}
        shown = (await put(server, task, tag, [kept, shorter, other])).json()["segments"]

        assert [word["word"] for word in shown[0]["words"]] == ["ask", "not"]
        assert shown[0]["speaker"] == "A"
        assert ["words" in segment for segment in shown] == [True, True, False]

    with_server(body)


@pytest.mark.parametrize(
    "wrong",
    [
        [{"start": 1, "end": 0, "text": "a"}],
        [{"start": 1, "end": 2, "text": "a"}, {"start": 0, "end": 3, "text": "b"}],
        [{"start": 0, "end": 11.1, "text": "a"}],
        [{"start": -1, "end": 0, "text": "a"}],
        [{"start": 0, "end": 1, "text": "  "}],
        [{"start": 0, "end": 1, "text": "a" * 10_001}],
        [{"start": 0, "end": 1}],
        [{"start": "0", "end": 1, "text": "a"}],
        lines(*["a"] * 20_001),
        None,
    ],
    ids=range(10),
)
def test_what_is_no_transcript_of_this_audio_is_refused_and_nothing_changes(with_server, wrong):
    async def body(server):
        task = await server.completed("Ask nut")
        before = await read(server, task)
        answer = await put(server, task, before.headers["etag"], wrong)

        assert answer.status_code == 422, answer.text
        assert (await read(server, task)).text == before.text

    with_server(body)


def test_a_correction_may_be_long_but_not_endless(with_server):
    async def body(server):
        task = await server.completed("Ask nut")
        tag = await tag_of(server, task)
        long = [{"start": n / 1000, "end": n / 1000, "text": "x" * 80} for n in range(10_000)]
        over = [{"start": 0, "end": 1, "text": "x" * 9000}] * 300

        assert (await put(server, task, tag, long)).status_code == 200
        assert (await put(server, task, "*", over)).status_code == 413

    with_server(body)


def test_only_what_is_completed_can_be_corrected(with_server):
    async def body(server):
        task = await server.submit()

        assert the_error(await put(server, task, "*", lines("a"))) == (409, "wrong_state", None)
        assert the_error(await go_back(server, task)) == (409, "wrong_state", None)

    with_server(body)


def test_the_search_finds_what_was_corrected_and_the_edit_goes_with_its_task(with_server):
    async def body(server):
        task = await server.completed("Ask nut")

        async def found(word):
            while await server.queue.index():
                pass
            return len((await server.get("/tasks", q=word)).json()["tasks"])

        assert (await found("nut"), await found("not")) == (1, 0)
        await edited(server, task, "Ask not")
        assert (await found("nut"), await found("not")) == (0, 1)
        await go_back(server, task, "*")
        assert (await found("nut"), await found("not")) == (1, 0)
        await edited(server, task, "Ask not")
        await server.queue.clear(["completed"], float("inf"))
        assert await found("not") == 0
        assert await server.db.read(lambda c: c.execute("select count(*) from edit").fetchone()[0]) == 0

    with_server(body)


def a_segment(text, words):
    word = Word(start=0.0, end=1.0, word="Ask", probability=0.9)
    return Segment(start=0.0, end=1.0, text=text, words=(word,) * words)


@pytest.mark.parametrize(
    ("segment", "is_little"),
    [
        (a_segment("Ask not", 2), True),
        (a_segment("Ask not", 100), False),
        (a_segment("Ask not " * 1000, 0), False),
    ],
    ids=["short", "many words", "long text"],
)
def test_a_few_segments_are_little_unless_they_are_long(segment, is_little):
    pieces = result._pieces(transcript.Transcript(task=None, segments=[segment] * LITTLE))

    assert (pieces <= LITTLE) is is_little


@pytest.mark.parametrize("format", FORMATS)
def test_no_transcript_of_more_than_a_few_segments_is_written_on_the_loop(with_server, format):
    """A day of speech takes half a second of processor time, and who polls with If-None-Match asks often."""
    on_the_loop = []

    def seen(frame, event, _):
        if event == "call" and frame.f_code.co_filename == transcript.__file__:
            on_the_loop.append(frame.f_code.co_name)

    async def body(server):
        many = ["Ask nut"] * (LITTLE + 1)
        task = await server.completed(*many)
        tag = await tag_of(server, task, format=format)
        running = await server.submit()
        await server.plan(LITTLE)
        for _ in range(LITTLE - 1):
            await server.finish("Ask not", "what")
        sys.setprofile(seen)  # of this thread, which is the loop's
        try:
            await read(server, task, format=format)
            known = {"If-None-Match": tag}
            await server.client.get(
                f"/tasks/{task['task_id']}/result", params={"format": format}, headers=known
            )
            await read(server, running, format=format, partial=True)
        finally:
            sys.setprofile(None)

    with_server(body)
    assert on_the_loop == []

"""GET /tasks?q=: tasks by words, with where they are said."""

import pytest

from tests.http_server import the_error


async def indexed(server):
    while await server.queue.index():
        pass


async def found(server, q, **filters):
    page = (await server.get("/tasks", q=q, **filters)).json()
    return [task["task_id"] for task in page["tasks"]]


def test_a_hit_is_a_task_and_where_the_words_are_said(with_server):
    async def body(server):
        task = await server.completed("Ask not", "what your country can do", name="speech.wav")
        await indexed(server)
        (hit,) = (await server.get("/tasks", q="country")).json()["tasks"]
        (named,) = (await server.get("/tasks", q="speech")).json()["tasks"]
        (listed,) = (await server.get("/tasks")).json()["tasks"]

        assert hit.pop("match") == {
            "snippet": "Ask not what your country can do",
            "ranges": [[18, 25]],
            "start": 1.0,
        }
        assert named.pop("match") is None
        assert hit == named == listed == await server.task(task["task_id"])

    with_server(body)


def test_a_search_has_the_other_filters_and_a_cursor(with_server):
    async def body(server):
        ids = [(await server.completed("hello", tenant=tenant))["task_id"] for tenant in ("a", "a", "b")]
        await server.submit(name="hello.wav")
        await indexed(server)

        assert await found(server, "hello", status="completed") == ids[::-1]
        assert await found(server, "hello", status="failed") == await found(server, "hello", tenant="c") == []
        assert await found(server, "hello", tenant="a", kind="transcription") == ids[1::-1]
        first = (await server.get("/tasks", q="hello", tenant="a", limit=1)).json()
        second = (
            await server.get("/tasks", q="hello", tenant="a", limit=1, cursor=first["next_cursor"])
        ).json()
        assert [page["tasks"][0]["task_id"] for page in (first, second)] == ids[1::-1]

    with_server(body)


@pytest.mark.parametrize("q", ['"', "a OR", "NEAR(", "*", "name:", "\x00", "🎤", "-", "a" * 200, '" " '])
def test_whatever_is_typed_is_looked_for(with_server, q):
    async def body(server):
        assert await found(server, q) == []

    with_server(body)


def test_more_than_anybody_types_is_refused(with_idle_server):
    async def body(server):
        assert the_error(await server.get("/tasks", q="a" * 201)) == (422, "invalid_field", "q")

    with_idle_server(body)


def test_more_words_than_anybody_looks_for_are_refused(with_server):
    async def body(server):
        for q in ('"' + "the " * 49 + '"', "the." * 49, "the " * 17):
            by_words = {"action": "cancel", "filter": {"q": q}}

            assert the_error(await server.get("/tasks", q=q)) == (422, "invalid_field", "q")
            assert the_error(await server.client.post("/tasks/bulk", json=by_words)) == (
                422,
                "invalid_field",
                "q",
            )

    with_server(body)


def test_where_the_search_is_switched_off_it_says_so(with_server):
    async def body(server):
        assert the_error(await server.get("/tasks", q="a")) == (409, "search_disabled", "q")
        by_words = {"action": "cancel", "filter": {"q": "a"}}
        assert the_error(await server.client.post("/tasks/bulk", json=by_words)) == (
            409,
            "search_disabled",
            "q",
        )
        assert (await server.get("/tasks")).status_code == 200

    with_server(body, search={"enabled": False})


def test_a_search_in_a_damaged_index_is_to_be_repeated_later(with_server):
    async def body(server):
        await server.completed("hello")
        await indexed(server)
        damage = "update search_data set block = x'00112233445566'"
        await server.db.write(lambda conn: conn.execute(damage).rowcount)
        answer = await server.get("/tasks", q="hello")

        assert the_error(answer) == (503, "index_damaged", "q")
        assert int(answer.headers["retry-after"]) > 0
        assert len((await server.get("/tasks")).json()["tasks"]) == 1

    with_server(body)

"""`whisperd transcribe` where no daemon runs: the same machinery, real weights, for one call."""

import asyncio

import pytest

from tests.e2e.test_first_slice import JFK, words
from whisperd.config import load
from whisperd.embedded import embedded
from whisperd.task import ModelUnusable, Options, State


@pytest.fixture
def with_embedded(weights):
    def run(body):
        async def main():
            config = load(
                None, {}, {"storage.models_dir": str(weights), "logging.level": "error"}, may_be_foreign=True
            )
            async with asyncio.timeout(60), embedded(config) as here:
                await body(here)

        asyncio.run(main())

    return run


def kept(here):
    return set(here._parts.spool.owners())


def test_a_file_is_kept_no_longer_than_its_task_runs(with_embedded, jfk, tmp_path):
    (tmp_path / "no.wav").write_bytes(b"no sound")

    async def body(here):
        tasks = [await here.submit_file(path, Options()) for path in (jfk, tmp_path / "no.wav")]
        assert kept(here) >= {tasks[1].id}
        good, bad = [await here.wait(task.id) for task in tasks]

        assert (good.state, bad.state) == (State.COMPLETED, State.FAILED)
        assert kept(here) == set()
        assert words((await here.transcript(good.id)).text) == JFK.split()

    with_embedded(body)


def test_a_model_for_english_is_given_no_other_language(with_embedded, jfk):
    async def body(here):
        with pytest.raises(ModelUnusable, match=r"^the model tiny\.en knows English only$"):
            await here.submit_file(jfk, Options(language="de"))
        assert kept(here) == set()

    with_embedded(body)

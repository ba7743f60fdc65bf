"""Vercel's AI SDK, `ai` with `@ai-sdk/openai`: its parser refuses a body in which one field is missing."""

import pytest

from tests.clients import expected
from tests.clients.installed import node_modules, outcomes

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def answers(open_daemon, jfk):
    script = node_modules() / "ai_client.mjs"
    return outcomes("node", script, open_daemon.url, "any", jfk, "plain", "options", "words", "unknown_model")


@pytest.mark.parametrize("scenario", ["plain", "options", "words"])
def test_it_transcribes_with_and_without_options_of_its_provider(answers, scenario):
    answer = answers[scenario].get("answer")

    assert answer, answers[scenario]
    assert expected.says_jfk(answer["text"])
    assert answer["segments"] == sorted(answer["segments"], key=lambda segment: segment["startSecond"])


def test_words_become_its_segments(answers):
    assert expected.says_jfk(" ".join(one["text"] for one in answers["words"]["answer"]["segments"]))


def test_an_unknown_model_is_an_error_it_understands(answers):
    outcome = answers["unknown_model"]

    assert (outcome["error"], outcome["status"]) == ("AI_APICallError", 404)
    assert outcome["body"]["error"]["code"] == "model_not_found"


def test_a_wrong_key_is_an_error_it_understands(full_daemon, jfk):
    script = node_modules() / "ai_client.mjs"
    outcome = outcomes("node", script, full_daemon.url, "whd_wrong", jfk, "plain")["plain"]

    assert outcome["status"] == 401

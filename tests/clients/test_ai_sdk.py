"""Vercel's AI SDK, `ai` with `@ai-sdk/openai`: its parser refuses a body in which one field is missing."""

import pytest

from tests.clients import expected
from tests.clients.installed import node_modules, outcomes

pytestmark = pytest.mark.timeout(300)
ANSWERED = ["json", "options", "options_json", "segments", "words"]


def ask(daemon, path, *scenarios, key="any"):
    script = node_modules() / "ai_client.mjs"
    return outcomes("node", script, daemon.url, key, path, *scenarios, timeout=250)


@pytest.fixture(scope="module")
def answers(open_daemon, jfk):
    return ask(open_daemon, jfk, *ANSWERED)


@pytest.mark.parametrize("scenario", ANSWERED)
def test_it_transcribes_with_and_without_options_of_its_provider(answers, scenario):
    answer = answers[scenario].get("answer")

    assert answer, answers[scenario]
    assert expected.says_jfk(answer["text"])
    assert answer["durationInSeconds"] == expected.SECONDS


def test_it_is_told_the_language_wherever_it_asks_for_verbose_json(answers):
    found = [name for name, one in answers.items() if one["answer"].get("language") == "en"]

    assert found == ["options", "segments", "words"]


@pytest.mark.parametrize("scenario", ["segments", "words"])
def test_segments_and_words_are_in_order_and_make_the_text(answers, scenario):
    segments = answers[scenario]["answer"]["segments"]

    assert expected.says_jfk(" ".join(one["text"] for one in segments))
    assert segments == sorted(segments, key=lambda one: one["startSecond"])


def test_what_is_refused_is_an_error_it_understands(refused):
    outcome = ask(refused.daemon, refused.path, refused.scenario, key=refused.key)[refused.scenario]

    assert outcome["error"] == "AI_APICallError"
    expected.check_refused(refused, outcome)

"""LiteLLM, which many gateways are made of."""

import pytest

from tests.clients import expected
from tests.clients.installed import PYTHON, outcomes, python
from tests.clients.refusals import OPENAI, OPENAI_ERRORS

pytestmark = pytest.mark.timeout(300)
TEXTS = ["json", "text", "verbose_json", "words", "options"]
SAID = {  # it passes on the message, not the code
    "bad_file": "not audio or video",
    "unknown_model": "no-such-model",
    "wrong_key": "this key is not known",
    "full_queue": "waiting already",
}


def ask(daemon, path, *scenarios, key="any"):
    return outcomes(
        python("litellm"), PYTHON / "litellm_client.py", daemon.url, key, path, *scenarios, timeout=250
    )


@pytest.fixture(scope="module")
def answers(open_daemon, jfk):
    return ask(open_daemon, jfk, *TEXTS, "srt", "vtt", "stream")


@pytest.mark.parametrize("scenario", TEXTS)
def test_it_gets_the_text(answers, scenario):
    assert "answer" in answers[scenario], answers[scenario]
    assert expected.says_jfk(answers[scenario]["answer"]["text"])


@pytest.mark.parametrize("scenario", ["srt", "vtt"])
def test_it_gets_subtitles(answers, scenario):
    expected.check_cues(answers[scenario]["answer"]["text"], "-->")


def test_it_gets_words(answers):
    expected.check_words(answers["words"]["answer"])


def test_it_streams_what_it_knows_to_be_streamed(answers):
    assert "answer" in answers["stream"], answers["stream"]
    expected.check_stream(answers["stream"]["answer"])


def test_what_is_refused_raises_the_error_of_its_kind(refused):
    outcome = ask(refused.daemon, refused.path, refused.scenario, key=refused.key)[refused.scenario]
    status, _ = OPENAI[refused.why]

    assert (outcome["error"], outcome["status"]) == (OPENAI_ERRORS[refused.why], status), outcome
    assert SAID[refused.why] in outcome["said"]

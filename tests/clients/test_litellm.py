"""LiteLLM, which many gateways are made of."""

import pytest

from tests.clients import expected
from tests.clients.installed import PYTHON, outcomes, python

pytestmark = pytest.mark.timeout(300)


def ask(daemon, path, *scenarios, key="any"):
    return outcomes(
        python("litellm"), PYTHON / "litellm_client.py", daemon.url, key, path, *scenarios, timeout=250
    )


@pytest.fixture(scope="module")
def answers(open_daemon, jfk):
    return ask(open_daemon, jfk, "json", "text", "srt", "words", "unknown_model")


@pytest.mark.parametrize("scenario", ["json", "text", "words"])
def test_it_gets_the_text(answers, scenario):
    assert expected.says_jfk(answers[scenario]["answer"]["text"]), answers[scenario]


def test_it_gets_subtitles(answers):
    expected.check_cues(answers["srt"]["answer"]["text"], "-->")


def test_it_gets_words(answers):
    assert expected.says_jfk(" ".join(word["word"] for word in answers["words"]["answer"]["words"]))


def test_it_knows_what_is_wrong(answers, full_daemon, jfk):
    assert answers["unknown_model"]["status"] == 404
    assert ask(full_daemon, jfk, "json", key="whd_wrong")["json"]["error"] == "AuthenticationError"

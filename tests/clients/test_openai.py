"""The official clients of OpenAI, of Python and of Node: nothing is changed but where they call."""

import pytest

from tests.clients import expected
from tests.clients.installed import OPENAI_CLIENTS, openai_client, outcomes
from tests.clients.refusals import OPENAI_ERRORS

pytestmark = pytest.mark.timeout(300)
ANSWERED = [
    *("json", "text", "srt", "vtt", "verbose_json", "words", "stream", "logprobs", "diarized_json"),
    *("options", "extra_body", "raw_answer", "translation", "models", "model"),
]


def ask(client, daemon, path, *scenarios, key="any"):
    """What the client made of it. Without keys any key does."""
    return outcomes(*openai_client(client), daemon.url, key, path, *scenarios, timeout=250)


@pytest.fixture(scope="module", params=OPENAI_CLIENTS)
def client(request):
    return request.param


@pytest.fixture(scope="module")
def answers(client, open_daemon, jfk):
    return ask(client, open_daemon, jfk, *ANSWERED)


@pytest.fixture
def answer(answers):
    """The answer of a scenario, which has to be one."""

    def of(scenario):
        assert "answer" in answers[scenario], answers[scenario]
        return answers[scenario]["answer"]

    return of


def test_json_is_the_text_and_how_long_it_is(answer):
    assert expected.says_jfk(answer("json")["text"])
    assert answer("json")["usage"] == {"type": "duration", "seconds": 11}


def test_text_is_the_text_alone(answer):
    assert answer("text").endswith("\n")
    assert expected.says_jfk(answer("text"))


def test_srt_is_subtitles(answer):
    expected.check_cues(answer("srt"), "-->")


def test_vtt_is_subtitles(answer):
    assert answer("vtt").startswith("WEBVTT\n\n")
    expected.check_cues(answer("vtt"), "-->")


def test_verbose_json_has_every_field_of_a_segment(answer):
    expected.check_verbose(answer("verbose_json"))
    assert "words" not in answer("verbose_json")


def test_words_are_in_order_and_within_the_clip(answer):
    expected.check_words(answer("words"))


def test_a_stream_is_deltas_that_make_the_text(answer):
    expected.check_stream(answer("stream"))


def test_options_of_whisperd_come_along(client, answer, open_daemon):
    assert expected.says_jfk(answer("extra_body")["text"])
    sent = [task for task in open_daemon.get("/tasks", limit=500)["tasks"] if task["priority"] == 7]
    assert sent
    assert all(task["metadata"] == {"from": "openai"} for task in sent)


def test_a_translation_is_english(answer):
    assert expected.says_jfk(answer("translation")["text"])


def test_the_models_are_listed_and_shown(answer):
    assert {"whisper-1", "tiny.en"} <= set(answer("models"))
    assert (answer("model")["id"], answer("model")["object"]) == ("tiny.en", "model")


def test_probabilities_of_the_words_come_when_asked_for(answer):
    assert answer("logprobs")["logprobs"]
    assert all(one["logprob"] <= 0 for one in answer("logprobs")["logprobs"])


def test_speakers_are_told_apart_by_channel(answer):
    body = answer("diarized_json")
    assert expected.says_jfk(body["text"])
    assert {segment["speaker"] for segment in body["segments"]} == {"A"}


def test_two_speakers_of_two_channels_take_turns(client, open_daemon, corpus):
    stereo = corpus / "hostile" / "j02_stereo_turns.wav"
    segments = ask(client, open_daemon, stereo, "diarized_json")["diarized_json"]["answer"]["segments"]

    assert {segment["speaker"] for segment in segments} == {"A", "B"}
    assert segments == sorted(segments, key=lambda segment: segment["start"])


def test_every_option_of_the_client_is_taken(answer):
    assert expected.says_jfk(answer("options")["text"])


def test_the_raw_answer_can_be_read(answer):
    assert expected.says_jfk(answer("raw_answer"))


def test_what_is_refused_raises_the_error_of_its_status(client, refused):
    outcome = ask(client, refused.daemon, refused.path, refused.scenario, key=refused.key)[refused.scenario]

    assert outcome["error"] == OPENAI_ERRORS[refused.why], outcome
    expected.check_refused(refused, outcome)


def test_the_right_key_is_served(client, full_daemon, jfk):
    assert "tiny.en" in ask(client, full_daemon, jfk, "models", key=full_daemon.key)["models"]["answer"]

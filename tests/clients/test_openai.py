"""The official clients of OpenAI, of Python and of Node: nothing is changed but where they call."""

import pytest

from tests.clients import expected
from tests.clients.installed import NODE, PYTHON, node_modules, outcomes, python

pytestmark = pytest.mark.timeout(300)
SCENARIOS = [
    *("json", "text", "srt", "vtt", "verbose_json", "words", "stream", "extra_body"),
    *("translation", "models", "model", "unknown_model"),
]
OF_PYTHON = ["logprobs", "diarized_json", "options", "streamed_response"]
CLIENTS = ["openai-3", "openai-2", "openai", "openai-6"]  # two of Python, two of Node


def ask(client, daemon, path, *scenarios, key="any"):
    """What the client made of it. Without keys any key does."""
    if client in ("openai-3", "openai-2"):
        command = (python(client), PYTHON / "openai_client.py")
    else:
        command = ("node", node_modules() / "openai_client.mjs", client)
    return outcomes(*command, daemon.url, key, path, *scenarios, timeout=250)


@pytest.fixture(scope="module", params=CLIENTS)
def client(request):
    return request.param


@pytest.fixture(scope="module")
def answers(client, open_daemon, jfk):
    scenarios = SCENARIOS + (OF_PYTHON if client in ("openai-3", "openai-2") else [])
    return ask(client, open_daemon, jfk, *scenarios)


@pytest.fixture
def answer(answers):
    """The answer of a scenario, which has to be one."""

    def of(scenario):
        if scenario not in answers:
            pytest.skip("asked from Python only")
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


def test_an_unknown_model_is_not_found(answers):
    expected.check_unknown_model(answers["unknown_model"])


def test_probabilities_of_the_words_come_when_asked_for(answer):
    assert answer("logprobs")["logprobs"]
    assert all(one["logprob"] <= 0 for one in answer("logprobs")["logprobs"])


def test_speakers_are_told_apart_by_channel(answer):
    body = answer("diarized_json")
    assert expected.says_jfk(body["text"])
    assert {segment["speaker"] for segment in body["segments"]} == {"A"}


def test_every_option_of_the_client_is_taken(answer):
    assert expected.says_jfk(answer("options")["text"])


def test_the_raw_answer_can_be_read(answer):
    assert expected.says_jfk(answer("streamed_response"))


def test_a_file_that_is_no_audio_is_a_bad_request(client, open_daemon, tmp_path):
    (tmp_path / "talk.mp3").write_text("this is not audio\n" * 100)

    expected.check_bad_file(ask(client, open_daemon, tmp_path / "talk.mp3", "json")["json"])


def test_a_wrong_key_is_an_authentication_error(client, full_daemon, jfk):
    expected.check_bad_key(ask(client, full_daemon, jfk, "json", key="whd_wrong")["json"])


def test_a_full_queue_is_a_rate_limit(client, full_daemon, jfk):
    expected.check_queue_full(
        ask(client, full_daemon, jfk, "verbose_json", key=full_daemon.key)["verbose_json"]
    )


def test_the_right_key_is_served(client, full_daemon, jfk):
    assert "tiny.en" in ask(client, full_daemon, jfk, "models", key=full_daemon.key)["models"]["answer"]


def test_both_lists_of_versions_are_installed_from_here():
    assert NODE.joinpath("package-lock.json").read_text().count('"resolved"') == 0  # no host of a registry

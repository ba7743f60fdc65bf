"""What each client is to get for the clip of the tests, however it asks."""

from tests.e2e.test_first_slice import JFK, words

SECONDS = 11.0
SEGMENT = {
    *("id", "seek", "start", "end", "text", "tokens", "temperature"),
    *("avg_logprob", "compression_ratio", "no_speech_prob"),
}


def says_jfk(text):
    return words(text) == JFK.split()


def check_cues(text, arrow):
    """Cues with times, and the words in them."""
    spoken = [line for line in text.splitlines() if line and not line.isdigit() and arrow not in line]
    assert arrow in text
    assert says_jfk(" ".join(line for line in spoken if line != "WEBVTT"))


def check_verbose(body):
    assert says_jfk(body["text"])
    assert (body["language"], body["duration"], body["task"]) == ("english", SECONDS, "transcribe")
    assert body["segments"]
    for segment in body["segments"]:
        assert segment.keys() >= SEGMENT


def check_words(body):
    """In order, each within the clip, and all of the text."""
    check_verbose(body)
    found = body["words"]
    assert says_jfk(" ".join(word["word"] for word in found))
    times = [time for word in found for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= SECONDS


def check_stream(events):
    deltas = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
    *_, done = events
    assert done["type"] == "transcript.text.done"
    assert done["text"] == "".join(deltas)
    assert says_jfk(done["text"])


def check_unknown_model(outcome):
    assert (outcome["error"], outcome["status"]) == ("NotFoundError", 404)
    assert outcome["body"].keys() == {"message", "type", "param", "code"}
    assert (outcome["body"]["code"], outcome["body"]["param"]) == ("model_not_found", "model")
    assert outcome["request_id"]


def check_bad_file(outcome):
    assert (outcome["error"], outcome["status"]) == ("BadRequestError", 400)
    assert outcome["body"]["type"] == "invalid_request_error"
    assert outcome["body"]["code"] == "unsupported_media"


def check_bad_key(outcome):
    assert (outcome["error"], outcome["status"]) == ("AuthenticationError", 401)
    assert outcome["body"]["code"] == "invalid_api_key"


def check_queue_full(outcome):
    assert (outcome["error"], outcome["status"]) == ("RateLimitError", 429)
    assert outcome["body"]["code"] == "queue_full"
    assert 0 < int(outcome["retry_after"]) <= 120

"""What each client is to get for the clip of the tests, however it asks."""

from tests.clients.refusals import OPENAI
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


def check_refused(refused, outcome):
    """By OpenAI's API: with all that its clients look at."""
    code = outcome["body"]["code"]
    assert (outcome["status"], code) == OPENAI[refused.why]
    assert outcome["body"].keys() == {"message", "type", "param", "code"}
    assert outcome["request_id"]
    if refused.why == "full_queue":
        assert 0 < int(outcome["retry_after"]) <= 120

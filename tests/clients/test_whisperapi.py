"""What the clients of the older WhisperAPI send to /api/v1, and what they are answered."""

import httpx
import pytest

from tests.clients import expected
from tests.clients.refusals import OURS

SUBMIT = "/api/v1/transcribe"
LATER = {"run_at": "2100-01-01T00:00:00Z"}


def sent(daemon, path, key=None, **fields):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with open(path, "rb") as file:
        return daemon.http.post(SUBMIT, files={"file": (path.name, file)}, data=fields, headers=headers)


def the_data(answer):
    shown = answer.json()
    assert (answer.is_success, shown["success"]) == (True, True), answer.text
    return shown["data"]


def the_refusal(answer):
    shown = answer.json()
    assert (shown.keys(), shown["success"]) == ({"success", "error"}, False)
    assert shown["error"].keys() == {"code", "message"}
    return answer.status_code, shown["error"]["code"]


def status(daemon, one):
    return the_data(daemon.http.get(f"/api/v1/status/{one}"))


def over(daemon, one):
    return daemon.until(lambda: (found := status(daemon, one))["completedAt"] and found, 90)


def test_a_transcription_is_submitted_and_looked_at_until_it_is_completed(open_daemon, jfk):
    answer = sent(open_daemon, jfk, word_timestamps="true")
    accepted = the_data(answer)
    done = over(open_daemon, accepted["transcriptionId"])

    assert (answer.status_code, accepted["progress"], accepted["completedAt"]) == (202, 0, None)
    assert accepted["jobId"] == accepted["transcriptionId"]
    assert (done["status"], done["progress"], done["jobStatus"]) == ("COMPLETED", 100, "completed")
    assert (done["createdAt"], done["cancelled"]) == (accepted["createdAt"], False)
    assert expected.says_jfk(done["result"]["text"])
    assert done["result"]["duration"] == expected.SECONDS
    spoken = [word["word"] for segment in done["result"]["segments"] for word in segment["words"]]
    assert expected.says_jfk(" ".join(spoken))


def test_a_transcription_is_cancelled_once(open_daemon, jfk):
    one = the_data(sent(open_daemon, jfk, **LATER))["transcriptionId"]
    waiting = status(open_daemon, one)
    cancelled = the_data(open_daemon.http.delete(f"{SUBMIT}/{one}"))

    assert (waiting["status"], waiting["jobStatus"]) == ("QUEUED", "delayed")
    assert (cancelled["status"], cancelled["cancelled"]) == ("CANCELLED", True)
    assert status(open_daemon, one) == cancelled
    assert the_refusal(open_daemon.http.delete(f"{SUBMIT}/{one}")) == (409, "WRONG_STATE")


def test_a_transcription_that_fails_says_why(open_daemon, corpus):
    """It looks like a film; that it has no sound is found by the worker."""
    found = over(open_daemon, the_data(sent(open_daemon, corpus / "hostile" / "e08_video_only.mp4"))["jobId"])

    assert (found["status"], found["jobStatus"], found["cancelled"]) == ("FAILED", "failed", False)
    assert found["error"]["code"] == "no_audio"


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/v1/status"), ("DELETE", SUBMIT)])
def test_a_transcription_that_is_not_there_has_a_code_of_its_own(open_daemon, method, path):
    answer = open_daemon.http.request(method, f"{path}/nosuch")

    assert the_refusal(answer) == (404, "TRANSCRIPTION_NOT_FOUND")


def test_what_is_refused_has_its_code_in_capitals(refused):
    answer = sent(refused.daemon, refused.path, refused.key, model=refused.model)
    state, code = OURS[refused.why]

    assert the_refusal(answer) == (state, code.upper())
    assert ("retry-after" in answer.headers) == (refused.why == "full_queue")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [({"beam_size": "99"}, (422, "INVALID_FIELD")), ({"no_such_field": "1"}, (422, "UNKNOWN_FIELD"))],
)
def test_a_field_that_is_wrong_is_refused(open_daemon, jfk, fields, refusal):
    assert the_refusal(sent(open_daemon, jfk, **fields)) == refusal


def test_a_path_or_a_method_that_is_not_there_is_refused_in_its_envelope(open_daemon):
    assert the_refusal(open_daemon.http.get("/api/v1/nosuch")) == (404, "NOT_FOUND")
    assert the_refusal(open_daemon.http.get(SUBMIT)) == (405, "METHOD_NOT_ALLOWED")


def test_no_key_is_refused_for_what_is_there_and_what_is_not(full_daemon):
    for one in (full_daemon.waiting, "nosuch"):
        answer = httpx.get(f"{full_daemon.url}/api/v1/status/{one}")

        assert the_refusal(answer) == (401, "INVALID_API_KEY")

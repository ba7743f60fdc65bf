"""What was found in a call, beside its player: each leads to its place, none need be read or heard."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, barriers, watched
from tests.e2e.daemon import serving

CALL = Path(__file__).parents[1] / "data" / "calls" / "numbers.flac"
NAME = {  # in the clip
    "id": "mine.name",
    "title": "Names a people",
    "category": "custom",
    "severity": "low",
    "score": 0.5,
    "match": "american*",
    "redact": "NAME",
}
_PLAYED = """to => new Promise((done) => {
  const look = () => document.querySelector('audio').currentTime > to ? done() : setTimeout(look, 50);
  look();
})"""
_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


def submitted(daemon, path, name, **options):
    """Audio that rules are to look through: the task that looks."""
    with open(path, "rb") as file:
        answer = daemon.http.post("/tasks/risk-detection", files={"file": (name, file)}, data=options)
    assert answer.status_code == 202, answer.text
    return answer.json()


def looked_through(daemon, name, **options):
    """The id of the call's transcription, once it was looked through."""
    heard = {"word_timestamps": "true", "language": "en", "beam_size": 1}
    look = submitted(daemon, CALL, name, **heard, **options)
    assert daemon.finished(look["task_id"])["status"] == "completed"
    return look["transcript_task_id"]


def named(daemon, clip, name):
    """The clip, of which a word is to be redacted."""
    return submitted(daemon, clip, name, rules=json.dumps([NAME]), redact="tag")


def numbers(daemon, call):
    """Those of the transcript, as they are written: all of them are to be redacted."""
    said = daemon.http.get(f"/tasks/{call}/result", params={"format": "text", "redacted": "false"}).text
    found = re.findall(r"\d[\d-]{2,}", said)
    assert found
    return found


@pytest.fixture(scope="module")
def call(daemon):
    return looked_through(daemon, "call.flac")


@pytest.fixture(scope="module")
def private(daemon):
    return looked_through(daemon, "private.flac", redact="tag")


@pytest.fixture
def call_page(page, call):
    page.goto(f"#/tasks/{call}")
    page.get_by_role("heading", name="call.flac").wait_for()
    return page


def risk(page):
    return page.get_by_role("region", name="Risk")


def switch(page):
    return risk(page).get_by_role("switch", name="Redacted")


def transcript(page):
    return page.get_by_role("region", name="Transcript")


def found(daemon, task_id):
    return daemon.get(f"/tasks/{task_id}/risk")


def test_the_findings_stand_beside_the_player_with_score_level_and_what_was_said(call_page, daemon, call):
    report = found(daemon, call)
    items = risk(call_page).get_by_role("listitem")

    expect(risk(call_page).get_by_role("heading")).to_contain_text(
        f"{report['risk']['level']} score {report['risk']['score']:.2f}"
    )
    expect(items).to_have_count(len(report["findings"]) + len(report["missing"]))
    card = items.filter(has_text="A payment card's number")
    expect(card).to_contain_text("high")
    expect(card).to_contain_text("personal data")
    expect(card).to_contain_text(next(f["text"] for f in report["findings"] if f["rule_id"] == "pii.card"))


def test_what_should_have_been_said_is_listed_with_where_it_was_looked_for(call_page):
    missing = risk(call_page).get_by_role("listitem").filter(has_text="Not said from")

    expect(missing.first).to_contain_text("Nobody was told that the call is recorded")
    expect(missing.first).to_contain_text("Not said from 0:00 to ")
    expect(missing.get_by_role("button")).to_have_count(0)


def test_a_finding_leads_to_its_place_by_hand_or_by_keyboard(call_page, daemon, call):
    starts = [one["start"] for one in found(daemon, call)["findings"]]
    buttons = risk(call_page).get_by_role("list").get_by_role("button")
    buttons.nth(0).click()
    call_page.evaluate(_PLAYED, starts[0])
    call_page.evaluate("document.querySelector('audio').pause()")
    buttons.nth(1).focus()
    call_page.keyboard.press("Enter")
    call_page.evaluate(_PLAYED, starts[1])

    assert not call_page.evaluate("document.querySelector('audio').paused")


def test_the_wave_is_marked_where_something_was_found(call_page, daemon, call):
    duration = daemon.task(call)["audio"]["duration"]
    starts = [one["start"] for one in found(daemon, call)["findings"]]
    marks = call_page.locator(".marks i")
    expect(marks).to_have_count(len(starts))
    wave = call_page.locator("canvas.wave").bounding_box()

    for mark, start in zip(marks.all(), starts, strict=True):
        assert mark.bounding_box()["x"] == pytest.approx(wave["x"] + wave["width"] * start / duration, abs=3)


def test_a_switch_takes_what_was_found_out_of_text_sound_and_downloads(call_page, daemon, call):
    said = numbers(daemon, call)
    for number in said:
        expect(transcript(call_page)).to_contain_text(number)
    switch(call_page).check()

    expect(transcript(call_page)).to_contain_text("[CARD]")
    expect(risk(call_page)).to_contain_text("****")
    shown = transcript(call_page).inner_text() + risk(call_page).inner_text()
    assert [number for number in said if number in shown] == []
    expect(call_page.get_by_role("button", name="Edit")).to_have_count(0)
    expect(call_page.locator("audio")).to_have_attribute("src", re.compile("redacted=true"))
    with call_page.expect_download() as started:
        call_page.get_by_role("link", name="SRT", exact=True).click()
    assert "[CARD]" in started.value.path().read_text()
    call_page.evaluate("document.querySelector('audio').play()")
    call_page.evaluate(_PLAYED, 0.3)

    switch(call_page).uncheck()
    expect(transcript(call_page)).to_contain_text(said[0])


def test_the_place_in_the_audio_stays_when_it_is_redacted(call_page):
    call_page.wait_for_function("() => document.querySelector('audio').readyState > 0")
    call_page.evaluate("document.querySelector('audio').currentTime = 3")
    expect(call_page.get_by_role("slider")).to_have_attribute("aria-valuetext", re.compile("^0:03 of"))
    switch(call_page).check()
    expect(call_page.locator("audio")).to_have_attribute("src", re.compile("redacted=true"))

    call_page.wait_for_function("() => document.querySelector('audio').readyState > 0")
    call_page.wait_for_function("() => document.querySelector('audio').currentTime === 3")


def test_what_was_submitted_to_be_redacted_is_shown_so_from_the_start(page, daemon, private):
    said = numbers(daemon, private)
    page.goto(f"#/tasks/{private}")

    expect(transcript(page)).to_contain_text("[CARD]")
    expect(switch(page)).to_be_checked()
    shown = transcript(page).inner_text() + risk(page).inner_text()
    assert [number for number in said if number in shown] == []
    switch(page).uncheck()
    expect(transcript(page)).to_contain_text(said[0])


def test_what_waits_to_be_redacted_comes_by_itself(page, paused, clip):
    task_id = named(paused, clip, "waits.wav")["transcript_task_id"]
    page.goto(f"#/tasks/{task_id}")
    expect(page.get_by_role("region", name="Not shown yet")).to_be_visible()
    paused.http.post("/admin/resume").raise_for_status()

    expect(transcript(page)).to_contain_text("[NAME]")
    expect(page.locator("audio")).to_have_attribute("src", re.compile("redacted=true"))


def test_what_nothing_has_looked_through_is_shown_to_whom_asks_for_it(page, paused, clip):
    look = named(paused, clip, "unseen.wav")
    paused.http.delete(f"/tasks/{look['task_id']}").raise_for_status()
    paused.http.post("/admin/resume").raise_for_status()
    assert paused.finished(look["transcript_task_id"])["status"] == "completed"
    page.goto(f"#/tasks/{look['transcript_task_id']}")
    expect(transcript(page)).to_contain_text("It is not shown yet.")
    page.get_by_role("button", name="Show all that is said").click()

    expect(transcript(page)).to_contain_text("American")
    expect(page.locator("audio")).to_have_count(1)
    expect(risk(page)).to_have_count(0)


def test_who_may_only_read_is_offered_no_more(chromium, tmp_path, weights, clip):
    with serving(tmp_path / "kept", weights, scopes=("submit", "read", "admin")) as daemon:
        look = named(daemon, clip, "private.wav")
        assert daemon.finished(look["task_id"])["status"] == "completed"
        reader = daemon.http.post("/admin/keys", json={"scopes": ["read"]}).json()["key"]
        with watched(chromium, daemon.url, refused=(401,)) as page:
            page.goto(f"{daemon.url}/#/tasks/{look['transcript_task_id']}")
            page.get_by_label("Key", exact=True).fill(reader)
            page.get_by_role("button", name="Sign in").click()

            expect(transcript(page)).to_contain_text("[NAME]")
            expect(risk(page).get_by_role("listitem").filter(has_text="Names a people")).to_have_count(1)
            expect(switch(page)).to_have_count(0)


def test_a_call_that_nobody_looked_through_has_no_such_part(page, spoken):
    page.goto(f"#/tasks/{spoken}")
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("Completed")
    expect(transcript(page)).to_contain_text("country")

    expect(risk(page)).to_have_count(0)


def test_the_page_of_a_risk_detection_shows_what_it_found_and_leads_to_the_call(page, daemon, call):
    page.goto(f"#/tasks/{found(daemon, call)['task_id']}")
    expect(risk(page).get_by_role("listitem").first).to_contain_text("A payment card's number")
    page.get_by_role("link", name="a transcript").click()

    expect(transcript(page)).to_contain_text(numbers(daemon, call)[0])


def test_what_is_found_in_a_text_leads_nowhere(page, daemon):
    answer = daemon.http.post("/tasks/risk-detection", json={"text": "My card is 4111 1111 1111 1111."})
    assert daemon.finished(answer.json()["task_id"])["status"] == "completed"
    page.goto(f"#/tasks/{answer.json()['task_id']}")

    expect(risk(page).get_by_role("listitem").first).to_contain_text("4111 1111 1111 1111")
    expect(risk(page).get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_findings_keep_nobody_out(chromium, daemon, call, scheme):
    with watched(chromium, daemon.url, color_scheme=scheme) as page:
        page.goto(f"{daemon.url}/#/tasks/{call}")
        risk(page).get_by_role("listitem").first.wait_for()

        assert barriers(page) == []


def test_a_phone_shows_all_of_the_findings(chromium, daemon, call):
    with watched(chromium, daemon.url, viewport={"width": 360, "height": 740}) as page:
        page.goto(f"{daemon.url}/#/tasks/{call}")
        risk(page).get_by_role("listitem").first.wait_for()

        assert page.evaluate(_WIDER) <= 0

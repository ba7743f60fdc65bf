"""The page of one task: heard, read, put right, taken along; and how it came there."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, watched

_PLAYED = """to => new Promise((done) => {
  const look = () => document.querySelector('audio').currentTime > to ? done() : setTimeout(look, 50);
  look();
})"""
FORMATS = {
    "Text": r"^And so",
    "SRT": r"^1\n00:00:0",
    "WebVTT": r"^WEBVTT",
    "TSV": r"^start\tend\ttext",
    "JSON": r'^\{"task_id"',
    "Verbose JSON": r'"no_speech_prob"',
}
pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def task_page(page, spoken):
    page.goto(f"#/tasks/{spoken}")
    page.get_by_role("heading", name="inauguration.wav").wait_for()
    return page


def test_the_audio_plays_and_the_transcript_follows_it_word_by_word(task_page):
    task_page.evaluate("document.querySelector('audio').play()")

    task_page.evaluate(_PLAYED, 0.5)
    sentence = task_page.locator(".segments > li").first
    expect(sentence).to_have_attribute("aria-current", "true")
    expect(sentence.locator("span.now")).to_have_count(1)
    begins = float(sentence.locator("span.now").get_attribute("data-at"))
    task_page.evaluate(_PLAYED, begins + 2)
    assert float(sentence.locator("span.now").get_attribute("data-at")) > begins


def test_a_click_on_a_sentence_or_a_word_leads_to_its_place_in_the_audio(task_page):
    sentences = task_page.locator(".segments > li")
    begins = float(sentences.last.get_attribute("data-start"))
    sentences.last.get_by_role("button").click()
    task_page.evaluate(_PLAYED, begins + 0.3)
    expect(sentences.last).to_have_attribute("aria-current", "true")

    task_page.evaluate("document.querySelector('audio').pause()")
    word = sentences.first.locator("span[data-at]").nth(3)
    word.click()
    task_page.evaluate(_PLAYED, float(word.get_attribute("data-at")))
    expect(sentences.first).to_have_attribute("aria-current", "true")


def test_the_waveform_is_a_slider_for_the_keyboard(task_page):
    wave = task_page.get_by_role("slider", name="Position in the audio")
    wave.focus()
    task_page.keyboard.press("ArrowRight")
    expect(wave).to_have_attribute("aria-valuetext", "0:05 of 0:11")
    task_page.keyboard.press("Home")
    expect(wave).to_have_attribute("aria-valuetext", "0:00 of 0:11")


def test_it_is_seen_how_certain_a_word_is(task_page, daemon, spoken):
    words = [
        word
        for segment in json.loads(daemon.result(spoken, "json"))["segments"]
        for word in segment["words"]
        if word["probability"] < 0.8
    ]
    marked = task_page.locator(".segments span.unsure, .segments span.doubtful")
    expect(marked).to_have_count(len(words))
    marked.first.hover()
    expect(task_page.locator(".certainty")).to_contain_text(f"“{words[0]['word'].strip()}”: ")

    task_page.get_by_label("Mark uncertain words").uncheck()
    expect(task_page.locator(".certainty")).to_have_count(0)


def test_a_text_is_put_right_and_the_original_comes_back(task_page, daemon, spoken):
    heard = daemon.result(spoken)
    task_page.get_by_role("button", name="Edit").click()
    first = task_page.get_by_label("Text at 0:00")
    expect(first).to_be_focused()
    was = first.input_value()
    first.fill("Something else was said.")
    task_page.get_by_role("button", name="Undo").click()
    expect(first).to_have_value(was)
    expect(task_page.get_by_role("button", name="Save")).to_be_disabled()
    first.fill("Something else was said.")
    task_page.get_by_role("button", name="Save").click()
    transcript = task_page.get_by_role("region", name="Transcript")
    expect(transcript).to_contain_text("Something else was said.")
    expect(transcript).to_contain_text("corrected")
    assert daemon.result(spoken).startswith("Something else was said.")

    task_page.get_by_role("button", name="Edit").click()
    task_page.get_by_role("button", name="Back to the original").click()
    task_page.get_by_role("dialog").get_by_role("button", name="Back to the original").click()
    expect(transcript).not_to_contain_text("corrected")
    assert daemon.result(spoken) == heard


def test_what_another_has_put_right_meanwhile_is_not_overwritten(chromium, daemon, spoken):
    with watched(chromium, daemon.url, refused=(412,)) as page:
        page.goto(f"{daemon.url}/#/tasks/{spoken}")
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Text at 0:00").fill("Mine")
        theirs = [{"start": 0, "end": 1, "text": "Theirs"}]
        tag = daemon.http.get(f"/tasks/{spoken}/result").headers["etag"]
        edited = daemon.http.put(
            f"/tasks/{spoken}/result", json={"segments": theirs}, headers={"If-Match": tag}
        )
        edited.raise_for_status()
        page.get_by_role("button", name="Save").click()

        expect(page.get_by_role("status").filter(has_text="read it again")).to_be_visible()
        expect(page.get_by_label("Text at 0:00")).to_have_value("Mine")
        assert daemon.result(spoken).strip() == "Theirs"
        daemon.http.delete(f"/tasks/{spoken}/result", headers={"If-Match": edited.headers["etag"]})


@pytest.mark.parametrize("name", FORMATS)
def test_the_transcript_is_taken_along_in_each_format(task_page, name):
    with task_page.expect_download() as started:
        task_page.get_by_role("link", name=name, exact=True).click()

    assert started.value.suggested_filename.startswith("inauguration.")
    assert re.search(FORMATS[name], started.value.path().read_text())


def test_the_audio_is_taken_along_as_it_came(task_page, jfk):
    with task_page.expect_download() as started:
        task_page.get_by_role("link", name="Audio", exact=True).click()

    assert started.value.path().read_bytes() == jfk.read_bytes()


def test_the_timeline_tells_how_it_went(task_page):
    story = task_page.get_by_role("region", name="Timeline").get_by_role("listitem")

    expect(story.first).to_contain_text("Submitted")
    expect(story.filter(has_text="Decoded and cut into chunks by worker")).to_have_count(1)
    expect(story.filter(has_text="Chunk 1 done by worker")).to_have_count(1)
    expect(story.last).to_contain_text("Completed")


def test_a_task_that_waits_says_why(page, paused, clip):
    before = paused.queued(clip, name="urgent.wav", plan="PRO", tenant="other")
    task_id = paused.queued(clip, name="patient.wav", plan="FREE", tenant="patience")
    page.goto(f"#/tasks/{task_id}")
    why = page.get_by_role("region", name="Why it waits")

    expect(why).to_contain_text("Nothing is handed out until somebody resumes.")
    expect(why).to_contain_text("1 task before it in line")
    expect(why).to_contain_text("1 task: 1 of priority 5")
    expect(why).to_contain_text("0 of 1 at work")
    page.get_by_label("Priority").fill("90")
    page.get_by_label("Priority").press("Enter")
    expect(page.get_by_role("main")).to_contain_text("1st in line")
    for waiting in (before, task_id):
        paused.http.delete(f"/tasks/{waiting}").raise_for_status()


def test_a_failed_task_says_what_can_be_done_and_is_run_again(page, daemon, broken):
    before = daemon.task(broken)["finished_at"]
    page.goto(f"#/tasks/{broken}")
    expect(page.get_by_role("main")).to_contain_text("Give it more timeout_seconds")
    page.get_by_role("button", name="Retry").click()

    expect(page.get_by_text("It is queued again")).to_be_visible()
    daemon.until(lambda: daemon.task(broken)["finished_at"] not in (None, before), 60)
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("Run again by hand")


def test_no_retry_is_offered_of_what_cannot_run_again(page, daemon, tmp_path):
    noise = tmp_path / "noise.mp3"
    noise.write_bytes(bytes(range(256)) * 100)
    task_id = daemon.queued(noise)
    daemon.finished(task_id)
    daemon.until(lambda: not daemon.task(task_id)["audio_kept"])
    page.goto(f"#/tasks/{task_id}")

    expect(page.get_by_role("main")).to_contain_text("Its audio is not kept.")
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    page.goto("#/tasks")
    page.get_by_label("Select noise.mp3").check()
    bar = page.get_by_role("toolbar", name="Selected tasks")
    expect(bar).to_contain_text("1 task selected")
    expect(bar.get_by_role("button", name="Retry")).to_have_count(0)


def test_what_was_searched_for_as_a_phrase_is_marked_from_where_it_was_found(page, spoken):
    page.goto(f"#/tasks/{spoken}?q=%22ask+not%22")

    marks = page.get_by_role("region", name="Transcript").locator("mark")
    expect(marks.first).to_be_visible()
    assert {text.lower() for text in marks.all_inner_texts()} == {"ask", "not"}


def test_a_doubtful_word_says_so_to_who_cannot_see_its_underline(page, daemon, clip):
    task_id = daemon.queued(clip, name="cut off.wav", word_timestamps="true")
    daemon.finished(task_id)
    segments = json.loads(daemon.result(task_id, "json"))["segments"]
    doubtful = [word for segment in segments for word in segment["words"] if word["probability"] < 0.5]
    page.goto(f"#/tasks/{task_id}")
    read = page.locator(".segments")
    expect(read).to_be_visible()

    assert read.aria_snapshot().count("(uncertain)") == len(doubtful) > 0
    page.get_by_label("Mark uncertain words").uncheck()
    assert "(uncertain)" not in read.aria_snapshot()


def test_an_emptied_priority_changes_nothing(page, paused, clip):
    task_id = paused.queued(clip, name="important.wav", priority=7)
    page.goto(f"#/tasks/{task_id}")
    field = page.get_by_label("Priority")
    for given, stands in (("", "7"), ("1000", "1000"), ("8", "8")):
        field.fill(given)
        field.press("Enter")
        expect(field).to_have_value(stands)

    expect(page.get_by_text("The priority is changed")).to_have_count(1)
    assert paused.task(task_id)["priority"] == 8
    paused.http.delete(f"/tasks/{task_id}").raise_for_status()

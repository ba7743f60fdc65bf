"""The dashboard, as a person uses it: in a real browser, on a real daemon, with real weights."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, drop

_PLAYED = """to => new Promise((done) => {
  const look = () => document.querySelector('audio').currentTime > to ? done() : setTimeout(look, 50);
  look();
})"""
pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def spoken(daemon, jfk):
    """A task that is completed."""
    task_id = daemon.queued(jfk, name="inauguration.wav", word_timestamps="true", beam_size=1)
    assert daemon.finished(task_id)["status"] == "completed"
    return task_id


@pytest.fixture(scope="module")
def broken(daemon, clip):
    """A task that failed: it had no time."""
    task_id = daemon.queued(clip, name="hurried.wav", timeout_seconds=0.001)
    assert daemon.finished(task_id)["status"] == "failed"
    return task_id


def test_a_file_that_is_dropped_is_transcribed_before_ones_eyes(page, clip):
    page.get_by_role("heading", name="Overview").wait_for()
    drop(page, clip, "dropped.wav")

    uploads = page.get_by_role("region", name="Uploads")
    expect(uploads.get_by_text("completed")).to_be_visible()
    uploads.get_by_role("link", name="dropped.wav").click()
    expect(page.get_by_role("heading", name="dropped.wav")).to_be_focused()
    expect(page.get_by_role("region", name="Transcript")).to_contain_text("my fellow")


def test_the_list_follows_a_task_to_its_end(page, daemon, clip):
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tasks").click()
    page.get_by_role("heading", name="Tasks").wait_for()
    expect(page.get_by_text("Live")).to_be_visible()
    daemon.queued(clip, name="followed.wav")

    row = page.get_by_role("row").filter(has_text="followed.wav")
    expect(row).to_contain_text("completed")


def test_the_transcript_follows_the_audio_and_leads_to_any_place_in_it(page, spoken):
    page.goto(f"#/tasks/{spoken}")
    sentences = page.locator(".segments > li")
    begins = float(sentences.last.get_attribute("data-start"))
    sentences.last.get_by_role("button").click()

    page.evaluate(_PLAYED, begins + 0.3)
    expect(sentences.last).to_have_attribute("aria-current", "true")
    expect(sentences.last.locator("span.now")).to_have_count(1)


def test_a_task_is_found_and_the_back_button_leads_back(page, spoken):
    page.keyboard.press("/")
    page.get_by_role("searchbox").fill("inaugur")
    expect(page).to_have_url(re.compile("q=inaugur"))
    page.get_by_role("link", name="inauguration.wav").click()
    page.get_by_role("heading", name="inauguration.wav").wait_for()
    page.go_back()

    expect(page.get_by_role("searchbox")).to_have_value("inaugur")
    expect(page.locator("[data-row]")).to_have_count(1)


def test_a_failed_task_is_run_again(page, daemon, broken):
    before = daemon.task(broken)["finished_at"]
    page.goto(f"#/tasks/{broken}")
    expect(page.get_by_role("main")).to_contain_text("failed")
    page.get_by_role("button", name="Retry").click()

    expect(page.get_by_text("It is queued again")).to_be_visible()
    daemon.until(lambda: daemon.task(broken)["finished_at"] not in (None, before), 60)


def test_the_list_is_walked_by_the_keyboard_and_help_is_a_key_away(page, spoken, broken):
    page.goto("#/tasks")
    page.locator("[data-row]").nth(1).wait_for()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("[data-row]").nth(1)).to_be_focused()
    page.keyboard.press("x")
    expect(page.get_by_role("toolbar", name="Selected tasks")).to_contain_text("1 task selected")

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_who_chose_dark_sees_it_from_the_first_moment_on(page):
    button = page.get_by_role("button", name="Colours")
    button.click()
    button.click()
    page.reload()

    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 21)"

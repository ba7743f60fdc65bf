"""The dashboard, as a person uses it: in a real browser, on a real daemon, with real weights."""

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, drop

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


def test_a_file_that_is_dropped_is_transcribed_before_ones_eyes(page, clip):
    page.get_by_role("heading", name="Overview").wait_for()
    drop(page, clip, "dropped.wav")

    uploads = page.get_by_role("region", name="Uploads")
    expect(uploads.get_by_text("completed")).to_be_visible()
    uploads.get_by_role("link", name="dropped.wav").click()
    expect(page.get_by_role("heading", name="dropped.wav")).to_be_focused()
    expect(page.get_by_role("region", name="Transcript")).to_contain_text("my fellow")


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


def test_the_memory_of_gpus_is_a_chart_of_the_day_where_there_are_any(page):
    point = dict.fromkeys(("wait_p50", "wait_p95", "real_time_factor"))
    point |= dict.fromkeys(("queued", "processing", "done", "failed", "tasks_per_minute", "busy"), 0)
    point |= dict.fromkeys(("audio_seconds_per_second", "rss_bytes", "free_bytes"), 0)
    points = [{**point, "at": f"2026-11-28T0{n}:00:00Z", "gpu_bytes": n * 2**30} for n in (1, 5)]
    expect(page.get_by_text("Memory of the GPU")).to_have_count(0)
    page.route("**/stats/history*", lambda route: route.fulfill(json={"step_seconds": 360, "points": points}))
    page.reload()

    day = page.get_by_role("region", name="The last 24 hours")
    expect(day).to_contain_text("Memory of the GPU")
    expect(day).to_contain_text("GPU memory: 5 GiB at last, between 1 GiB and 5 GiB.")

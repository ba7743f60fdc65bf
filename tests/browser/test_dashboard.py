"""The dashboard, as a person uses it: in a real browser, on a real daemon, with real weights."""

import asyncio
import contextlib
import json
import queue
import threading
from functools import partial
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, drop, watched
from tests.flaky import Flaky, Turn

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


@pytest.mark.parametrize("place", ["tasks/%E0%A4%A", "%", "constructor"])
def test_an_address_that_is_none_leads_to_a_page_that_says_so(page, place):
    page.goto("about:blank")
    page.goto(f"#/{place}")

    expect(page.get_by_role("heading", level=1, name="Nothing here")).to_be_visible()


@contextlib.contextmanager
def between(daemon):
    """A network that does what its turn says to all connections, and the daemon's address in it."""
    turn, ready = Turn(), queue.SimpleQueue()

    async def carry():
        flaky = Flaky(urlsplit(daemon.url).port)
        flaky.turns = [turn] * 100
        async with flaky.listening():
            ended = asyncio.Event()
            ready.put((flaky.url, partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)))
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(carry()))  # which ends what still hangs on
    thread.start()
    url, end = ready.get(timeout=30)
    try:
        yield url, turn
    finally:
        end()
        thread.join()


def named(daemon, name):
    """How many of the last tasks have it. The search reads a name a moment later than the list."""
    return [task["audio"]["name"] for task in daemon.get("/tasks", limit=100)["tasks"]].count(name)


def test_an_upload_whose_answer_is_lost_is_one_task_once_it_is_sent_again(chromium, daemon, clip):
    with between(daemon) as (url, turn), watched(chromium, url, lost=True) as page:
        page.goto(url)
        page.get_by_role("heading", name="Overview").wait_for()
        page.route("**/events", lambda route: route.abort())
        turn.swallow = True
        drop(page, clip, "twice.wav")
        uploads = page.get_by_role("region", name="Uploads")
        expect(uploads).to_contain_text("not known whether it arrived")
        assert named(daemon, "twice.wav") == 1
        turn.swallow = False
        uploads.get_by_role("button", name="Send again: twice.wav").click()

        expect(uploads.get_by_role("link", name="twice.wav")).to_be_visible()
        assert named(daemon, "twice.wav") == 1


def test_many_that_fail_together_are_asked_for_once(page, daemon, broken):
    failed = json.dumps({"type": "task", "task": daemon.task(broken)})
    events = "retry: 3600000\n\n" + f"data: {failed}\n\n" * 50
    asked, streams = [], []
    page.route("**/events", lambda route: streams.append(route))
    page.on("request", lambda request: asked.append(request.url) if "status=failed" in request.url else None)
    page.reload()
    expect(page.get_by_role("region", name="Recent failures")).to_contain_text("hurried.wav")

    streams[-1].fulfill(content_type="text/event-stream", body=events)
    while len(asked) < 2:
        page.wait_for_timeout(50)
    assert len(asked) < 5


def test_whether_the_page_is_connected_is_announced(page):
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()

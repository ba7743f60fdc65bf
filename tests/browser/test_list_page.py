"""The list of tasks: found, walked through, followed; and many of them at once."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=PATIENCE_MS)


def test_the_list_follows_a_task_to_its_end(page, daemon, clip):
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tasks").click()
    page.get_by_role("heading", name="Tasks").wait_for()
    expect(page.get_by_text("Live")).to_be_visible()
    daemon.queued(clip, name="followed.wav")

    row = page.get_by_role("row").filter(has_text="followed.wav")
    expect(row).to_contain_text("completed")


def test_a_task_is_found_by_its_name_and_the_back_button_leads_back(page, spoken):
    page.keyboard.press("/")
    page.get_by_role("searchbox").fill("inaugur")
    expect(page).to_have_url(re.compile("q=inaugur"))
    page.get_by_role("link", name="inauguration.wav").click()
    page.get_by_role("heading", name="inauguration.wav").wait_for()
    page.go_back()

    expect(page.get_by_role("searchbox")).to_have_value("inaugur")
    expect(page.locator("[data-row]")).to_have_count(1)


def test_a_task_is_found_by_what_is_said_and_opened_where_it_is_said(page, daemon, spoken):
    daemon.until(lambda: daemon.get("/tasks", q="fellow americans")["tasks"])
    page.goto("#/tasks")
    page.get_by_role("searchbox").fill("can do for")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="inauguration.wav"))
    expect(row.locator("mark").first).to_have_text(re.compile("can", re.IGNORECASE))
    row.get_by_role("link").click()

    expect(page.get_by_role("region", name="Transcript").locator("mark").first).to_be_visible()


def test_a_search_that_another_one_replaces_is_given_up(page):
    page.goto("#/tasks")
    page.locator("[data-row]").first.wait_for()
    page.route(re.compile(r"/tasks\?q=mayhem"), lambda route: None)  # its answer never comes
    with page.expect_event("requestfailed", lambda request: "q=mayhem" in request.url):
        with page.expect_request(re.compile("q=mayhem")):
            page.get_by_role("searchbox").fill("mayhem")
        page.get_by_role("searchbox").fill("zebrafinch")

    expect(page.get_by_role("heading", name="Nothing found for “zebrafinch”")).to_be_visible()


def test_of_what_is_not_there_the_page_says_so(page):
    page.goto("#/tasks?q=zebrafinch")

    expect(page.get_by_role("heading", name="Nothing found for “zebrafinch”")).to_be_visible()


def test_those_that_are_chosen_are_cancelled_together(page, paused, clip):
    ids = [paused.queued(clip, name=f"batch {n}.wav") for n in range(3)]
    page.goto("#/tasks?status=queued")
    for name in ("batch 0.wav", "batch 2.wav"):
        page.get_by_label(f"Select {name}").check()
    page.get_by_role("toolbar", name="Selected tasks").get_by_role("button", name="Cancel 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel them").click()

    expect(page.get_by_text("2 tasks cancelled")).to_be_visible()
    assert [paused.task(task_id)["status"] for task_id in ids] == ["cancelled", "queued", "cancelled"]
    paused.http.delete(f"/tasks/{ids[1]}")


def test_all_that_fit_the_list_are_run_again(page, paused, clip):
    ids = [paused.queued(clip, name=f"of many {n}.wav", tenant="many") for n in range(3)]
    for task_id in ids:
        paused.http.delete(f"/tasks/{task_id}").raise_for_status()
    page.goto("#/tasks?status=cancelled&tenant=many")
    page.get_by_role("button", name="Retry all that were cancelled").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry all that were cancelled").click()

    expect(page.get_by_text("3 tasks queued again")).to_be_visible()
    assert [paused.task(task_id)["status"] for task_id in ids] == ["queued"] * 3
    page.goto("#/tasks?status=queued&tenant=many")
    page.get_by_role("button", name="Cancel all that wait").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel all that wait").click()
    expect(page.get_by_text("3 tasks cancelled")).to_be_visible()


def test_who_waits_is_seen_by_priority_and_by_tenant(page, paused, clip):
    ids = [paused.queued(clip, tenant=f"tenant {n}".replace(" ", "-"), plan="PRO") for n in range(9)]
    page.goto("#/")
    waiting = page.get_by_role("region", name="Waiting")

    by_tenant = waiting.get_by_role("table", name="By tenant")
    expect(waiting.get_by_role("table", name="By priority")).to_contain_text("9")
    expect(by_tenant.get_by_role("row")).to_have_count(9)
    expect(by_tenant.get_by_role("row").last).to_contain_text("1 more")
    for task_id in ids:
        paused.http.delete(f"/tasks/{task_id}")


def test_a_page_of_the_list_is_whole_and_an_older_one_is_read_from_its_top(page, paused, clip):
    for n in range(51):
        paused.queued(clip, name=f"page {n}.wav", tenant="pages")
    page.goto("#/tasks?tenant=pages")
    expect(page.locator("[data-row]")).to_have_count(50)
    page.get_by_role("link", name="Older").click()

    expect(page.locator("[data-row]")).to_have_text(["page 0.wav"])
    assert page.evaluate("scrollY") == 0
    all_of_them = {"action": "cancel", "filter": {"tenant": "pages"}}
    paused.http.post("/tasks/bulk", json=all_of_them).raise_for_status()


def test_a_task_of_the_list_is_shown_before_its_page_has_asked_for_it(page, spoken):
    page.goto("#/tasks?status=completed")
    row = page.locator("[data-row]", has_text="inauguration.wav")
    row.wait_for()
    page.route(f"**/tasks/{spoken}", lambda route: None)  # is never answered
    row.click()

    page.get_by_role("heading", name="inauguration.wav").wait_for()
    expect(page.get_by_role("region", name="Transcript")).to_contain_text("fellow Americans")

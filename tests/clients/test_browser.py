"""A real browser: EventSource, WebSocket, fetch; pages of our own and of others; the page /docs."""

import http.server
import threading

import pytest

from tests.clients import expected
from tests.clients.browser import chromium, new_page
from tests.clients.refusals import WRONG_KEY
from tests.e2e.daemon import serving

FOLLOW = """new Promise((resolve, reject) => {
  const segments = [], source = new EventSource('/tasks/%s/events');
  source.addEventListener('segment', event => segments.push(JSON.parse(event.data)));
  source.addEventListener('task', event => {
    const task = JSON.parse(event.data);
    if (%s) { source.close(); resolve({ task, segments }); }
  });
  source.onerror = () => source.readyState === EventSource.CLOSED && reject(new Error('refused'));
  setTimeout(() => reject(new Error('late')), 50000);
})"""
OVER = "task.finished_at"
RECONNECTS = """new Promise((resolve, reject) => {
  const source = new EventSource('/tasks/%s/events');
  source.onerror = () => source.readyState === EventSource.CLOSED && resolve('stopped');
  setTimeout(() => reject(new Error('asks on')), 50000);
})"""
WATCH = """new Promise((resolve, reject) => {
  const types = new Set(), socket = new WebSocket('ws://' + '%s' + '/ws', %s);
  socket.onmessage = event => {
    types.add(JSON.parse(event.data).type);
    if (types.has('stats')) { socket.close(); resolve([...types]); }
  };
  socket.onerror = () => reject(new Error('refused'));
  setTimeout(() => reject(new Error('late')), 30000);
})"""
# All that a WebSocket hears of a task, which is not begun before it listens.
HEAR = """new Promise((resolve, reject) => {
  const heard = [], socket = new WebSocket('ws://' + location.host + '/ws');
  socket.onopen = () => socket.send(JSON.stringify({ subscribe: ['%s'] }));
  socket.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.type === 'stats') fetch('/admin/resume', { method: 'POST' });
    else heard.push(message);
    if (message.task?.finished_at) { socket.close(); resolve(heard); }
  };
  socket.onerror = () => reject(new Error('refused'));
  setTimeout(() => reject(new Error('late')), 50000);
})"""
REFUSED = "(async () => { try { await %s; return 'let in' } catch { return 'refused' } })()"
SIGN_IN = """fetch('/session', {
  method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ key: '%s' }),
}).then(answer => answer.status)"""
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as host:
        yield host


@pytest.fixture
def page(browser):
    with new_page(browser) as page:
        yield page


@pytest.fixture(scope="module")
def other_site():
    """A page of somebody else, on this machine by accident."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture
def open_page(page, open_daemon):
    """Of the daemon that asks for no key."""
    page.go_to(f"{open_daemon.url}/health/live")
    return page


@pytest.fixture
def keyed_page(page, full_daemon):
    """Of the daemon that asks for one. Its cookie goes with it."""
    page.go_to(f"{full_daemon.url}/health/live")
    yield page
    page.evaluate("fetch('/session', { method: 'DELETE' })")


def watched(daemon, protocols="[]"):
    return WATCH % (daemon.url.removeprefix("http://"), protocols)


def test_an_eventsource_follows_a_task(open_page, open_daemon, jfk):
    task_id = open_daemon.queued(jfk, word_timestamps="true")
    told = open_page.evaluate(FOLLOW % (task_id, OVER))

    assert told["task"]["status"] == "completed"
    assert expected.says_jfk(" ".join(segment["text"] for segment in told["segments"]))
    spoken = [word["word"] for segment in told["segments"] for word in segment["words"]]
    assert expected.says_jfk(" ".join(spoken))


def test_an_eventsource_hears_why_a_task_failed(open_page, open_daemon, corpus):
    task_id = open_daemon.queued(corpus / "hostile" / "e08_video_only.mp4")
    told = open_page.evaluate(FOLLOW % (task_id, OVER))

    assert (told["task"]["status"], told["segments"]) == ("failed", [])
    assert told["task"]["error"]["code"] == "no_audio"


def test_an_eventsource_stops_asking_after_the_last_event(open_page, open_daemon, jfk):
    task_id = open_daemon.queued(jfk)

    assert open_page.evaluate(RECONNECTS % task_id) == "stopped"


def test_an_eventsource_asks_for_an_unknown_task_once(open_page):
    assert open_page.evaluate(RECONNECTS % "nosuch") == "stopped"


def test_an_eventsource_is_let_in_by_signing_in_with_the_right_key(keyed_page, full_daemon):
    """It can send no header: without the cookie it is turned away, and does not come again."""
    follow = FOLLOW % (full_daemon.waiting, "task.status")

    assert keyed_page.evaluate(REFUSED % follow) == "refused"
    assert keyed_page.evaluate(SIGN_IN % WRONG_KEY) == 401
    assert keyed_page.evaluate(REFUSED % follow) == "refused"
    assert keyed_page.evaluate(SIGN_IN % full_daemon.key) == 200
    assert keyed_page.evaluate(follow)["task"]["status"] == "queued"


def test_a_websocket_hears_what_happens(open_page, open_daemon):
    assert "stats" in open_page.evaluate(watched(open_daemon))


def test_a_websocket_hears_a_task_it_subscribed_to_from_beginning_to_end(open_page, open_daemon, jfk):
    open_daemon.http.post("/admin/pause").raise_for_status()
    task_id = open_daemon.queued(jfk, word_timestamps="true")
    heard = open_page.evaluate(HEAR % task_id)
    segments = [message for message in heard if message["type"] == "segment"]

    assert {message.get("task_id") or message["task"]["task_id"] for message in heard} == {task_id}
    assert heard[-1]["task"]["status"] == "completed"
    assert expected.says_jfk(" ".join(segment["text"] for segment in segments))
    assert expected.says_jfk(" ".join(word["word"] for segment in segments for word in segment["words"]))


@pytest.mark.parametrize("protocols", ["[]", "['whisperd']", f"['whisperd', 'bearer.{WRONG_KEY}']"])
def test_a_websocket_without_the_right_key_is_turned_away(keyed_page, full_daemon, protocols):
    assert keyed_page.evaluate(REFUSED % watched(full_daemon, protocols)) == "refused"


def test_a_websocket_with_the_right_key_is_let_in(keyed_page, full_daemon):
    protocols = f"['whisperd', 'bearer.{full_daemon.key}']"

    assert "stats" in keyed_page.evaluate(watched(full_daemon, protocols))


def test_a_page_of_another_site_gets_no_websocket_and_reads_no_answer(page, open_daemon, other_site):
    page.go_to(other_site)
    read = f"fetch('{open_daemon.url}/stats').then(answer => answer.text())"

    assert page.evaluate(REFUSED % watched(open_daemon)) == "refused"
    assert page.evaluate(REFUSED % read) == "refused"


@pytest.fixture
def allowing_daemon(tmp_path, weights, other_site):
    """It lets pages of the other site in, with its key."""
    settings = {"scopes": ("submit", "read"), "HTTP__ALLOWED_ORIGINS": other_site}
    with serving(tmp_path / "allowing", weights, **settings) as daemon:
        yield daemon


def test_a_page_that_is_allowed_reads_answers_and_sends_its_key(page, allowing_daemon, other_site):
    daemon = allowing_daemon
    page.go_to(other_site)
    key = f"{{headers: {{Authorization: 'Bearer {daemon.key}'}}}}"

    models = page.evaluate(f"fetch('{daemon.url}/v1/models', {key}).then(answer => answer.json())")
    heard = page.evaluate(watched(daemon, f"['whisperd', 'bearer.{daemon.key}']"))

    assert "tiny.en" in [model["id"] for model in models["data"]]
    assert "stats" in heard


def test_the_page_docs_shows_all_calls_without_a_network(page, open_daemon):
    page.go_to(f"{open_daemon.url}/docs")
    shown = page.evaluate("""new Promise(resolve => {
      const look = () => {
        const found = [...document.querySelectorAll('.opblock-summary-path')].map(one => one.innerText);
        found.length ? resolve(found) : setTimeout(look, 100);
      };
      look();
    })""")

    assert any("transcription" in path for path in shown)
    assert len(shown) > 20

"""A real browser: EventSource, WebSocket, fetch; pages of our own and of others; the page /docs."""

import http.server
import threading

import pytest

from tests.clients import expected
from tests.clients.browser import chromium, new_page
from tests.clients.conftest import a_key
from tests.e2e.daemon import Daemon

FOLLOW = """new Promise((resolve, reject) => {
  const texts = [], source = new EventSource('%s/tasks/%s/events');
  source.addEventListener('segment', event => texts.push(JSON.parse(event.data).text));
  source.addEventListener('task', event => {
    const task = JSON.parse(event.data);
    if (task.status === 'completed') { source.close(); resolve(texts.join(' ')); }
  });
  source.onerror = () => source.readyState === EventSource.CLOSED && reject(new Error('refused'));
  setTimeout(() => reject(new Error('late')), 50000);
})"""
RECONNECTS = """new Promise((resolve, reject) => {
  const source = new EventSource('/tasks/%s/events');
  source.onerror = () => source.readyState === EventSource.CLOSED && resolve('stopped');
  setTimeout(() => reject(new Error('asks on')), 50000);
})"""
WATCH = """new Promise((resolve, reject) => {
  const types = new Set(), socket = new WebSocket('ws://' + '%s' + '/ws'%s);
  socket.onmessage = event => {
    types.add(JSON.parse(event.data).type);
    if (types.has('stats')) { socket.close(); resolve([...types]); }
  };
  socket.onerror = () => reject(new Error('refused'));
  setTimeout(() => reject(new Error('late')), 30000);
})"""
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


def test_an_eventsource_follows_a_task(page, open_daemon, jfk):
    page.go_to(f"{open_daemon.url}/health/live")
    task_id = open_daemon.queued(jfk, beam_size=2)

    assert expected.says_jfk(page.evaluate(FOLLOW % ("", task_id)))


def test_an_eventsource_stops_asking_after_the_last_event(page, open_daemon, jfk):
    page.go_to(f"{open_daemon.url}/health/live")
    task_id = open_daemon.queued(jfk)

    assert page.evaluate(RECONNECTS % task_id) == "stopped"


def test_a_websocket_hears_what_happens(page, open_daemon):
    page.go_to(f"{open_daemon.url}/health/live")

    assert "stats" in page.evaluate(WATCH % (open_daemon.url.removeprefix("http://"), ""))


def test_a_page_of_another_site_gets_no_websocket_and_reads_no_answer(page, open_daemon, other_site):
    page.go_to(other_site)
    refused = "(async () => { try { await %s; return 'let in' } catch { return 'refused' } })()"

    assert page.evaluate(refused % (WATCH % (open_daemon.url.removeprefix("http://"), ""))) == "refused"
    assert page.evaluate(refused % f"fetch('{open_daemon.url}/stats').then(a => a.text())") == "refused"


def test_a_page_that_is_allowed_reads_answers_and_sends_its_key(
    page, other_site, tmp_path_factory, weights, jfk
):
    folder = tmp_path_factory.mktemp("allowed")
    daemon = Daemon(folder, weights, HTTP__ALLOWED_ORIGINS=other_site)
    daemon.key = a_key(folder / "data", "submit", "read")
    daemon.start()
    page.go_to(other_site)
    key = f"{{headers: {{Authorization: 'Bearer {daemon.key}'}}}}"

    models = page.evaluate(f"fetch('{daemon.url}/v1/models', {key}).then(answer => answer.json())")
    heard = page.evaluate(
        WATCH % (daemon.url.removeprefix("http://"), f", ['whisperd', 'bearer.{daemon.key}']")
    )

    assert "tiny.en" in [model["id"] for model in models["data"]]
    assert "stats" in heard
    assert daemon.stop() == 0


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

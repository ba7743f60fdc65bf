"""Transcribe many files at a time, and print what is said while it is transcribed.

    python examples/async_client.py *.mp3

Ctrl-C cancels what is not finished yet.
"""

import asyncio
import sys
from pathlib import Path

from whisperd.client import AsyncClient, ClientError, SegmentEvent, TaskEvent

AT_A_TIME = 8


async def follow(whisperd: AsyncClient, path: Path, places: asyncio.Semaphore) -> None:
    async with places:
        task = await whisperd.submit(path, word_timestamps=True)
        try:
            async for event in whisperd.events(task.task_id):  # over as many connections as it takes
                match event:
                    case SegmentEvent(segment=said):
                        print(f"{path.name} {said.start:8.2f}  {said.text}", flush=True)
                    case TaskEvent(task=task) if task.error:  # the others go on
                        print(f"{path.name}: {task.error.message}", file=sys.stderr)
        except asyncio.CancelledError:
            await whisperd.cancel(task.task_id)
            raise


async def main(paths: list[Path]) -> None:
    places = asyncio.Semaphore(AT_A_TIME)
    async with AsyncClient() as whisperd, asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(follow(whisperd, path, places), name=f"transcribe {path.name}")


if __name__ == "__main__":
    try:
        asyncio.run(main([Path(name) for name in sys.argv[1:]]))
    except* (ClientError, OSError) as errors:
        sys.exit("\n".join(str(error) for error in errors.exceptions))

"""What the tests of both brokers share: daemons that take messages, and what is asked of them."""

import asyncio
import contextlib
import json

from tests.e2e.daemon import Daemon


@contextlib.contextmanager
def hosts_of(url, folder, weights, roots):
    """Makes daemons that take messages from there; whatever still runs at the end is killed."""
    made = []

    def make(name="daemon", **settings):
        settings = {"BROKERS__URL": url, "HTTP__ALLOWED_ROOTS": roots, **settings}
        made.append(Daemon(folder / name, weights, WORKERS__COUNT=1, **settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


def asking_for(path):
    """The message that asks for it."""
    return json.dumps({"audio_path": str(path), "beam_size": 1}).encode()


def connected(daemon, timeout=60):
    daemon.until(lambda: daemon.health()["checks"]["broker"] == {"status": "ok", "message": None}, timeout)
    return daemon


def cut_off_while_it_settles(way_to, failing):
    """Takes a message and is cut off with its task on the disk: by us, or by another message that fails."""

    async def main():
        begun = asyncio.Event()

        async def settle(letter):
            if letter.body == b"fails":
                await begun.wait()
                raise ValueError
            begun.set()
            await asyncio.sleep(0.5)
            await letter.ack()
            return True

        async with way_to as way:
            taking = asyncio.create_task(way.take(settle, float))
            async with asyncio.timeout(60):
                await begun.wait()
            if not failing:
                taking.cancel()
            return await asyncio.gather(taking, return_exceptions=True)

    return asyncio.run(main())


def tasks(daemon):
    return daemon.get("/tasks")["tasks"]

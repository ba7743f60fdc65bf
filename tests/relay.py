"""The way to a server through a network that can begin to drop all packets, and closes nothing then."""

import asyncio
import contextlib
import signal
import subprocess
import sys


class Relay:
    """From a port of 127.0.0.1 to another one. A process of its own, so that the kernel can stop it."""

    def __init__(self, to):
        command = [sys.executable, "-P", __file__, str(to)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def drop(self):
        """Connections can still be made: that is the kernel's. Nobody reads or answers."""
        self._process.send_signal(signal.SIGSTOP)

    def pass_on(self):
        """Also what was sent meanwhile, as packets are that are sent again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self):
        self._process.kill()
        self._process.wait(30)
        self._process.stdout.close()


async def _relay(to):
    async def connected(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", to)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copied(reader, back), name="asking")
            group.create_task(_copied(there, writer), name="answering")

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _copied(reader, writer):
    with contextlib.suppress(ConnectionError):
        while said := await reader.read(65536):
            writer.write(said)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_relay(int(sys.argv[1])))

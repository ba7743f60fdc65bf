"""A real RabbitMQ, which comes and goes; and what its other clients do with it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import time

import aio_pika

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # without Debian's wrapper, which asks for its account
HELLO = b"AMQP\x00\x00\x09\x01"


class Rabbit:
    """RabbitMQ on a free port of 127.0.0.1; what it keeps is below `folder`, over stops."""

    def __init__(self, folder):
        self.folder = folder
        self.port, dist, names = free_ports(3)
        self.url = f"amqp://127.0.0.1:{self.port}"
        folder.mkdir()
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\n")
        self._environ = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(names),
            "RUNNING_UNDER_SYSTEMD": "true",  # no shell in between: signals reach it
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": f"tested{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        self._names = subprocess.Popen(["epmd"], env=self._environ)  # else it would start one that stays
        self._process = None

    def start(self):
        self._process = subprocess.Popen(
            [SERVER], env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240  # ten seconds of processor time
        while not self._answers():
            assert self._process.poll() is None, f"RabbitMQ ended with {self._process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return self

    def _answers(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as connection,
        ):
            connection.sendall(HELLO)
            return connection.recv(1) == b"\x01"
        return False

    def start_if_stopped(self):
        if self._process is None:
            self.start()

    def stop(self):
        """In order: what is to last is on the disk."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(240)
            finally:
                self._process.kill()
                self._process = None

    def close(self):
        try:
            self.stop()
        finally:
            self._names.kill()
            self._names.wait()

    def forget(self, *queues):
        async def forget(channel):
            for queue in queues:
                await channel.queue_delete(queue)

        self._run(forget)

    def send(self, body, message_id=None, queue="whisperd.tasks", reply_to=None, headers=None):
        async def send(channel):
            lasting = aio_pika.DeliveryMode.PERSISTENT
            asked = {"message_id": message_id, "reply_to": reply_to, "headers": headers}
            message = aio_pika.Message(body, delivery_mode=lasting, **asked)
            await channel.declare_queue(queue, durable=True, arguments=CLASSIC)
            await channel.default_exchange.publish(message, queue)

        self._run(send)

    def listen(self, queue, pattern):
        """Have what `whisperd.events` is told by such a name come into this queue."""

        async def listen(channel):
            exchange = await channel.declare_exchange("whisperd.events", "topic", durable=True)
            await (await channel.declare_queue(queue, durable=True)).bind(exchange, pattern)

        self._run(listen)

    def take(self, queue, timeout=330):  # a place that is away is tried again after five minutes at last
        """The next message that is there, or comes."""

        async def take(channel):
            there = await channel.get_queue(queue)
            async with asyncio.timeout(timeout):
                while (message := await there.get(fail=False)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await message.ack()
            return message

        return self._run(take)

    def waiting(self, queue):
        """How many messages are in it that nobody has been given."""

        async def count(channel):
            return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count

        return self._run(count)

    def _run(self, use):
        async def run():
            async with await aio_pika.connect(self.url) as connection:
                return await use(await connection.channel())

        return asyncio.run(run())


CLASSIC = {"x-queue-type": "classic"}


def free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]

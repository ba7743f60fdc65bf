"""A real Redis Cluster on 127.0.0.1: three masters, and a replica of the one that has the queue."""

import contextlib
import socket
import time
from random import randrange

from tests.redis_server import Redis

SLOTS = 16384
PREFIX = "{bull}"


class Cluster:
    """`owner` has the slot of PREFIX, `replica` follows it, `others` have the other slots.

    `settings`: of each node's command line, by a function of its folder.
    """

    def __init__(self, folder, settings=lambda folder: {}):
        folder.mkdir()
        self.nodes = [_node(folder / f"node{number}", settings) for number in range(4)]
        self.masters, self.replica = self.nodes[:3], self.nodes[3]

    def start(self):
        for node in self.nodes:
            node.start()
        self.slot = int(self.replica.cli("cluster", "keyslot", PREFIX))
        for number, node in enumerate(self.masters):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.cli("cluster", "addslotsrange", first, last)
            node.cli("cluster", "set-config-epoch", number + 1)  # else two may be equal, till they have met
        for node in self.nodes[1:]:
            node.cli("cluster", "meet", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        owner = self.owner = self.masters[self.slot * 3 // SLOTS]
        self.others = [node for node in self.masters if node is not owner]
        _until(lambda: all(len(self.known(node)) == 4 for node in self.nodes))
        _until(lambda: self.replica.cli("cluster", "replicate", identity(owner)) == "OK")
        _until(lambda: "master_link_status:up" in self.replica.cli("info", "replication"))
        _until(lambda: all(self._is_well(node) for node in self.nodes))
        return self

    def known(self, node):
        """The lines of its CLUSTER NODES of those that it has shaken hands with."""
        return [line for line in node.cli("cluster", "nodes").splitlines() if "handshake" not in line]

    def _is_well(self, node):
        has_replica = len(self.owner.cli("cluster", "replicas", identity(self.owner)).splitlines()) == 1
        return has_replica and "cluster_state:ok" in node.cli("cluster", "info")

    def replica_takes_over(self):
        """Waits for it."""
        _until(lambda: "role:master" in self.replica.cli("info", "replication"))
        _until(lambda: all("cluster_state:ok" in node.cli("cluster", "info") for node in self.others))

    def comes_back(self):
        """The owner that was killed, as the replica of what took over: they have changed places."""
        self.owner.start()
        self.owner, self.replica = self.replica, self.owner
        _until(lambda: "master_link_status:up" in self.replica.cli("info", "replication"))
        _until(lambda: all(self._is_well(node) for node in self.nodes))

    def begin_moving(self, to):
        """The slot of PREFIX: from now on what is not there yet is asked for elsewhere."""
        to.cli("cluster", "setslot", self.slot, "importing", identity(self.owner))
        self.owner.cli("cluster", "setslot", self.slot, "migrating", identity(to))

    def move(self, to, keys=1):
        """Some of what is in it. False: it was empty."""
        some = self.owner.cli("cluster", "getkeysinslot", self.slot, keys).splitlines()
        if some:
            self.owner.cli("migrate", "127.0.0.1", to.port, "", 0, 5000, "keys", *some)
        return bool(some)

    def end_moving(self, to):
        for node in (to, self.owner, *(node for node in self.others if node is not to)):
            node.cli("cluster", "setslot", self.slot, "node", identity(to))

    def stop(self):
        for node in self.nodes:
            node.stop()


def url_of(*ports, scheme="redis"):
    return f"{scheme}://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def identity(node):
    return node.cli("cluster", "myid")


def _node(folder, settings):
    bus = _a_port()
    enabled = {"cluster-enabled": "yes", "cluster-node-timeout": "3000", "cluster-port": str(bus)}
    node = Redis(folder, _a_port(), **enabled, **settings(folder))
    node.bus = bus
    return node


def _a_port():
    """None of those that the kernel gives to clients: it takes a while until the last node listens."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", randrange(10000, 32000))) as server,
        ):
            return server.getsockname()[1]


def _until(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def running(folder, settings=lambda folder: {}):
    cluster = Cluster(folder, settings)
    try:
        yield cluster.start()
    finally:
        cluster.stop()

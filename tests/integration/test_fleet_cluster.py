"""A fleet on a real cluster: led to the node that has the keys, and to the one that takes over when it dies."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from fleet_members import Peer, eventually

from resilience.testing.store import LoopbackStore, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST_SLOT = 16383


class Cluster:
    """Three masters, of which the first has nearly all slots, ours among them, and a replica of that one."""

    def __init__(self, stack: ExitStack) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port")
        buses = [str(free_port()) for _ in range(4)]
        self.nodes = [stack.enter_context(LoopbackStore(*options, bus)) for bus in buses]
        first, *_, replica = self.nodes
        ours = int(first.command("CLUSTER", "KEYSLOT", "{resilience}:revision")[1:])
        mine = dict.fromkeys(range(LAST_SLOT + 1), 0)
        mine[(ours + 1) % LAST_SLOT], mine[(ours + 2) % LAST_SLOT] = 1, 2
        for number, node in enumerate(self.nodes[:3]):
            node.command("CLUSTER", "ADDSLOTS", *(str(slot) for slot, owner in mine.items() if owner == number))
        for node, bus in zip(self.nodes[1:], buses[1:], strict=True):
            first.command("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus)
        assert eventually(lambda: all(self._sees_all(node) for node in self.nodes), 30)
        name = first.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()
        assert eventually(lambda: b"+OK" in replica.command("CLUSTER", "REPLICATE", name), 30)
        assert eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), 60)

    @staticmethod
    def _sees_all(node: LoopbackStore) -> bool:
        found = node.command("CLUSTER", "INFO")
        return b"cluster_state:ok" in found and b"cluster_known_nodes:4" in found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_whichever_node_is_named_all_are_led_to_the_one_that_has_the_keys_and_to_its_heir(stack: ExitStack) -> None:
    cluster = Cluster(stack)
    first, *others, replica = cluster.nodes
    peers = [Peer(node.url) for node in (first, others[0], replica)]
    for peer in peers:
        stack.callback(peer.close)
    assert eventually(lambda: all(peer.agent.online for peer in peers))
    peers[0].fail(5)
    assert eventually(lambda: all(peer.state == "open" for peer in peers))

    first.kill()
    assert eventually(lambda: all(peer.told("StorageDegraded") for peer in peers))
    assert eventually(lambda: all(peer.agent.online for peer in peers), 60), "the address of the first is dead"
    assert [peer.told("StorageRestored") for peer in peers] == [1, 1, 1]
    assert b"role:master" in replica.command("INFO", "replication")
    assert all(peer.state == "open" for peer in peers), "what was known is known still"
    peers[0].breaker.isolate("after the failover")
    assert eventually(lambda: all(peer.state == "isolated" for peer in peers))

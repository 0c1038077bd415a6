"""Shares: runtimes of one process that have the same store share one agent, and the last to leave closes it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from resilience.fork import renew_in_children
from resilience.settings.storage import split_address
from resilience.storage.agent import Agent

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.events import Event


class Share:
    """One runtime's part in the agent of its process.

    Args:
        address: The store's address.
        publish: Hears `StorageDegraded` and `StorageRestored`.
        rng: Where jitter comes from, if this is the first share.

    Raises:
        ConfigurationError: The redis client is not installed.
    """

    def __init__(self, address: str, publish: Callable[[Event], None], *, rng: random.Random | None = None) -> None:
        self.publish = publish
        self._is_closed = False
        self._joint = _JOINTS.enter(self, address, rng)

    @property
    def online(self) -> bool:
        """Whether what the fleet says counts here."""
        return self._joint.agent.online and not self._is_closed

    def join(self, breaker: CircuitBreaker, identity: str) -> None:
        """Let a breaker share its state under a name that is the same in every process."""
        self._joint.agent.join(breaker, identity, self)

    def start(self) -> None:
        """Start the agent if nobody has, and wait a moment for what the fleet knows."""
        agent = self._joint.agent
        known = agent.trouble
        if known is not None:  # told to the others before this one came
            self.publish(known)
        agent.start()

    def wake(self) -> None:
        """There are notes to deliver."""
        self._joint.agent.wake()

    def close(self, *, wait: bool = True) -> None:
        """Leave. Closing twice is no harm.

        Args:
            wait: Whether to wait, at most two seconds, where this was the last one. False takes no lock: the
                garbage collector calls it, anywhere.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if wait:
            _JOINTS.leave(self, self._joint, wait=True)
        else:
            self._joint.agent.send(lambda: _JOINTS.leave(self, self._joint, wait=False))


class Joint:
    """An agent, and those who share it."""

    def __init__(self, address: str, rng: random.Random | None) -> None:
        self.shares: list[Share] = []
        self.agent = Agent(address, self.publish, rng=rng)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for share in list(self.shares):
            share.publish(event)


class _Joints:
    """The agents of this process by their store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_store: dict[tuple[str, str], Joint] = {}
        renew_in_children(self)

    def enter(self, share: Share, address: str, rng: random.Random | None) -> Joint:
        """Find or make the agent of a store."""
        store = split_address(address)
        with self._lock:
            joint = self._by_store.get(store)
            if joint is None:
                joint = self._by_store[store] = Joint(address, rng)
            joint.shares.append(share)
            return joint

    def leave(self, share: Share, joint: Joint, *, wait: bool) -> None:
        """Take a share out; without any the agent ends."""
        with self._lock:
            if share in joint.shares:
                joint.shares.remove(share)
            is_last = not joint.shares
            if is_last:
                self._by_store = {store: other for store, other in self._by_store.items() if other is not joint}
        if is_last:
            joint.agent.close(wait=wait)
        else:
            joint.agent.part(share)

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()


_JOINTS: Final = _Joints()

"""One agent per process: runtimes with the same store share it, and the last to leave closes it."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from fleet_members import eventually

import resilience
from resilience import MultiProviderFallback
from resilience.errors import CircuitOpenError
from resilience.storage.share import _JOINTS
from resilience.testing.store import LoopbackStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.breaker.permit import Permit

ROW = "{resilience}:row:provider:openai"


@pytest.fixture
def make(store: LoopbackStore) -> Iterator[Callable[..., MultiProviderFallback]]:
    made: list[MultiProviderFallback] = []

    def runtime(url: str | None = None, **breaker: Any) -> MultiProviderFallback:
        config = {
            "storage": url or store.url,
            "warm": False,
            "breaker": {"jitter": 0.0, **breaker},
            "routes": {"chat": {"targets": ["openai/gpt-4o-mini"]}},
        }
        made.append(MultiProviderFallback(config, sinks=()))
        return made[-1]

    yield runtime
    for one in made:
        one.close()


def agents() -> int:
    return sum(thread.name == "resilience-fleet" for thread in threading.enumerate())


def members(store: LoopbackStore) -> int:
    return int(store.command("ZCARD", "{resilience}:members")[1:])


def state(runtime: MultiProviderFallback) -> str:
    return runtime.registry.providers["openai"].current_state


def test_two_runtimes_share_one_agent_and_what_it_knows(
    store: LoopbackStore, make: Callable[..., MultiProviderFallback]
) -> None:
    one, other = make(), make(store.url.replace("valkey://", "redis://") + "?prefix=resilience")
    assert (agents(), members(store)) == (1, 1)
    one.registry.providers["openai"].isolate("shared")
    assert eventually(lambda: state(other) == "isolated")
    other.registry.providers["openai"].reset()
    assert eventually(lambda: state(one) == "closed")


def test_another_prefix_is_another_fleet(store: LoopbackStore, make: Callable[..., MultiProviderFallback]) -> None:
    one, stranger = make(), make(f"{store.url}?prefix=team-a")
    assert agents() == 2
    one.registry.providers["openai"].isolate("ours alone")
    assert eventually(lambda: b"isolated" in store.command("GET", ROW))
    assert state(stranger) == "closed"


def test_a_runtime_that_comes_later_starts_with_what_is_known(make: Callable[..., MultiProviderFallback]) -> None:
    one = make()
    one.registry.providers["openai"].isolate("before")
    assert eventually(lambda: not one.registry.providers["openai"].seat.is_dirty)
    assert state(make()) == "isolated"


def test_a_provider_met_later_is_met_with_what_the_fleet_knows(make: Callable[..., MultiProviderFallback]) -> None:
    one, other = make(), make()
    one.registry.provider_breaker("late").isolate("before anybody else met it")
    assert eventually(lambda: not one.registry.providers["late"].seat.is_dirty)
    late = other.registry.provider_breaker("late")
    assert eventually(lambda: late.current_state == "isolated")


def test_who_leaves_goes_on_alone_and_the_last_one_ends_the_agent(
    store: LoopbackStore, make: Callable[..., MultiProviderFallback]
) -> None:
    one, other, outside = make(), make(), make(f"{store.url}?prefix=outside")
    outside.close()
    one.close()
    assert (agents(), members(store)) == (1, 1)
    other.registry.providers["openai"].isolate("after it left")
    assert eventually(lambda: b"after it left" in store.command("GET", ROW))
    assert state(one) == "closed", "it hears nothing any more"
    one.registry.providers["openai"].open()
    assert state(one) == "open"
    assert eventually(lambda: b"after it left" in store.command("GET", ROW)), "and tells nothing"
    other.close()
    assert (agents(), members(store)) == (0, 0)
    assert not _JOINTS._by_store


def test_a_lease_that_a_leaving_runtime_held_is_free_at_once(
    store: LoopbackStore, make: Callable[..., MultiProviderFallback]
) -> None:
    one, other = make(open_seconds=0.2, probe_lease_seconds=60), make(open_seconds=0.2, probe_lease_seconds=60)
    breaker = one.registry.providers["openai"]
    breaker.open()
    assert eventually(breaker.is_eligible), "it has the only lease"
    one.close()
    assert eventually(other.registry.providers["openai"].is_eligible)


def test_streams_that_only_began_let_in_no_more_than_the_successes_that_close(
    make: Callable[..., MultiProviderFallback],
) -> None:
    breakers = [make(open_seconds=0.5, probe_successes=2).registry.providers["openai"] for _ in range(2)]
    breakers[0].open()
    assert eventually(lambda: breakers[1].current_state != "closed")
    begun: list[Permit] = []

    def ask_both() -> int:
        for breaker in breakers:
            with suppress(CircuitOpenError):
                begun.append(breaker.acquire(timeout_seconds=60))
                begun[-1].first_content(0.1)
        return len(begun)

    assert eventually(lambda: ask_both() >= 4)
    assert not eventually(lambda: ask_both() > 4, seconds=1.5), "one permit, doubled twice"
    for permit in begun:
        permit.ignore()


def test_a_dropped_runtime_leaves_the_others_their_agent_and_the_last_one_no_thread(
    store: LoopbackStore,
) -> None:
    config = {"storage": store.url, "warm": False}
    kept, dropped = (MultiProviderFallback(config, sinks=()) for _ in range(2))
    del dropped
    gc.collect()
    shares = kept._share._joint.shares
    assert eventually(lambda: len(shares) == 1)
    assert (agents(), members(store)) == (1, 1)
    del kept
    gc.collect()
    assert eventually(lambda: agents() == 0)


def test_a_forked_child_has_one_agent_for_all_its_runtimes(
    store: LoopbackStore, make: Callable[..., MultiProviderFallback]
) -> None:
    one, other = make(), make()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            one.registry.providers["openai"].isolate("from the child")
            heard = eventually(lambda: state(other) == "isolated")
            os.write(write, f"{agents()} {heard} {members(store)}".encode())
        finally:
            os._exit(0)
    assert os.read(read, 32) == b"1 True 2"
    os.waitpid(child, 0)
    assert eventually(lambda: state(one) == state(other) == "isolated")


def test_trouble_is_told_to_each_runtime_once_also_to_one_that_comes_meanwhile() -> None:
    told: list[list[str]] = [[], []]

    def runtime(number: int, url: str) -> MultiProviderFallback:
        return MultiProviderFallback(
            {"storage": url, "warm": False}, sinks=[lambda event: told[number].append(type(event).__name__)]
        )

    with LoopbackStore() as store, runtime(0, store.url):
        store.kill()
        assert eventually(lambda: told[0])
        with runtime(1, store.url):
            assert told == [["StorageDegraded"], ["StorageDegraded"]]
            store.start()
            assert eventually(lambda: all(len(heard) == 2 for heard in told))
    assert told == [["StorageDegraded", "StorageRestored"]] * 2


def test_install_and_a_runtime_share_one_agent(
    store: LoopbackStore, make: Callable[..., MultiProviderFallback]
) -> None:
    one = make()
    config = {"storage": store.url, "warm": False, "routes": {"chat": {"targets": ["openai/gpt-4o-mini"]}}}
    resilience.install(config)
    try:
        assert (agents(), members(store)) == (1, 1)
    finally:
        resilience.uninstall()
    assert agents() == 1
    one.close()
    assert agents() == 0

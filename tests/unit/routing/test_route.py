"""Routes: what they hold and the order in which they are walked."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from resilience.errors import ConfigurationError
from resilience.routing import Route, RoutedTarget, rank
from resilience.settings import RouteSettings, TimeoutSettings
from resilience.upstream import CallTimeouts, Target


def place(name: str, order: int = 1, weight: float = 1.0, identity: str | None = None) -> RoutedTarget:
    target = Target(name, "p", name, identity=name if identity is None else identity)
    return RoutedTarget(
        target, order, weight, TimeoutSettings(attempt_seconds=9, first_token_seconds=4, stall_seconds=3)
    )


def names(places: object) -> str:
    return "".join(one.name for one in places)  # type: ignore[attr-defined]


def test_a_route_without_targets_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="route 'chat' has no targets; allowed: at least one"):
        Route("chat", (), RouteSettings())


def test_a_target_listed_twice_is_one_target_at_its_first_place() -> None:
    route = Route("chat", (place("a", 1, identity="x"), place("b", 2), place("a", 3, identity="x")), RouteSettings())
    assert names(route.targets) == "ab"
    assert names(rank(route, random.Random(1))) == "ab"


def test_targets_without_identity_are_told_apart() -> None:
    route = Route("chat", (place("a", 1, identity=""), place("b", 2, identity="")), RouteSettings())
    assert names(route.targets) == "ab"


def test_limits_are_made_once_from_the_timeouts() -> None:
    assert place("a").limits == CallTimeouts(9, 4, 3)


@pytest.mark.parametrize(("single", "name", "label"), [(False, "chat", "route 'chat'"), (True, None, "target 'a'")])
def test_a_label_names_it_in_sentences(single: bool, name: str | None, label: str) -> None:
    assert Route(name, (place("a"),), RouteSettings(), single).label == label


def test_distinct_orders_are_walked_in_order_without_chance() -> None:
    route = Route("chat", (place("c", 3), place("a", 1), place("b", 2)), RouteSettings())
    assert names(route.fixed) == "abc"
    assert rank(route, None) is route.fixed  # type: ignore[arg-type]  # chance is not asked


def test_equal_orders_share_the_load_by_weight_and_the_next_order_stays_behind() -> None:
    route = Route("chat", (place("a", 1, 3.0), place("b", 1, 1.0), place("z", 2, 100.0)), RouteSettings())
    rng = random.Random(3)
    walks = Counter(names(rank(route, rng)) for _ in range(4000))
    assert set(walks) == {"abz", "baz"}
    assert 0.72 < walks["abz"] / 4000 < 0.78


def test_every_place_of_the_shuffle_is_drawn_by_weight() -> None:
    route = Route(
        "chat", (place("a", 1, 2.0), place("b", 1, 1.0), place("c", 1, 1.0)), RouteSettings(strategy="weighted")
    )
    rng = random.Random(4)
    walks = Counter(names(rank(route, rng)) for _ in range(8000))
    assert len(walks) == 6
    # first a (1/2), then b or c at even odds; first b (1/4), then a with 2/3
    assert 0.22 < walks["abc"] / 8000 < 0.28
    assert 0.14 < walks["bac"] / 8000 < 0.19
    assert 0.06 < walks["bca"] / 8000 < 0.11


def test_a_target_without_weight_comes_after_those_with_one() -> None:
    route = Route("chat", (place("a", 1, 0.0), place("b", 1, 0.001)), RouteSettings())
    assert {names(rank(route, random.Random(seed))) for seed in range(50)} == {"ba"}

"""A target that refused made a circle of its error and the walk: the caller's frames lived until a collection.

With them lived all their locals: a stream that was dropped there kept its connection and its place.
"""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

import resilience
from resilience.testing import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = {
    "warm": False,
    "routes": {"chat": {"targets": ["openai/a", "anthropic/b"]}},
    "providers": {"openai": {"max_concurrency": 1}},
}
ASKED = [{"role": "user", "content": "hi"}]


class Held:
    """Something of the caller's."""


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collections")
def test_nothing_of_the_callers_outlives_a_call_in_which_a_target_refused() -> None:
    fb = resilience.MultiProviderFallback(CONFIG, upstream=ScriptedUpstream(), sinks=())
    stream = fb.completion("chat", ASKED, stream=True)  # takes the one place on openai

    def ask() -> tuple[weakref.ref[Held], str]:
        held = Held()
        answer = fb.completion("chat", ASKED)
        return weakref.ref(held), resilience.attempts(answer)[-1].target

    held, served = ask()
    assert (held(), served) == (None, "anthropic/b")
    stream.close()

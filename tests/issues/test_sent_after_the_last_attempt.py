"""A target that would not take up a broken answer was followed by another one although `max_attempts` were used up.

Such a refusal says nothing about the request, so the walk went on to whoever was next without looking at its count.
"""

from __future__ import annotations

import pytest

from resilience.errors import StreamInterruptedError
from resilience.outcome import Kind
from resilience.testing.upstream import Say
from resilience.testing.world import World

BROKEN = Say(chunks=("x ", "y "), then=Kind.INTERRUPTED)


def test_no_more_than_max_attempts_are_sent_after_a_refused_beginning() -> None:
    script = {"a": BROKEN, "b": Kind.BAD_REQUEST, "c": "fine"}
    world = World(script, "abc", max_attempts=2, stream={"on_interruption": "continue"})
    with pytest.raises(StreamInterruptedError) as raised:
        list(world.run(stream=True))
    assert (world.log, raised.value.partial) == ("ab", "x y ")


def test_within_max_attempts_a_refused_beginning_means_the_next_target() -> None:
    script = {"a": BROKEN, "b": Kind.BAD_REQUEST, "c": "z"}
    world = World(script, "abc", max_attempts=3, stream={"on_interruption": "continue"})
    assert "".join(chunk.text for chunk in world.run(stream=True)) == "x y z"
    assert world.log == "abc"

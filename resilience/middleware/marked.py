"""Marked calls: the engine's attempts, known to our callback by an id that all of LiteLLM's hooks and threads see."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from resilience.middleware.call import LiteLLMUpstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.upstream import Target

_PREFIX: Final = "resilience-"


class MarkedUpstream(LiteLLMUpstream):
    """`LiteLLMUpstream` whose calls carry a ``litellm_call_id`` that says whose they are.

    A context variable would not do: LiteLLM tells of a sync stream's end from a thread that has no context.
    """

    def _arguments(
        self, target: Target, params: Mapping[str, Any], seconds: float, *, stream: bool = False
    ) -> dict[str, Any]:
        arguments = super()._arguments(target, params, seconds, stream=stream)
        arguments["litellm_call_id"] = _mark(arguments)
        return arguments


def as_marked(params: Mapping[str, Any]) -> dict[str, Any]:
    """A call's keyword arguments, marked: whoever made it has asked both breakers and will tell them."""
    return {**params, "litellm_call_id": _mark(params)}


def _mark(params: Mapping[str, Any]) -> str:
    # Not a UUID of the system's: asking it lets other threads run first, half a millisecond of LiteLLM's logging.
    # And as bytes: to write so large a number takes four times as long.
    return _PREFIX + (params.get("litellm_call_id") or random.getrandbits(128).to_bytes(16).hex())


def is_marked(details: Mapping[str, Any]) -> bool:
    """Whether a call is an attempt of our engine, which has asked both breakers and will tell them.

    Args:
        details: A call's keyword arguments, or what LiteLLM tells its callbacks.
    """
    identity = details.get("litellm_call_id")
    return isinstance(identity, str) and identity.startswith(_PREFIX)

"""Options: what a caller asks of us among LiteLLM's parameters, taken out of them and checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import ConfigurationError
from resilience.execution.steps import CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS: Final = frozenset({"timeout", "num_retries", "max_retries", "priority", "validate"})
"""What `take_options` looks for: a call that names none of them needs it not."""
_DEFAULT_PRIORITY = 5


def take_options(
    params: dict[str, Any], *, stream: bool = False, validate: Callable[[str], bool] | None = None
) -> CallOptions:
    """Take ``timeout``, ``num_retries``, ``priority`` and ``validate`` out of ``params``.

    Args:
        params: The caller's parameters; what is left are LiteLLM's own.
        stream: Whether the answer comes in chunks.
        validate: Who judges answers unless the caller names somebody.

    Raises:
        ConfigurationError: One of them is of the wrong kind; it says which, and what is allowed.
    """
    seconds = _seconds(params.pop("timeout", None))
    retries, more = params.pop("num_retries", None), params.pop("max_retries", None)  # the SDKs' name for the same
    chosen = params.pop("validate", None)
    if chosen is not None and not callable(chosen):
        raise _refusal("validate", chosen, "a function that takes a text and says whether it will do")
    return CallOptions(
        stream=bool(stream),
        deadline_seconds=seconds,
        num_retries=_retries(more if retries is None else retries),
        priority=_priority(params.pop("priority", None)),
        validate=chosen or validate,
    )


def _seconds(timeout: Any) -> float | None:
    # httpx.Timeout, which LiteLLM takes as well, is told by its name: nothing is imported for it.
    given = getattr(timeout, "read", None) if type(timeout).__name__ == "Timeout" else timeout
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:
        raise _refusal("timeout", timeout, "seconds above 0, an httpx.Timeout, or None")
    return float(given) if given < math.inf else None


def _retries(given: Any) -> int | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 0):
        raise _refusal("num_retries", given, "a whole number, 0 or more, or None for the route's own")
    return given


def _priority(given: Any) -> int:
    if given is None:
        return _DEFAULT_PRIORITY
    if isinstance(given, bool) or not isinstance(given, int):
        raise _refusal("priority", given, "a whole number; lower is served first")
    return given


def _refusal(name: str, given: Any, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {given!r} is not allowed; allowed: {allowed}")


def chat_params(messages: Any, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a chat call.

    Raises:
        ConfigurationError: ``messages`` is no list.
    """
    if messages is None and "prompt_id" in params:
        messages = []  # a prompt that LiteLLM's prompt management holds
    if not isinstance(messages, (list, tuple)):
        # Its type and not its text: a prompt is in no error.
        raise ConfigurationError(
            f"messages: {type(messages).__name__} is not allowed; "
            'allowed: a list of messages, such as [{"role": "user", "content": "hi"}]'
        )
    params["messages"] = messages
    return params


def input_params(asked: Any, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a call that takes ``input``: the caller's own mapping, with it.

    Raises:
        ConfigurationError: There is none.
    """
    if asked is None:
        raise ConfigurationError("input: None is not allowed; allowed: a text or a list")
    params["input"] = asked
    return params

"""Wrapping, on request only: LiteLLM's bare sync functions behind both breakers. Put back by `unwrap`."""

from __future__ import annotations

import functools
import sys
import threading
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import litellm

from resilience.errors import RejectedError
from resilience.middleware.callbacks import GuardedCall, is_hasty, is_routed, seconds_of
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.middleware.marked import as_marked, is_marked
from resilience.middleware.recording import outcome_in
from resilience.middleware.translation import PROVIDER, refusal
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from resilience.middleware.callbacks import ResilienceCallback
    from resilience.upstream import Target

# LiteLLM's own functions call each other through the second module.
_WRAPPED: Final = {
    "completion": Operation.COMPLETION,
    "text_completion": Operation.COMPLETION,
    "embedding": Operation.EMBEDDING,
}
# How LiteLLM's async functions call the sync ones: the callback has asked already.
_ASYNC: Final = ("acompletion", "atext_completion", "aembedding")
_MOCKS: Final = ("mock_response", "mock_tool_calls", "mock_timeout")
_INSIDE: Final = threading.local()


def wrap(callback: ResilienceCallback) -> list[tuple[ModuleType, str, Any, Any]]:
    """Put a guard around each function. Who imported one before keeps the bare one.

    Returns:
        What to give to `unwrap`.
    """
    places = []
    for name, operation in _WRAPPED.items():
        for module in (litellm, import_module("litellm.main")):
            original = getattr(module, name)
            guarded = _guarded(original, operation, callback)
            setattr(module, name, guarded)
            places.append((module, name, original, guarded))
    return places


def unwrap(places: list[tuple[ModuleType, str, Any, Any]]) -> None:
    """Put the functions back, but for those that somebody else has replaced since."""
    for module, name, original, guarded in places:
        if getattr(module, name) is guarded:
            setattr(module, name, original)


def _guarded(original: Callable[..., Any], operation: Operation, callback: ResilienceCallback) -> Callable[..., Any]:
    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        target = None if getattr(_INSIDE, "call", False) else _target(args, kwargs, callback)
        if target is None:
            return original(*args, **kwargs)
        seconds = seconds_of(kwargs.get("timeout"))
        try:
            admission = callback.registry.admit(target, timeout_seconds=seconds)
        except RejectedError as rejected:
            raise refusal(rejected, target.model, routed=is_routed(kwargs)) from rejected
        call = GuardedCall(admission, operation, kwargs.get("stream") is True, hasty=is_hasty(seconds, kwargs))
        outer = sys.exception()
        _INSIDE.call = True
        try:
            with admission.held():
                answer = original(*args, **as_marked(kwargs))
        except BaseException as error:
            _settle_failure(call, error, outer, callback)
            raise
        finally:
            _INSIDE.call = False
        _settle(call, answer, operation, kwargs, callback)
        return answer

    return guarded


def _target(args: tuple[Any, ...], kwargs: Mapping[str, Any], callback: ResilienceCallback) -> Target | None:
    if is_marked(kwargs) or kwargs.get("fallbacks") or any(kwargs.get(name) for name in _MOCKS):
        return None
    if any(kwargs.get(name) for name in _ASYNC):
        return None
    model = kwargs.get("model") or (args[0] if args else None)
    if isinstance(model, str) and model.startswith(f"{PROVIDER}/"):
        return None
    return callback.target_of(model, kwargs)


def _settle(
    call: GuardedCall, answer: Any, operation: Operation, kwargs: Mapping[str, Any], callback: ResilienceCallback
) -> None:
    log = getattr(answer, "logging_obj", None)
    if call.stream and log is not None:
        # Its end is told by LiteLLM's log; given up before, the permit goes with the logging object.
        callback.follow(log, call)
        return
    if call.stream:
        call.give_back()
        return
    latency = callback.registry.monotonic() - call.admission.started
    call.settle(outcome_in(answer, operation, kwargs, latency))


def _settle_failure(
    call: GuardedCall, error: BaseException, outer: BaseException | None, callback: ResilienceCallback
) -> None:
    if not isinstance(error, Exception):
        call.give_back()
        return
    mark(error, Mark(outer=outer))
    latency = callback.registry.monotonic() - call.admission.started
    call.settle(replace(classify(error), latency_seconds=latency))

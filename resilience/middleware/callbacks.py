"""The callback: guards what LiteLLM does by itself. It rejects, takes out of the Router's rotation, and records."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary, ref

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.litellm_logging import Logging

from resilience.errors import RejectedError
from resilience.middleware.bare import BareTargets
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.middleware.marked import is_marked
from resilience.middleware.provider import PICTURE
from resilience.middleware.recording import outcome_in, outcome_of, record_sync
from resilience.middleware.translation import PROVIDER, refusal
from resilience.outcome import Outcome
from resilience.settings import TimeoutSettings
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from resilience.health.admission import Admission
    from resilience.health.registry import HealthRegistry
    from resilience.runtime import MultiProviderFallback
    from resilience.upstream import Target

# Calls that ask a model something. The rest (files, batches, threads ...) says nothing about a model's health.
_GUARDED: Final[Mapping[str, Operation | None]] = {
    "acompletion": Operation.COMPLETION,
    "atext_completion": Operation.COMPLETION,
    "aembedding": Operation.EMBEDDING,
    "aresponses": Operation.RESPONSES,
    "aimage_generation": Operation.IMAGE,
    "aimage_edit": None,
    "amoderation": None,
    "aspeech": None,
    "atranscription": None,
    "arerank": None,
    "anthropic_messages": None,
    "agenerate_content": None,
}
# Streams whose first chunk LiteLLM notes on the logging object. Of others nobody sees whether they hang: a long one
# would look like it, and take its target out of rotation. They pass unguarded.
_NOTED: Final = frozenset({"acompletion", "atext_completion", "aresponses"})
_METADATA: Final = ("metadata", "litellm_metadata")
_OURS: Final = f"{PROVIDER}/"
_REASONING: Final = ("reasoning_effort", "thinking", "verbosity")
_PICTURE: Final = ("n", "quality", "response_format", "size", "style")
_PATIENCE_SECONDS: Final = TimeoutSettings().attempt_seconds
_CALL: Final = "_resilience_call"
_SERVED: Final = "_resilience_served"
# By which name the logging object notes a stream's first chunk: with an underscore before LiteLLM 1.106.
_FIRST: Final = next(
    (name for name in ("update_completion_start_time", "_update_completion_start_time") if hasattr(Logging, name)), ""
)


class GuardedCall:
    """One guarded call. It lives on LiteLLM's logging object: when that is gone, so is the permit.

    Attributes:
        admission: The right to it.
        operation: What is asked, for judging an empty answer; None where nobody judges.
        stream: Whether the answer comes in chunks.
        hasty: Whether its caller gave it less time than a target has: a timeout then says nothing while others are
            answered.
        latency: Seconds to the first chunk of a stream.
        settled: Whether its outcome has been told; the first writer wins.
    """

    __slots__ = ("__weakref__", "admission", "hasty", "latency", "operation", "settled", "stream")

    def __init__(self, admission: Admission, operation: Operation | None, stream: bool, *, hasty: bool = False) -> None:
        self.admission = admission
        self.operation = operation
        self.stream = stream
        self.hasty = hasty
        self.latency: float | None = None
        self.settled = False

    def settle(self, outcome: Outcome) -> None:
        """Tell the outcome; the first writer wins."""
        self.settled = True
        self.admission.settle(outcome, shortened=self.hasty)

    def give_back(self) -> None:
        """Nothing can be said about health."""
        self.settled = True
        self.admission.give_back()

    def __deepcopy__(self, _: object) -> GuardedCall:
        return self  # LiteLLM copies its logging object for some loggers; the permit is one


class ResilienceCallback(CustomLogger):  # type: ignore[misc]  # LiteLLM's classes are Any to the checker
    """Breakers for bare async calls and async Routers.

    **Async** ``litellm.acompletion``, ``aembedding`` and their siblings are rejected before anything is sent while
    their target or provider is open. The error is LiteLLM's ``ServiceUnavailableError`` (``RateLimitError`` where
    a rate limit or a quota is the reason) *and* a `resilience.CircuitOpenError`, with a Retry-After, so that both
    kinds of ``except`` catch it. A Router leaves open deployments out of its rotation, and moves on to its
    fallbacks at once when a whole group is open.

    **Sync** bare calls cannot be rejected: LiteLLM runs no hook there that may say no. Their outcomes are recorded.

    Left alone: calls below our own engine, ``resilience/...`` models, mock responses, calls with ``fallbacks``.

    Args:
        source: Gives the runtime, at each call.
    """

    def __init__(self, source: Callable[[], MultiProviderFallback]) -> None:
        super().__init__()
        self._source = source
        self._targets = BareTargets()
        # LiteLLM's log events do not know the logging object; an id may serve several attempts, one at a time.
        self._by_id: WeakValueDictionary[str, GuardedCall] = WeakValueDictionary()

    # -- before the wire ------------------------------------------------------------------------------------

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Take a permit, or reject the call. Runs on every async call, after a Router has chosen."""
        name = getattr(call_type, "value", call_type)
        if name not in _GUARDED or kwargs.get("fallbacks") is not None or is_marked(kwargs):
            return None
        if kwargs.get("mock_response") or kwargs.get("mock_tool_calls") or kwargs.get("mock_timeout"):
            return None
        log = kwargs["litellm_logging_obj"]
        model = kwargs.get("model") or log.model
        if isinstance(model, str) and model.startswith(_OURS):
            return _with_picture(kwargs) if name == "aimage_generation" else _with_reasoning(kwargs)
        stream = kwargs.get("stream") is True
        if stream and name not in _NOTED:
            return None
        running: GuardedCall | None = getattr(log, _CALL, None)
        if running is not None and not running.settled:
            return None  # a bridge from one API to another: the same call once more in other words
        registry = self._source().registry
        target = self._targets.find(registry, model, kwargs)
        if target is None:
            return None
        seconds = seconds_of(kwargs.get("timeout"))
        try:
            admission = registry.admit(target, timeout_seconds=seconds)
        except RejectedError as rejected:
            routed = is_routed(kwargs)
            made = refusal(rejected, model, routed=routed)
            if routed or name != "acompletion" or not _retries(kwargs):
                raise made from rejected
            # LiteLLM would try again below its own hooks, straight to the wire. A mock of an error is not retried
            # if no retries are asked for, and it is raised as it is.
            made.__cause__ = rejected
            return {**kwargs, "mock_response": made, "num_retries": 0, "retry_policy": None}
        call = GuardedCall(admission, _GUARDED[name], stream, hasty=is_hasty(seconds, kwargs))
        setattr(log, _CALL, call)
        # One logging object may serve several attempts of a Router, one after the other.
        setattr(log, _SERVED, (target.name, served_by(kwargs)[1] + 1))
        if stream:
            self._by_id[kwargs["litellm_call_id"]] = call
            setattr(log, _FIRST, _FirstChunk(log, call, registry.monotonic))
        return None

    async def async_filter_deployments(self, model: str, healthy_deployments: Any, **_: Any) -> Any:
        """Leave the ejected deployments of a Router's group out of its rotation.

        Raises:
            RejectedError: All of them are out. The error is LiteLLM's as well; the Router moves on to the next
                group without asking again.
        """
        if not isinstance(healthy_deployments, list) or not healthy_deployments:
            return healthy_deployments
        registry = self._source().registry
        targets = [self._deployed(registry, deployment) for deployment in healthy_deployments]
        eligible = [
            deployment
            for deployment, target in zip(healthy_deployments, targets, strict=True)
            if target is None or registry.is_eligible(target)
        ]
        if eligible:
            return eligible
        rejections = [why for target in targets if target is not None and (why := registry.rejection(target))]
        if not rejections:  # one came back between the two looks
            return healthy_deployments
        first = min(rejections, key=lambda why: float("inf") if why.retry_after is None else why.retry_after)
        raise refusal(first, model, routed=True) from first

    # -- what came of it ------------------------------------------------------------------------------------

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, *_: Any
    ) -> None:
        """A whole answer has come."""
        call = _call_of(request_data)
        if call is None or call.settled:
            return
        admission, operation = call.admission, call.operation
        latency = self._source().registry.monotonic() - admission.started
        if operation is None:
            call.settle(Outcome.success(latency))
        else:
            call.settle(outcome_in(response, operation, request_data, latency))

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, *_: Any
    ) -> None:
        """An attempt failed, or a stream could not be opened."""
        call = _call_of(request_data)
        if call is None or call.settled:
            return
        details = request_data["litellm_logging_obj"].model_call_details
        sent = details.get("api_call_start_time") is not None
        mark(exception, Mark(sent=sent, outer=sys.exception() if sys.exception() is not exception else None))
        call.settle(self._timed(call, classify(exception, sent=sent)))

    async def async_log_success_event(self, kwargs: dict[str, Any], **_: Any) -> None:
        """A stream came to its end. A cached answer settles nothing: its permit goes with the logging object."""
        call = self._by_id.get(kwargs.get("litellm_call_id") or "")
        if call is not None and not call.settled and not kwargs.get("cache_hit"):
            call.settle(Outcome.success(self._latency(call)))

    async def async_log_failure_event(self, kwargs: dict[str, Any], **_: Any) -> None:
        """A stream broke; or LiteLLM itself stopped it before the wire, which says nothing."""
        call = self._by_id.get(kwargs.get("litellm_call_id") or "")
        if call is None or call.settled:
            return
        error = kwargs.get("exception")
        if isinstance(error, Exception) and kwargs.get("api_call_start_time") is not None:
            mark(error, Mark(sent=True, streaming=True))
            call.settle(self._timed(call, classify(error, sent=True)))
        else:
            call.give_back()

    # -- sync calls: recorded, never rejected ---------------------------------------------------------------

    def log_success_event(self, kwargs: dict[str, Any], response_obj: Any, **_: Any) -> None:
        """A sync call worked, or a sync stream came to its end."""
        self._record_sync(kwargs, response_obj)

    def log_failure_event(self, kwargs: dict[str, Any], **_: Any) -> None:
        """A sync call failed, or a sync stream broke."""
        self._record_sync(kwargs, None)

    def pre_call_check(self, deployment: Any) -> Any:
        """The only hook of a sync Router: a deployment that is out is rejected, and the Router moves on.

        Raises:
            RejectedError: As in the filter; the Router goes to its next group without asking a sibling.
        """
        registry = self._source().registry
        target = self._deployed(registry, deployment)
        if target is not None and not registry.is_eligible(target):
            rejected = registry.rejection(target)
            if rejected is not None:
                raise refusal(rejected, target.model, routed=True) from rejected
        return deployment

    # -- for those who wrap and rotate ------------------------------------------------------------------------

    @property
    def registry(self) -> HealthRegistry:
        """Whose breakers."""
        return self._source().registry

    def target_of(self, model: str | None, params: Mapping[str, Any]) -> Target | None:
        """The registered target of a call, None where there is nothing to guard."""
        return self._targets.find(self.registry, model, params)

    def is_out(self, deployment: Any) -> bool:
        """Whether a Router's deployment is ejected."""
        registry = self.registry
        target = self._deployed(registry, deployment)
        return target is not None and not registry.is_eligible(target)

    def follow(self, log: Any, call: GuardedCall) -> None:
        """Settle a stream's call when LiteLLM's log tells its end."""
        setattr(log, _CALL, call)
        self._by_id[log.litellm_call_id] = call

    # -- the parts ------------------------------------------------------------------------------------------

    def _record_sync(self, details: Mapping[str, Any], answer: Any) -> None:
        if not is_marked(details):
            record_sync(self._source().registry, self._targets, details, answer)
            return
        call = self._by_id.get(details.get("litellm_call_id") or "")
        if call is not None and not call.settled and call.operation is not None:
            outcome = outcome_of(details, answer, call.operation)
            if outcome is None:
                call.give_back()
            else:
                call.settle(outcome)

    def _deployed(self, registry: Any, deployment: Any) -> Target | None:
        params = deployment.get("litellm_params") if isinstance(deployment, dict) else None
        return self._targets.find(registry, params.get("model"), params) if isinstance(params, dict) else None

    def _timed(self, call: GuardedCall, outcome: Outcome) -> Outcome:
        return replace(outcome, latency_seconds=self._latency(call))

    def _latency(self, call: GuardedCall) -> float:
        if call.latency is not None:
            return call.latency
        return self._source().registry.monotonic() - call.admission.started


class _FirstChunk:
    """Stands in for the logging object's note of a stream's first chunk, and hears it."""

    __slots__ = ("_call", "_log", "_monotonic")

    def __init__(self, log: Any, call: GuardedCall, monotonic: Callable[[], float]) -> None:
        # It lives on the object itself: what it holds of it must not keep it alive.
        self._log = ref(log)
        self._call = ref(call)
        self._monotonic = monotonic

    def __call__(self, completion_start_time: datetime) -> None:
        log, call = self._log(), self._call()
        if log is None:
            return
        delattr(log, _FIRST)  # once is enough
        getattr(log, _FIRST)(completion_start_time=completion_start_time)
        if call is not None and not call.settled:
            call.latency = self._monotonic() - call.admission.started
            call.admission.first_content(call.latency)


def served_by(request: Mapping[str, Any]) -> tuple[str | None, int]:
    """The target that was asked last for a request, and how many attempts there were; None and 0 before the first.

    Args:
        request: A call's keyword arguments, or the Proxy's request.
    """
    found: tuple[str | None, int] = getattr(request.get("litellm_logging_obj"), _SERVED, (None, 0))
    return found


def _with_reasoning(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """LiteLLM refuses these for a provider that it does not know. Our targets' own refusal comes below."""
    given = [name for name in _REASONING if kwargs.get(name) is not None]
    if not given:
        return None
    return {**kwargs, "allowed_openai_params": [*(kwargs.get("allowed_openai_params") or ()), *given]}


def _with_picture(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """LiteLLM drops these for a provider that it does not know, without a word: they travel under a name of ours."""
    given = {name: kwargs[name] for name in _PICTURE if kwargs.get(name) is not None}
    return {**kwargs, PICTURE: given} if given else None


def _call_of(request_data: Mapping[str, Any]) -> GuardedCall | None:
    return getattr(request_data.get("litellm_logging_obj"), _CALL, None)


def seconds_of(timeout: Any) -> float | None:
    """A call's ``timeout`` as a number, None for what is none."""
    return timeout if isinstance(timeout, (int, float)) else None


def is_hasty(seconds: float | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether a caller gave a call less time than a target has. A Router's timeouts are its deployments' own."""
    return seconds is not None and seconds < _PATIENCE_SECONDS and not is_routed(kwargs)


def is_routed(kwargs: Mapping[str, Any]) -> bool:
    """Whether a Router made the call: its own retries are its own affair."""
    return any(isinstance(kwargs.get(name), dict) and "model_group" in kwargs[name] for name in _METADATA)


def _retries(kwargs: Mapping[str, Any]) -> bool:
    """Whether LiteLLM's wrapper would try the call again, below its hooks."""
    given = kwargs.get("num_retries")
    return bool(litellm.num_retries if given is None else given) or bool(kwargs.get("retry_policy"))

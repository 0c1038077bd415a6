"""Calls: one attempt is one request on the wire, through LiteLLM's own functions with all retries off."""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import httpx

from resilience.middleware.answers import is_empty, text_of
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.middleware.grafting import asks_plain_text, continued, graft, takes_prefill
from resilience.middleware.inside import failure_in
from resilience.middleware.stream import AsyncLiteLLMStream, LiteLLMStream
from resilience.outcome import Kind, Outcome
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.upstream import (
        AsyncStream,
        AttemptRecord,
        CallTimeouts,
        Delivered,
        Graft,
        SyncStream,
        Target,
    )


class _TruthyZero(int):
    """No retries, also where LiteLLM writes ``max_retries or DEFAULT_MAX_RETRIES`` (embeddings, images)."""

    def __bool__(self) -> bool:
        return True


_NO_RETRIES = _TruthyZero(0)
_RESPONSES = Operation.RESPONSES  # a member of an enumeration costs ten times a module's own name


class _WireTimeout(httpx.Timeout):
    """A timeout that does not tell its numbers.

    LiteLLM keeps its SDK clients, and with them the open connections, by the text of their timeout. Limits that
    a deadline has capped differ from call to call: each would pay for a client and a TLS handshake of its own.
    """

    def __repr__(self) -> str:
        return "Timeout(of the attempt)"


def _rounded_up(seconds: float) -> float:
    # For families that take plain seconds, the same reason: two digits are near enough, and never too early.
    if not 0.0 < seconds < math.inf:
        return seconds
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return round(math.ceil(round(seconds / step, 6)) * step, 6)


@lru_cache(maxsize=256)  # building one costs more than the rest of the arguments together; nobody changes it
def wire_timeout(seconds: float) -> httpx.Timeout:
    """A limit for each wait on the wire: connect, write, and each read."""
    timeout = _WireTimeout(seconds)
    timeout.read = _rounded_up(seconds)
    return timeout


class LiteLLMUpstream:
    """`resilience.upstream.Upstream` on LiteLLM.

    It looks LiteLLM's functions up at each call, so that instrumentation which replaces them is heard.
    """

    def __init__(self) -> None:
        import litellm  # noqa: PLC0415 (takes seconds; whoever builds this needs it now)

        self._litellm = litellm
        litellm.suppress_debug_info = True  # as its Router does: else it prints advice at every error to stdout
        # Without the extra `mcp`, LiteLLM fails on any `tools=`; no MCP tool can be meant then.
        self._without_mcp = importlib.util.find_spec("mcp") is None

    def call(self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts) -> Any:
        """Make one request and return LiteLLM's answer, or raise the provider's own exception."""
        outer = sys.exception()
        arguments = self._arguments(target, params, timeouts.attempt)
        try:
            answer = getattr(self._litellm, operation)(**arguments)
        except BaseException as error:
            mark(error, Mark(outer=outer))
            raise
        return answer if operation is not _RESPONSES else _told(answer, target)

    async def acall(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> Any:
        """The same for asyncio."""
        outer = sys.exception()
        arguments = self._arguments(target, params, timeouts.attempt)
        try:
            answer = await getattr(self._litellm, "a" + operation)(**arguments)
        except BaseException as error:
            mark(error, Mark(outer=outer))
            raise
        return answer if operation is not _RESPONSES else _told(answer, target)

    def open(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> SyncStream:
        """Make one streaming request.

        The wait for the answer's head is bounded by ``first_token``; each later one by the longer of
        ``first_token`` and ``stall``, since a blocking read cannot be told that the first token has come.
        """
        outer = sys.exception()
        arguments = self._arguments(target, params, timeouts.first_token, stream=True)
        try:
            answer = getattr(self._litellm, operation)(**arguments)
        except BaseException as error:
            mark(error, Mark(outer=outer))
            raise
        limit = max(timeouts.first_token, timeouts.stall)
        price = partial(self._price, target.model)
        return LiteLLMStream(
            answer,
            operation,
            limit,
            outer,
            mocked="mock_response" in arguments,
            price=price,
            first_seconds=timeouts.first_token,
        )

    async def aopen(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> AsyncStream:
        """The same for asyncio. The caller's own timers are stricter than the wire's."""
        outer = sys.exception()
        limit = max(timeouts.first_token, timeouts.stall)
        arguments = self._arguments(target, params, limit, stream=True)
        try:
            answer = await getattr(self._litellm, "a" + operation)(**arguments)
        except BaseException as error:
            mark(error, Mark(outer=outer))
            raise
        price = partial(self._price, target.model)
        return AsyncLiteLLMStream(answer, operation, outer, mocked="mock_response" in arguments, price=price)

    def classify(self, error: BaseException) -> Outcome:
        """Say what an exception means. Total: never raises."""
        return classify(error)

    def judge(self, answer: Any, operation: Operation, params: Mapping[str, Any]) -> Kind:
        """SUCCESS, or EMPTY for an answer that holds nothing."""
        return Kind.EMPTY if is_empty(answer, operation, params) else Kind.SUCCESS

    def cost_usd(self, answer: Any) -> float | None:
        """What an answer cost by LiteLLM's price map, None where it has no price."""
        return self._cost_usd(answer, _hidden_of(answer))

    def _cost_usd(self, answer: Any, hidden: Any) -> float | None:
        cost = hidden.get("response_cost") if isinstance(hidden, dict) else None
        if cost is None:
            try:
                cost = self._litellm.completion_cost(completion_response=answer)
            except Exception:  # noqa: BLE001 (LiteLLM raises a plain Exception for a model without a price)
                return None
        return float(cost) if isinstance(cost, (int, float)) else None

    def _price(self, model: str, answer: Any, usage: Any) -> float | None:
        told = getattr(usage, "cost", None)
        if isinstance(told, float):
            return told
        if hasattr(answer, "choices"):
            answer = self._litellm.ModelResponse(model=answer.model, usage=usage)
        try:
            cost = self._litellm.completion_cost(completion_response=answer, model=model)
        except Exception:  # noqa: BLE001 (LiteLLM raises a plain Exception for a model without a price)
            return None
        return float(cost) if isinstance(cost, (int, float)) else None

    def takes_prefill(self, target: Target) -> bool:
        """Whether a target may be given the beginning of its answer, by LiteLLM's model map."""
        return takes_prefill(target.model)

    def asks_plain_text(self, operation: Operation, params: Mapping[str, Any]) -> bool:
        """Whether a request asks for one text, half of which can be written on."""
        return asks_plain_text(operation, params)

    def continued(
        self, target: Target, operation: Operation, params: Mapping[str, Any], text: str
    ) -> Mapping[str, Any]:
        """The parameters that ask a target to write on after ``text``."""
        return continued(target, operation, params, text)

    def graft(self, operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> Graft:
        """What makes the pieces of a continuation fit on what was delivered."""
        return graft(operation, params, delivered)

    def text_of(self, answer: Any) -> str:
        """The answer's text, for validators."""
        return text_of(answer)

    def context_window(self, target: Target) -> int | None:
        """How many input tokens a target takes by LiteLLM's model map, None where nobody knows."""
        return _context_window(target.model)

    def attach(self, answer: Any, attempts: tuple[AttemptRecord, ...]) -> None:
        """Write the attempts into an answer's ``_hidden_params["resilience"]``, the last one with its cost."""
        hidden = _hidden_of(answer)
        if not isinstance(hidden, dict):
            hidden = {}
            try:
                answer._hidden_params = hidden  # noqa: SLF001 (LiteLLM's own place for such things)
            except (AttributeError, TypeError, ValueError):
                return  # a plain str or dict, as some callbacks make of an answer
        cost = self._cost_usd(answer, hidden)
        if cost is not None and attempts:
            attempts = (*attempts[:-1], attempts[-1].priced(cost))
        hidden["resilience"] = attempts

    def _arguments(
        self, target: Target, params: Mapping[str, Any], seconds: float, *, stream: bool = False
    ) -> dict[str, Any]:
        arguments = {**target.params, **params, "model": target.model}
        arguments["num_retries"] = 0
        arguments["max_retries"] = _NO_RETRIES
        arguments["timeout"] = wire_timeout(seconds)
        if stream:
            arguments["stream"] = True
        if self._without_mcp and arguments.get("tools"):
            arguments["_skip_mcp_handler"] = True
        if self._litellm.num_retries:
            # The sync path takes the global number for a given 0; a policy of zeros it believes.
            arguments["retry_policy"] = _no_retry_policy()
        return arguments


def _told(response: Any, target: Target) -> Any:
    """The answer, or the error that it says it is."""
    if (error := failure_in(response, target.model, target.provider.partition("/")[0])) is not None:
        raise error
    return response


def _hidden_of(answer: Any) -> Any:
    # Pydantic takes two microseconds to find a private attribute by its name, and none to tell where they are.
    private = getattr(answer, "__pydantic_private__", None)
    hidden = private.get("_hidden_params") if private else None
    return getattr(answer, "_hidden_params", None) if hidden is None else hidden


@lru_cache(maxsize=1)
def _no_retry_policy() -> Any:
    from litellm.types.router import RetryPolicy  # noqa: PLC0415 (litellm is loaded by whoever calls this)

    return RetryPolicy(**dict.fromkeys(RetryPolicy.model_fields, 0))


@lru_cache(maxsize=4096)
def _context_window(model: str) -> int | None:
    import litellm  # noqa: PLC0415 (loaded already; named here for a function without an instance)

    try:
        window = litellm.get_model_info(model).get("max_input_tokens")
    except Exception:  # noqa: BLE001 (LiteLLM raises a plain Exception for a model that it does not know)
        return None
    return window if isinstance(window, int) else None

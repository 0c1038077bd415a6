"""Strikes: makes LiteLLM fail on purpose, where its own mocks stand, so that everything above behaves as it does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import litellm
import litellm.main
import litellm.utils
from litellm.responses import main as responses_main
from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

from resilience.errors import ConfigurationError
from resilience.middleware.blows import await_, break_of, error_of, wait
from resilience.middleware.call import LiteLLMUpstream
from resilience.middleware.targets import derive_provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from resilience.middleware.blows import Blow

_TEXT: Final = "This answer breaks off before it is whole."
# What LiteLLM's own mock makes an error of: should a call come through after the end of its outage.
_STALE: Final = "litellm.InternalServerError"
_NUMBERS: Final = itertools.count(1)


@dataclass(slots=True)
class _Struck:
    """One call that is to fail."""

    blow: Blow
    family: str
    model: str
    limit: float | None = None
    text: str = _TEXT
    name: str | None = None
    logging: Any = None

    @property
    def is_async(self) -> bool:
        """Whether it was one of LiteLLM's async functions."""
        return bool(self.name) and str(self.name).startswith("a")


class _Mark(str):
    """A ``mock_response`` that says which call is struck."""

    __slots__ = ("struck",)
    struck: _Struck


class Strikes:
    """LiteLLM with its calls struck. Every call of its functions asks, however they were imported.

    Args:
        decide: Told a provider's name and a model, says what the call meets; None: the call is left alone.
    """

    def __init__(self, decide: Callable[[str, str], Blow | None]) -> None:
        self._decide = decide
        self._before: list[tuple[Any, str, Any, Any]] = []
        self._responses: dict[str, _Struck] = {}  # the Responses API copies the text of its mock

    def put_in(self) -> None:
        """Stand where LiteLLM's calls begin, and where its mocks would answer."""
        for place, name, make in (
            (litellm.utils, "function_setup", self._setting_up),
            (litellm.utils, "async_pre_call_deployment_hook", self._hooking),
            (litellm.main, "mock_completion", self._mocking_completion),
            (litellm.main, "mock_embedding", self._mocking_embedding),
            (responses_main, "mock_responses_api_response", self._mocking_response),
            (LiteLLMUpstream, "_arguments", self._making_arguments),
        ):
            before = getattr(place, name)
            ours = make(before)
            self._before.append((place, name, before, ours))
            setattr(place, name, ours)

    def take_out(self) -> None:
        """Leave nothing behind. Where somebody has wrapped us since, what is left only calls on."""
        for place, name, before, ours in reversed(self._before):
            if getattr(place, name) is ours:
                setattr(place, name, before)
        self._before.clear()
        self._responses.clear()

    # Where a call begins

    def _making_arguments(self, make: Any) -> Any:
        # A target's provider may have a name of its own, which LiteLLM never hears.
        def arguments(upstream: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            made = make(upstream, target, *args, **kwargs)
            if self._before and _derived(target.model, made) != target.provider:
                blow = self._decide(target.provider, target.model)
                if blow is not None:
                    made["mock_response"] = _marked(blow, target.model, made)
            return made

        return arguments

    def _setting_up(self, setup: Any) -> Any:
        # Of sync calls: nothing of theirs comes between this and the call itself.
        def set_up(name: str, rules: Any, started: Any, *args: Any, **kwargs: Any) -> Any:
            if self._before and not name.startswith("a"):
                self._consider(name, args[0] if args else kwargs.get("model"), kwargs)
            logging, kwargs = setup(name, rules, started, *args, **kwargs)
            self._log(kwargs, logging)
            return logging, kwargs

        return set_up

    def _hooking(self, hook: Any) -> Any:
        # Of async calls: after the hooks, so that an open breaker's no comes first. A mock they would not guard.
        async def hooked(kwargs: dict[str, Any], call_type: str) -> Any:
            log = kwargs.get("litellm_logging_obj")
            considered = dict(kwargs)
            model = kwargs.get("model") or getattr(log, "model", None)
            if not self._before or not self._consider(call_type, model, considered):
                return await hook(kwargs, call_type)
            found = await hook({name: value for name, value in kwargs.items() if name != "mock_response"}, call_type)
            if found.get("mock_response") is None:  # else somebody there has answered
                found["mock_response"] = considered["mock_response"]
                self._log(found, log)
            return found

        return hooked

    def _log(self, kwargs: dict[str, Any], logging: Any) -> None:
        struck = self._struck(kwargs.get("mock_response"))
        if struck is not None:
            struck.logging = logging

    def _consider(self, name: str, model: Any, kwargs: dict[str, Any]) -> bool:
        """Mark the call if it is to fail. Returns whether it is."""
        mark = kwargs.get("mock_response")
        if not isinstance(mark, _Mark):
            provider = _derived(model, kwargs)
            blow = None if provider is None else self._decide(provider, model)
            if blow is None:
                return False
            mark = _marked(blow, model, kwargs)
        if mark.struck.name is None:
            mark.struck.name = name
            if name.endswith("responses"):
                text = f"a resilience outage, number {next(_NUMBERS)}"
                self._responses[text] = mark.struck
                mark = _Mark(text)
                mark.struck = self._responses[text]
            kwargs["mock_response"] = mark
        return True

    def _struck(self, mock: Any) -> _Struck | None:
        return mock.struck if isinstance(mock, _Mark) else self._responses.get(mock) if isinstance(mock, str) else None

    # Where it would be answered

    def _mocking_completion(self, mocking: Any) -> Any:
        def mock(model: str, messages: Any, **options: Any) -> Any:
            struck = self._struck(options.get("mock_response"))
            if struck is None:
                return mocking(model, messages, **options)
            self._meet(struck)
            if struck.blow.empty:
                return mocking(model, messages, **{**options, "mock_response": litellm.ModelResponse(model=model)})
            if options.get("stream") and struck.blow.chunks is not None:
                return _broken_stream(struck, struck.blow.chunks, model, options)
            return _failing(struck)

        return mock

    def _mocking_embedding(self, mocking: Any) -> Any:
        def mock(model: str, mock_response: Any = None) -> Any:
            struck = self._struck(mock_response)
            if struck is None:
                return mocking(model=model, mock_response=mock_response)
            self._meet(struck)
            return _failing(struck)

        return mock

    def _mocking_response(self, mocking: Any) -> Any:
        def mock(mock_response: Any) -> Any:
            struck = self._responses.pop(mock_response, None)
            if struck is None:
                return mocking(mock_response=mock_response)
            self._meet(struck)
            return _failing(struck)

        return mock

    def _meet(self, struck: _Struck) -> None:
        struck.blow.told()
        if struck.logging is not None:  # so that the call counts as sent, as it would have been
            struck.logging.pre_call(input="", api_key="")


def _derived(model: Any, params: Any) -> str | None:
    try:
        return derive_provider(model, params) if isinstance(model, str) else None
    except ConfigurationError:
        return None  # LiteLLM will say it better


def _marked(blow: Blow, model: str, params: dict[str, Any]) -> _Mark:
    mark = _Mark(_STALE)
    family = (_derived(model, params) or "").partition("/")[0]
    mock = params.get("mock_response")
    mark.struck = _Struck(blow, family, model, _limit(params.get("timeout")), mock if isinstance(mock, str) else _TEXT)
    return mark


def _limit(timeout: Any) -> float | None:
    found = timeout.read if isinstance(timeout, httpx.Timeout) else timeout
    return float(found) if isinstance(found, (int, float, str)) else None


def _failing(struck: _Struck) -> Any:
    """Fail, or for an async call a coroutine that does."""
    if struck.is_async:
        return _afail(struck)
    if struck.blow.waits:
        wait(struck.blow, struck.limit)
    raise error_of(struck.family, struck.model, struck.blow)


async def _afail(struck: _Struck) -> Any:
    if struck.blow.waits:
        await await_(struck.blow, struck.limit)
    raise error_of(struck.family, struck.model, struck.blow)


def _broken_stream(struck: _Struck, chunks: int, model: str, options: dict[str, Any]) -> Any:
    """LiteLLM's own stream around pieces that end too early."""
    broken = _apieces(struck, chunks, model) if struck.is_async else _pieces(struck, chunks, model)
    return litellm.CustomStreamWrapper(
        completion_stream=broken, model=model, custom_llm_provider="openai", logging_obj=options.get("logging")
    )


def _pieces(struck: _Struck, chunks: int, model: str) -> Iterator[ModelResponseStream]:
    yield from _begun(struck, chunks, model)
    if struck.blow.waits:
        wait(struck.blow, struck.limit)
    raise break_of(struck.blow)


async def _apieces(struck: _Struck, chunks: int, model: str) -> AsyncIterator[ModelResponseStream]:
    for piece in _begun(struck, chunks, model):
        yield piece
    if struck.blow.waits:
        await await_(struck.blow, struck.limit)
    raise break_of(struck.blow)


def _begun(struck: _Struck, chunks: int, model: str) -> Iterator[ModelResponseStream]:
    # Never the whole text: an answer that was complete has not been cut.
    size = max(1, len(struck.text) // (chunks + 1))
    for number in range(min(chunks, len(struck.text))):
        delta = Delta(role="assistant", content=struck.text[number * size : (number + 1) * size])
        yield ModelResponseStream(model=model, choices=[StreamingChoices(index=0, delta=delta)])

"""The custom provider: ``resilience/<route>`` as a model of LiteLLM's. One nested call of the engine, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self
from weakref import ref

from litellm.llms.custom_llm import CustomLLM

from resilience.middleware.answers import carries
from resilience.middleware.translation import before_first_chunk, translated
from resilience.upstream import ATTEMPTS, attempts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from resilience.runtime import MultiProviderFallback

PICTURE: Final = "resilience_picture"
"""Under this name the callback hands on what LiteLLM drops of an image call's parameters."""

# What LiteLLM gives a custom provider that is its own affair, not a parameter of the request.
_NOT_PARAMS: Final = frozenset({"stream", "max_retries", "num_retries", "allowed_openai_params"})
# What a Router or a Proxy writes into metadata to find its own books: the outer call has settled with them.
_BOOKKEEPING: Final = frozenset(
    {
        "api_base",
        "attempted_retries",
        "caching_groups",
        "deployment",
        "deployment_model_name",
        "max_retries",
        "model_group",
        "model_group_alias",
        "model_group_size",
        "model_info",
    }
)
# Where a stream's logging object keeps it: a Router wraps streams so that nothing else leads to ours.
_DELIVERY: Final = "_resilience_delivery"


class ResilienceProvider(CustomLLM):  # type: ignore[misc]  # LiteLLM's classes are Any to the checker
    """Serves ``resilience/<route>`` (or ``resilience/<model string>``) by the engine of a runtime.

    The attempts are LiteLLM calls below LiteLLM's own: they are not reported to callbacks, so that cost and events
    are counted once, by the call that the caller made. What they came to stands in the answer's
    ``_hidden_params["resilience"]`` and in this package's events.

    Args:
        source: Gives the runtime, at each call.
    """

    def __init__(self, source: Callable[[], MultiProviderFallback]) -> None:
        super().__init__()
        self._source = source

    def completion(self, model: str, messages: list[Any], **given: Any) -> Any:
        """Serve one whole answer. Arguments by keyword, as LiteLLM gives them."""
        with _Translating(model):
            return self._source().completion(model, messages, **_params(given))

    async def acompletion(self, model: str, messages: list[Any], **given: Any) -> Any:
        """The same for asyncio. A cancelled caller cancels the attempt."""
        with _Translating(model):
            return await self._source().acompletion(model, messages, **_params(given))

    def embedding(self, model: str, input: Any, **given: Any) -> Any:  # noqa: A002 (LiteLLM's name)
        """Embed texts. Only targets of the first one's model and dimensions are used."""
        with _Translating(model):
            return self._source().embedding(model, input, **_params(given))

    async def aembedding(self, model: str, input: Any, **given: Any) -> Any:  # noqa: A002 (LiteLLM's name)
        """The same for asyncio."""
        with _Translating(model):
            return await self._source().aembedding(model, input, **_params(given))

    def image_generation(self, model: str, prompt: str, **given: Any) -> Any:
        """Make pictures. An answer without one is empty, and the next target is asked."""
        with _Translating(model):
            return self._source().image_generation(model, prompt, **_params(given))

    async def aimage_generation(self, model: str, prompt: str, **given: Any) -> Any:
        """The same for asyncio."""
        with _Translating(model):
            return await self._source().aimage_generation(model, prompt, **_params(given))

    def streaming(self, model: str, messages: list[Any], **given: Any) -> Iterator[Any]:
        """Open a stream now, so that an error is raised where the caller asked, and return its chunks."""
        with _Translating(model):
            stream = self._source().completion(model, messages, stream=True, **_streaming(_params(given)))
            return _Delivery(stream, model, given["logging_obj"])

    def astreaming(self, model: str, messages: list[Any], **given: Any) -> AsyncIterator[Any]:
        """The same for asyncio. LiteLLM begins it with the first chunk: that is where errors are raised."""
        params = _streaming(_params(given))
        log = given["logging_obj"]
        made = _AsyncDelivery(lambda: self._source().acompletion(model, messages, stream=True, **params), model, log)
        setattr(log, _DELIVERY, ref(made))
        return made


def delivery_of(log: object) -> _AsyncDelivery | None:
    """The async stream of ours that a logging object of LiteLLM's belongs to, while somebody holds it."""
    found = getattr(log, _DELIVERY, None)
    return found() if found is not None else None


class _Delivery:
    """A guarded stream in the form in which LiteLLM takes a custom provider's."""

    def __init__(self, stream: Any, model: str, log: Any) -> None:
        self._stream = stream
        self._model = model
        self._log = log
        self._tail = _Tail(stream)

    @property
    def attempts(self) -> Any:
        """Where `resilience.attempts` finds them, by way of LiteLLM's own stream object."""
        return self._tail.records

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with _Translating(self._model):
            for chunk in self._stream:
                if self._tail.passes(chunk):
                    return chunk
        last = self._tail.last()
        if last is None:
            raise StopIteration
        return last

    def close(self) -> None:
        """Hang up. LiteLLM does it at the end, too, and forgets this object: the attempts stay on its log."""
        setattr(self._log, ATTEMPTS, self.attempts)
        self._stream.close()


class _AsyncDelivery:
    """The same for asyncio, opened with the first chunk."""

    def __init__(self, opening: Callable[[], Awaitable[Any]], model: str, log: Any) -> None:
        self._opening: Callable[[], Awaitable[Any]] | None = opening
        self._model = model
        self._log = log
        self._stream: Any = None
        self._tail: Any = None
        self._failure: Exception | None = None

    async def open(self) -> None:
        """Wait for the first content, once. What fails there is raised by the first chunk, as LiteLLM expects."""
        opening, self._opening = self._opening, None
        if opening is None:
            return
        try:
            with _Translating(self._model, before_first_chunk):
                self._stream = await opening()
        except Exception as error:  # noqa: BLE001 (kept for the first chunk)
            self._failure = error
        else:
            self._tail = _Tail(self._stream)

    @property
    def attempts(self) -> Any:
        """Where `resilience.attempts` finds them, once the first content has come."""
        if self._tail is not None:
            return self._tail.records
        return getattr(self._failure, "attempts", ())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        await self.open()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._stream is None:  # it failed at the beginning, or was closed before
            raise StopAsyncIteration
        with _Translating(self._model):
            async for chunk in self._stream:
                if self._tail.passes(chunk):
                    return chunk
        last = self._tail.last()
        if last is None:
            raise StopAsyncIteration
        return last

    async def aclose(self) -> None:
        """Hang up. LiteLLM does it at the end, too, and forgets this object: the attempts stay on its log."""
        setattr(self._log, ATTEMPTS, self.attempts)
        self._opening = None
        if self._stream is not None:
            await self._stream.aclose()


class _Translating:
    """Raises LiteLLM's errors instead of ours out of its block; ours stay as the cause."""

    __slots__ = ("_model", "_then")

    def __init__(self, model: str, then: Callable[[Exception], Exception] | None = None) -> None:
        self._model = model
        self._then = then

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return  # nothing, or a cancellation, which is nobody's error
        made = translated(error, self._model)
        if self._then is not None:
            made = self._then(made)
        if made is not error:
            raise made from error


def _params(given: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's parameters, as far as LiteLLM hands them to a custom provider."""
    params = {key: value for key, value in given["optional_params"].items() if key not in _NOT_PARAMS}
    params.update(params.pop(PICTURE, {}))
    details = given["logging_obj"].model_call_details
    user = details.get("user")
    if user:  # LiteLLM takes it out of the parameters of providers that it does not know
        params["user"] = user
    asked = details.get("optional_params") or {}
    if "max_tokens" in params and "max_tokens" not in asked and "max_completion_tokens" in asked:
        # LiteLLM has given it the older name, which reasoning models refuse.
        params["max_completion_tokens"] = params.pop("max_tokens")
    for name in ("api_key", "api_base"):
        if given.get(name):
            params[name] = given[name]
    if given.get("headers"):
        params["extra_headers"] = given["headers"]
    metadata = (given.get("litellm_params") or {}).get("metadata")
    if isinstance(metadata, dict):
        params["metadata"] = {
            key: value
            for key, value in metadata.items()
            if key not in _BOOKKEEPING and not key.startswith("user_api_key")
        }
    timeout = given.get("timeout")
    if timeout is not None and timeout not in _default_timeouts():
        params["timeout"] = timeout
    # Not a parameter that travels: LiteLLM then reports the attempt to no callback.
    params["no-log"] = True
    return params


def _streaming(params: dict[str, Any]) -> dict[str, Any]:
    # The outer call reads usage from the chunks, whether or not its caller asked for it.
    params["stream_options"] = {**(params.get("stream_options") or {}), "include_usage": True}
    return params


def _default_timeouts() -> tuple[float, float]:
    """What LiteLLM, and its Router, fill in where nobody gave a timeout: that is nobody's deadline."""
    from litellm import constants  # noqa: PLC0415 (its names of these are recent)
    from litellm.main import get_configured_request_timeout  # noqa: PLC0415 (likewise)

    configured = get_configured_request_timeout()
    bare = constants.COMPLETION_HTTP_FALLBACK_SECONDS if configured is None else configured
    return float(bare), float(constants.DEFAULT_REQUEST_TIMEOUT_SECONDS)


class _Tail:
    """The end of a stream as LiteLLM takes it from a custom provider: finish reason and usage in one last chunk.

    A chunk that carries nothing but usage is lost behind a finish reason; so both are held back and come together.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._usage: Any = None
        self._finish: str | None = None
        self._told = False

    @property
    def records(self) -> Any:
        """The attempts so far: a stream that goes on at another target gets more."""
        return attempts(self._stream)

    def passes(self, chunk: Any) -> bool:
        """Whether a chunk goes to the caller as it is."""
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self._usage = usage
        choice = chunk.choices[0] if chunk.choices else None
        if choice is None:
            return False
        hidden = getattr(chunk, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden["resilience"] = self.records
        if choice.finish_reason is None:
            return True
        self._finish = choice.finish_reason
        if not carries(choice.delta):
            return False
        choice.finish_reason = None
        return True

    def last(self) -> dict[str, Any] | None:
        """The chunk that ends it; None if it has been given out."""
        if self._told:
            return None
        self._told, usage = True, self._usage
        return {
            "text": "",
            "is_finished": True,
            "finish_reason": self._finish or "stop",
            "usage": usage.model_dump() if usage is not None else None,
            "index": 0,
            "tool_use": None,
        }

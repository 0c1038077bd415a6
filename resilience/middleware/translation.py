"""Errors of ours become LiteLLM's, so that the ``except`` clauses that people have go on working."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import httpx
import litellm
import openai
from litellm.exceptions import MidStreamFallbackError

from resilience.errors import (
    AnswerRejectedError,
    CircuitIsolatedError,
    CircuitOpenError,
    ConcurrencyLimitError,
    ConfigurationError,
    RejectedError,
    ResilienceError,
    RouteExhaustedError,
    StreamInterruptedError,
)
from resilience.outcome import Kind

PROVIDER: Final = "resilience"
_RATE: Final = frozenset({Kind.RATE_LIMITED, Kind.QUOTA_EXHAUSTED})
_REFUSALS: Final = (CircuitIsolatedError, CircuitOpenError, ConcurrencyLimitError)


# Since LiteLLM 1.106 a stream lets a MidStreamFallbackError through that has no original.
_PASSES: Final = tuple(int(part) for part in version("litellm").split(".")[:2]) >= (1, 106)


class _Passing(int):
    """A status that is what it is, and that an older LiteLLM's stream, which asks for ``int(status)``, lets through."""

    def __int__(self) -> int:
        return 424


def translated(error: Exception, model: str) -> Exception:
    """What the custom provider raises in place of ``error``.

    A route that is exhausted: LiteLLM's own error of the last attempt, with its Retry-After; where nothing was
    sent, a RateLimitError if rate limits or quotas are all that keeps the route from serving, else a
    ServiceUnavailableError. ``raise translated(error, model) from error`` keeps ours in reach.

    Args:
        error: What the engine raised.
        model: What the caller asked for.

    Returns:
        ``error`` itself if it is not one of ours: providers' errors keep their own type.
    """
    if isinstance(error, RouteExhaustedError):
        made = _of_exhausted(error, model)
    elif isinstance(error, RejectedError):
        made = refusal(error, model)
    elif isinstance(error, StreamInterruptedError):
        made = _of_interrupted(error, model)
    elif isinstance(error, TimeoutError):
        made = litellm.Timeout(message=str(error), model=model, llm_provider=PROVIDER)
    elif isinstance(error, AnswerRejectedError):
        made = litellm.BadGatewayError(message=str(error), model=model, llm_provider=PROVIDER)
    elif isinstance(error, ConfigurationError):
        made = litellm.BadRequestError(message=str(error), model=model, llm_provider=PROVIDER)
    elif isinstance(error, ResilienceError):
        made = litellm.InternalServerError(message=str(error), model=model, llm_provider=PROVIDER)
    else:
        return error
    attempts = getattr(error, "attempts", None)
    if attempts:
        made.attempts = attempts  # type: ignore[attr-defined]  # where `resilience.attempts` looks
    return made


def refusal(rejected: RejectedError, model: str, *, routed: bool = False) -> Exception:
    """A rejection that LiteLLM's users catch, and ours do too.

    Its class is both: LiteLLM's ``RateLimitError`` where a rate limit or a quota is the reason, else its
    ``ServiceUnavailableError``; and ours. ``num_retries`` is 0: a Router moves on at once instead of asking again.

    Args:
        rejected: Why nothing was sent.
        model: What the caller asked for.
        routed: Whether a Router hears it. That one sleeps for a Retry-After that it finds on the response, though
            it has other groups to go to; the Proxy answers its clients with what stands in ``headers``.
    """
    limited = rejected.kind in _RATE or isinstance(rejected, ConcurrencyLimitError)
    ours = next((kind for kind in _REFUSALS if isinstance(rejected, kind)), RejectedError)
    made = _refusal_class(limited, ours)(
        message=rejected.reason,
        llm_provider=rejected.provider or PROVIDER,
        model=model,
        response=_response(429 if limited else 503, None if routed else rejected.retry_after),
        num_retries=0,
    )
    # `RejectedError` reads its fields there; LiteLLM's constructors have left a message of their own.
    made.args = (rejected.reason, *rejected.args[1:])
    made.litellm_response_headers = made.response.headers
    made.headers = _headers(rejected.retry_after)
    return made  # type: ignore[no-any-return]  # built of two classes, one of which the checker does not see


def mock_failure(model: str | None) -> Exception:
    """What LiteLLM's Router raises for ``mock_testing_fallbacks`` where nothing is left to fall back to."""
    return litellm.InternalServerError(  # type: ignore[no-any-return]  # LiteLLM's classes are Any to the checker
        message=f"mock_testing_fallbacks: {model or 'the default route'!r} has no fallback",
        model=model or "",
        llm_provider=PROVIDER,
    )


def before_first_chunk(error: Exception) -> Exception:
    """The same error as LiteLLM's stream lets through from its first chunk: otherwise it wraps all but a 4xx.

    LiteLLM starts an async custom provider's stream at the first chunk only, and makes a MidStreamFallbackError of
    what that raises. One that is such an error already, without an original, passes unchanged; so this one is that
    and the provider's class.
    """
    kind = type(error)
    if issubclass(kind, MidStreamFallbackError) or not isinstance(error, openai.APIError):
        return error
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500 and status != 429:
        return error  # passes by itself
    made = _copy(error, _streaming_class(kind))  # type: ignore[arg-type]  # every class has a hash
    made.__dict__.update(original_exception=None, generated_content="", is_pre_first_chunk=True)
    if not _PASSES and isinstance(status, int):
        made.__dict__["status_code"] = _Passing(status)
    return made


def _of_exhausted(error: RouteExhaustedError, model: str) -> Exception:
    tried = [cause for cause in error.exceptions if not isinstance(cause, RejectedError)]
    if not tried:
        kind = litellm.RateLimitError if error.status_code == 429 else litellm.ServiceUnavailableError
        response = _response(error.status_code, error.retry_after)
        made: Exception = kind(message=str(error), llm_provider=PROVIDER, model=model, response=response)
        made.__dict__.update(litellm_response_headers=response.headers, headers=_headers(error.retry_after))
        return made
    last = translated(tried[-1], model)
    # A copy: the cause stands in our group as well, and must not point back at it.
    made = _copy(last, type(last))
    own = dict(getattr(last, "litellm_response_headers", None) or {})
    if not any(name.lower().removeprefix("llm_provider-").startswith("retry-after") for name in own):
        made.__dict__["litellm_response_headers"] = httpx.Headers({**own, **_headers(error.retry_after)})
    return made


def _of_interrupted(error: StreamInterruptedError, model: str) -> Exception:
    cause = error.__cause__
    original = cause.original_exception if isinstance(cause, MidStreamFallbackError) else cause
    if not isinstance(original, Exception):
        original = litellm.APIConnectionError(message=str(error), llm_provider=PROVIDER, model=model)
    # LiteLLM's stream builds one of its own around the original; this one and ours stay in its context.
    made: Exception = MidStreamFallbackError(
        message=str(error),
        model=model,
        llm_provider=PROVIDER,
        original_exception=original,
        generated_content=error.partial,
    )
    return made


def _copy(error: Exception, kind: type[Exception]) -> Exception:
    made = kind.__new__(kind, *error.args)
    made.__dict__.update(error.__dict__)
    made.args = error.args
    return made


@lru_cache(maxsize=16)
def _refusal_class(limited: bool, ours: type[RejectedError]) -> Any:
    theirs = litellm.RateLimitError if limited else litellm.ServiceUnavailableError
    return type(ours.__name__, (theirs, ours), {"__doc__": ours.__doc__, "__module__": __name__})


@lru_cache(maxsize=64)
def _streaming_class(kind: type[Exception]) -> type[Exception]:
    if issubclass(MidStreamFallbackError, kind):
        return MidStreamFallbackError  # type: ignore[no-any-return]  # likewise
    return type(kind.__name__, (kind, MidStreamFallbackError), {"__doc__": kind.__doc__, "__module__": __name__})


def _headers(seconds: float | None) -> dict[str, str]:
    # Whole seconds: LiteLLM's own parser reads nothing else. Never early.
    return {} if seconds is None else {"retry-after": str(max(1, -int(-seconds // 1)))}


def _response(status: int, seconds: float | None) -> httpx.Response:
    return httpx.Response(status, headers=_headers(seconds), request=httpx.Request("POST", f"https://{PROVIDER}/"))

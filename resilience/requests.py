"""Requests as values: one text in, one response out with tokens and cost, and a status instead of an error."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError, ResilienceError, RouteExhaustedError
from resilience.upstream import attempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.runtime import MultiProviderFallback

MAX_OUTPUT_CHARS: Final = 50_000
NO_MODEL: Final = "none"


class ProcessingStatus(StrEnum):
    """How far a request has come."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class AIRequest(BaseModel):
    """What to ask.

    Raises:
        pydantic.ValidationError: A field is wrong; it names the field and what is allowed.
    """

    # The input is a prompt: no error may repeat it.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1)
    input: str = Field(min_length=1, repr=False, description="the user's message")
    model: str | None = Field(None, description="a route's name or a model string; None: the default route")
    priority: int = Field(
        5,
        ge=1,
        le=10,
        description="lower is served first, as in LiteLLM's scheduler; it orders those who wait for a target to come "
        "back, and has no effect while anything is eligible",
    )
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False, description="your own; sent to nobody")
    created_at: AwareDatetime = Field(default_factory=SYSTEM_CLOCK.now, description="aware; kept in UTC")

    @field_validator("input")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("input is blank; allowed: a text with at least one visible character")
        return value

    @field_validator("created_at")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.astimezone(UTC)


class AIResponse(BaseModel):
    """What came of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    request_id: str
    output: str = Field("", repr=False, description="stripped, and cut at 50,000 characters")
    model_used: str = Field(NO_MODEL, description="the model string of the target that answered; 'none' if none did")
    provider: str = NO_MODEL
    latency_ms: float = Field(0.0, description="of the whole request, with everything that was tried")
    tokens_used: int = Field(0, description="prompt and completion, from the answer's usage")
    cost_usd: float | None = Field(None, description="by LiteLLM's price map; None for a model without a price")
    status: ProcessingStatus
    attempts: tuple[Any, ...] = Field((), description="what was tried, in order; see resilience.attempts")
    error: str | None = None


async def serve(runtime: MultiProviderFallback, request: AIRequest, params: dict[str, Any]) -> AIResponse:
    """Serve one request in this task; see `MultiProviderFallback.process`."""
    clock = runtime.registry.clock
    started = clock.monotonic()
    try:
        answer = await runtime.acompletion(**_arguments(request, params))
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 (a provider's failure of any type becomes a status)
        return _failed(request, error, clock.monotonic() - started)
    return _completed(runtime, request, answer, clock.monotonic() - started)


def serve_sync(runtime: MultiProviderFallback, request: AIRequest, params: dict[str, Any]) -> AIResponse:
    """The same in a thread."""
    clock = runtime.registry.clock
    started = clock.monotonic()
    try:
        answer = runtime.completion(**_arguments(request, params))
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 (a provider's failure of any type becomes a status)
        return _failed(request, error, clock.monotonic() - started)
    return _completed(runtime, request, answer, clock.monotonic() - started)


def _arguments(request: AIRequest, params: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(request, AIRequest):
        raise ConfigurationError(f"request: {type(request).__name__} is not allowed; allowed: an AIRequest")
    if params.get("stream"):
        raise ConfigurationError("stream: process returns one whole response; use acompletion(stream=True) for chunks")
    messages = [*(params.get("messages") or ()), {"role": "user", "content": request.input}]
    return {
        **params,
        "model": params.get("model") if request.model is None else request.model,
        "messages": messages,
        "priority": request.priority,
        "validate": _and(_has_text, params.get("validate")),
    }


def _has_text(text: str) -> bool:
    return bool(text.strip())


def _and(first: Callable[[str], bool], second: Callable[[str], bool] | None) -> Callable[[str], bool]:
    return first if second is None else lambda text: first(text) and second(text)


def _completed(runtime: MultiProviderFallback, request: AIRequest, answer: Any, seconds: float) -> AIResponse:
    behind = attempts(answer)
    served = behind[-1] if behind else None  # an answer that somebody's callback replaced may have lost them
    target = runtime.registry.target(served.target) if served is not None else None
    usage = getattr(answer, "usage", None)
    return AIResponse(
        request_id=request.id,
        output=runtime.text_of(answer).strip()[:MAX_OUTPUT_CHARS],
        model_used=target.model if target is not None else str(getattr(answer, "model", None) or NO_MODEL),
        provider=served.provider if served is not None else NO_MODEL,
        latency_ms=seconds * 1000,
        tokens_used=getattr(usage, "total_tokens", None) or 0,
        cost_usd=served.cost_usd if served is not None else None,
        status=ProcessingStatus.COMPLETED,
        attempts=behind,
    )


def _failed(request: AIRequest, error: Exception, seconds: float) -> AIResponse:
    return AIResponse(
        request_id=request.id,
        latency_ms=seconds * 1000,
        status=ProcessingStatus.FAILED,
        attempts=attempts(error),
        error=_sentence(error),
    )


def _sentence(error: Exception) -> str:
    # A provider's own message may repeat the prompt or a part of the key: only its type and status are told.
    if isinstance(error, ResilienceError):
        return error.message if isinstance(error, RouteExhaustedError) else str(error)
    status = getattr(error, "status_code", None)
    return f"{type(error).__name__}" + (f" (status {status})" if isinstance(status, int) else "")

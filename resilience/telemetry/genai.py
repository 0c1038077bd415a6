"""OpenTelemetry's words for calls of models: the GenAI semantic conventions. Never a prompt, an answer or a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from resilience.telemetry.usage import usage_of
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.upstream import Target

# https://opentelemetry.io/docs/specs/semconv/gen-ai/
SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"
OPERATIONS: Final = {
    Operation.COMPLETION: "chat",
    Operation.RESPONSES: "chat",
    Operation.EMBEDDING: "embeddings",
    Operation.IMAGE: "generate_content",
}
# LiteLLM's names of providers where the conventions have another; the rest is the same or is nobody's.
PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_PARAMETERS: Final = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "dimensions": "gen_ai.embeddings.dimension.count",
}


def model_of(target: Target) -> str:
    """The model's own name, without LiteLLM's prefix for its provider."""
    return target.model.partition("/")[2] or target.model


def asked(target: Target, operation: Operation, params: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """What a span says of an attempt when it starts."""
    provider = target.provider.partition("/")[0]
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[operation],
        "gen_ai.provider.name": PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model_of(target),
        "resilience.target": target.name,
        "resilience.provider": target.provider,
    }
    if stream:
        attributes["gen_ai.request.stream"] = True
    for source in (target.params, params):
        for name, attribute in _PARAMETERS.items():
            value = source.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                attributes[attribute] = value
    base = params.get("api_base") or target.params.get("api_base")
    if isinstance(base, str):
        attributes.update(_server(base))
    return attributes


def told(answer: Any) -> dict[str, Any]:
    """What an answer, or a chunk of one, adds. Only what it says itself."""
    attributes: dict[str, Any] = {}
    inner = getattr(answer, "response", None)
    source = inner if inner is not None and getattr(answer, "usage", None) is None else answer
    for name, attribute in (("model", "gen_ai.response.model"), ("id", "gen_ai.response.id")):
        value = getattr(source, name, None)
        if isinstance(value, str) and value:
            attributes[attribute] = value
    choices = getattr(answer, "choices", None)
    reasons = [str(reason) for one in choices or () if (reason := getattr(one, "finish_reason", None))]
    if reasons:
        attributes["gen_ai.response.finish_reasons"] = reasons
    usage = usage_of(answer)
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
    return attributes


def _server(base: str) -> dict[str, Any]:
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port or (80 if parts.scheme == "http" else 443)}

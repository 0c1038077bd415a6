"""Targets: a model and its parameters become one way to serve, with a provider and an identity."""

from __future__ import annotations

import hashlib
import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resilience.errors import ConfigurationError
from resilience.upstream import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENVIRONMENT = "os.environ/"
_BASES = ("api_base", "base_url")
_PORTS = {"http": 80, "https": 443}
_AWS = frozenset({"bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat"})
_VERTEX = frozenset({"vertex_ai", "vertex_ai_beta"})
# In a path, bedrock/us-west-2/model, or in an ARN, arn:aws:bedrock:us-west-2:123456789012:...
_AWS_REGION = re.compile(r"(?:(?:^|/)|\barn:[a-z-]+:[a-z-]+:)([a-z]{2}(?:-[a-z]+)+-\d)(?:[/:]|$)")


def resolve(params: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``os.environ/NAME`` by its value, by LiteLLM's own function (which knows secret managers too).

    Like LiteLLM, a missing name becomes None: then the provider's usual variable is used.
    """
    if not any(_is_reference(value) for value in params.values()):
        return dict(params)
    from litellm import get_secret  # noqa: PLC0415 (only where something is to resolve)

    return {name: get_secret(value) if _is_reference(value) else value for name, value in params.items()}


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_ENVIRONMENT)


def derive_provider(model: str, params: Mapping[str, Any]) -> str:
    """What fails together with a model: LiteLLM's provider name and the address, region or location given.

    ``openai``; ``azure/east.example.com:443`` where an ``api_base`` is given, its port by its scheme;
    ``bedrock/us-east-1``; ``vertex_ai/europe-west4``.

    Raises:
        ConfigurationError: LiteLLM knows no provider for the model, or the ``api_base`` names no host.
    """
    family = family_of(model, params)
    base = next((params[name] for name in _BASES if params.get(name)), None)
    if base is not None:
        return f"{family}/{_address(base)}"
    place = _place(family, model, params)
    return f"{family}/{place}" if place else family


def family_of(model: str, params: Mapping[str, Any]) -> str:
    """LiteLLM's name for the provider of a model.

    Raises:
        ConfigurationError: LiteLLM knows none.
    """
    import litellm  # noqa: PLC0415 (its model map decides)

    base = next((params[name] for name in _BASES if params.get(name)), None)
    given = params.get("custom_llm_provider")
    litellm.suppress_debug_info = True  # as its Router does: else it prints advice about an unknown name to stdout
    try:
        return str(litellm.get_llm_provider(model, custom_llm_provider=given, api_base=base)[1])
    except Exception as error:
        # LiteLLM's message is a page of advice, our own says the same in a line; its error stays the cause.
        raise ConfigurationError(
            f"model {model!r} has no provider that LiteLLM knows; write it as provider/model, "
            "for example openai/gpt-4o-mini, or name its custom_llm_provider"
        ) from error


def _address(base: object) -> str:
    text = str(base)
    try:
        parts = urlsplit(text if "//" in text else f"https://{text}")
        port = parts.port or _PORTS.get(parts.scheme, 443)
    except ValueError:
        parts, port = None, 0
    if parts is None or not parts.hostname:
        # Not shown: an address may carry a password.
        raise ConfigurationError("api_base names no host; it must look like https://host.example.com/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _place(family: str, model: str, params: Mapping[str, Any]) -> str | None:
    if family in _AWS:
        found = _AWS_REGION.search(str(params.get("model_id") or "")) or _AWS_REGION.search(model)
        return _first(params, "aws_region_name", "aws_region") or (found[1] if found else None)
    if family in _VERTEX:
        return _first(params, "vertex_location", "vertex_ai_location")
    return None


def _first(params: Mapping[str, Any], *names: str) -> str | None:
    return next((str(params[name]) for name in names if params.get(name)), None)


def identity(model: str, provider: str, params: Mapping[str, Any]) -> str:
    """Equal for equal targets; nothing can be read back from it.

    The digest of the canonical JSON of everything. Values that are no JSON (a client object, a function) count as
    the object that they are; a parameter that is None was not given; an address is the same by either name.
    """
    base, other = _BASES
    given = {base if name == other else name: value for name, value in params.items() if value is not None}
    canonical = json.dumps(
        [model, provider, given], sort_keys=True, default=lambda value: f"{type(value).__name__}@{id(value)}"
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def build_target(
    model: str,
    params: Mapping[str, Any],
    *,
    name: str | None = None,
    provider: str | None = None,
    dynamic: bool = False,
) -> Target:
    """Make a target.

    Args:
        model: LiteLLM's model string.
        params: LiteLLM parameters that travel with each call; ``os.environ/NAME`` is resolved here.
        name: What people call it; default: the model string.
        provider: What fails together with it; default: derived.
        dynamic: Made from a caller's own parameters. Then no environment variable is read for it: what a
            request says must not choose which of the process's secrets is sent where.

    Raises:
        ConfigurationError: No provider is known for the model.
    """
    resolved = dict(params) if dynamic else resolve(params)
    provider = provider if provider is not None else derive_provider(model, resolved)
    return Target(
        name=name if name is not None else model,
        provider=provider,
        model=model,
        params=MappingProxyType(resolved),
        identity=identity(model, provider, resolved),
        dynamic=dynamic,
    )

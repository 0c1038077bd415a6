"""LiteLLM's surroundings: which usual keys a provider would need, and its own notes kept off the terminal."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "httpcore", "asyncio")
# Names that LiteLLM's check asks for although its calls have a default for them.
_HAVE_DEFAULTS = frozenset({"AZURE_API_VERSION", "OLLAMA_API_BASE"})


def quiet() -> None:
    """Keep LiteLLM's advice and logs off the terminal, for programs that own it. Loads LiteLLM.

    Call it before anything else has loaded LiteLLM: its import asks the network for prices otherwise.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOG", "CRITICAL")
    import litellm  # noqa: PLC0415 (seconds that only those pay who call this)

    litellm.suppress_debug_info = True
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def usual_keys_missing(model: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The environment variables that LiteLLM would look for to call a model, and that are not set.

    Args:
        model: LiteLLM's model string.
        params: What travels with its calls: a key or an address given there is not missed.
    """
    import litellm  # noqa: PLC0415 (likewise)

    given = {name: params[name] for name in ("api_key", "api_base", "api_version") if params.get(name)}
    provider = params.get("custom_llm_provider")
    named = f"{provider}/{model}" if provider and not model.startswith(f"{provider}/") else model
    told = litellm.validate_environment(named, **given)
    return (
        () if told["keys_in_environment"] else tuple(key for key in told["missing_keys"] if key not in _HAVE_DEFAULTS)
    )

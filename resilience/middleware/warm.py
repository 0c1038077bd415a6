"""Warming: the code that a provider's first call needs is loaded before a failover needs it."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from resilience.middleware.targets import family_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from resilience.upstream import Target

_LOG = logging.getLogger("resilience")
# Held during each import: a fork, and the end of the process, wait for it. A module's lock that is left behind by a
# thread in the middle of an import is never freed: the forked child hangs at its first call, and the interpreter in
# its last cleaning, where LiteLLM's clients import what they need to close themselves.
# Re-entrant: an exit handler of somebody else's may fork after ours has taken it for good.
_IMPORTING = threading.RLock()

# What LiteLLM imports during a first call, by what made it slow when measured (see `warm`).
_ALWAYS = (
    "litellm.litellm_core_utils.litellm_logging",
    "litellm.proxy.openai_files_endpoints.common_utils",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.llms.fal_ai.cost_calculator",
    "litellm.llms.edenai.chat.transformation",
    "litellm.integrations.prometheus_services",
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.spend_tracking.savings",
    "litellm.proxy.guardrails.exception_utils",  # by the first error
    "httpcore",
)
_OPENAI_SDK = ("openai.resources.chat", "openai.resources.embeddings", "openai.resources.responses")
_FAMILIES = {
    "openai": _OPENAI_SDK,
    "azure": _OPENAI_SDK,
    "anthropic": ("litellm.llms.anthropic.completion.transformation", "litellm.llms.anthropic.chat.handler"),
    "bedrock": ("botocore.session", "botocore.auth", "litellm.llms.bedrock.chat.converse_handler"),
    "vertex_ai": ("google.auth", "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini"),
    "gemini": ("litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini",),
}


def warm(targets: Iterable[Target]) -> threading.Thread:
    """Load the code of every target's provider family in a background thread. No request is sent.

    The first call of a process costs LiteLLM 430 to 630 ms, the first of a further family 130 to 450 ms: SDK
    imports, a tokenizer, certificates. Whatever cannot be loaded is noted in the debug log; the first call will
    say what is wrong with it.

    Args:
        targets: Whose families are needed.

    Returns:
        The thread, a daemon that has been started: tests join it, nobody else has to.
    """
    # LiteLLM's own family: `provider` may be a name of the user's.
    families = {(family_of(target.model, target.params), target.model) for target in targets}
    thread = threading.Thread(target=_run, args=(sorted(families),), name="resilience-warm", daemon=True)
    thread.start()
    return thread


def _run(families: list[tuple[str, str]]) -> None:
    for name, step in _steps(families):
        try:
            with _IMPORTING:
                step()
        except Exception:  # noqa: BLE001 (somebody else's import may fail in any way; a call will tell)
            _LOG.debug("could not warm %s", name, exc_info=True)


def _steps(families: list[tuple[str, str]]) -> Iterator[tuple[str, Callable[[], object]]]:
    for name in {family for family, _ in families}:
        # A family without a row speaks OpenAI's dialect through the SDK, most likely.
        for module in _FAMILIES.get(name, _OPENAI_SDK):
            yield module, lambda module=module: importlib.import_module(module)  # type: ignore[misc]  # bound now
    for module in _ALWAYS:
        yield module, lambda module=module: importlib.import_module(module)  # type: ignore[misc]  # likewise
    yield "certificates", _load_certificates
    for family, model in families:
        yield f"{family} configuration", lambda family=family, model=model: _load_family(family, model)  # type: ignore[misc]  # likewise


def _load_certificates() -> None:
    from litellm.llms.custom_httpx.http_handler import get_ssl_configuration  # noqa: PLC0415 (slow, wanted here)

    get_ssl_configuration()


def _load_family(family: str, model: str) -> None:
    import litellm  # noqa: PLC0415 (slow, wanted here)
    from litellm.types.utils import LlmProviders  # noqa: PLC0415 (likewise)
    from litellm.utils import ProviderConfigManager  # noqa: PLC0415 (likewise)

    plain = litellm.get_llm_provider(model, custom_llm_provider=family)[0]
    ProviderConfigManager.get_provider_chat_config(plain, LlmProviders(family))
    litellm.get_supported_openai_params(plain, custom_llm_provider=family)
    # The first broken stream counts what it delivered: loading OpenAI's tokenizer then stops the loop for 0.6 s.
    litellm.token_counter(model=plain, text="warm")


# At the end nobody gives it back: what has not been warmed by then is not needed any more.
atexit.register(_IMPORTING.acquire)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_IMPORTING.acquire, after_in_parent=_IMPORTING.release, after_in_child=_IMPORTING.release
    )

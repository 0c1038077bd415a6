"""What a LiteLLM Proxy's config.yaml names: one callback and one provider on the process-wide runtime.

```yaml
litellm_settings:
  callbacks: ["resilience.middleware.proxy.callback"]
  custom_provider_map:
    - {provider: resilience, custom_handler: resilience.middleware.proxy.provider}
```

The Proxy executes a file beside its config.yaml once per reference, outside ``sys.modules``; this module is
imported once, so that both share one state. The runtime is `resilience.default()`: the environment's
``RESILIENCE_CONFIG`` names its settings. What is wrong in them stops the Proxy's start.

``GET /resilience/breakers`` shows the breakers of the worker that answers, to whoever the Proxy's own
authentication lets through. Answers carry ``x-resilience-served-by`` (the target's name) and
``x-resilience-attempts`` (how many were made); errors carry the second where it is known.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from resilience.upstream import attempts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.middleware.callbacks import ResilienceCallback
    from resilience.middleware.provider import ResilienceProvider
    from resilience.runtime import MultiProviderFallback

    callback: ResilienceCallback
    provider: ResilienceProvider

_PATH: Final = "/resilience/breakers"
_SERVED_BY: Final = "x-resilience-served-by"
_ATTEMPTS: Final = "x-resilience-attempts"
# Where the Proxy's application stands. Only a process that runs a Proxy has it loaded.
_SERVER: Final = "litellm.proxy.proxy_server"
_LOCK: Final = threading.Lock()


def __getattr__(name: str) -> Any:
    if name not in {"callback", "provider"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilience.decorators import default  # noqa: PLC0415 (who only imports this module loads nothing)
    from resilience.middleware.capabilities import register  # noqa: PLC0415 (loads LiteLLM)
    from resilience.middleware.provider import ResilienceProvider  # noqa: PLC0415 (likewise)

    made = globals()
    with _LOCK:
        if "callback" not in made:
            # Now: a mistake in the settings is told at the start and not to the first client.
            register(default().settings)
            made["provider"] = ResilienceProvider(default)
            made["callback"] = _callback_class()(default)
            _show_breakers()
        return made[name]


def response_headers(data: Mapping[str, Any], response: object) -> dict[str, str]:
    """What the Proxy's client is told about one request.

    Args:
        data: The Proxy's request; LiteLLM's logging object is in it.
        response: The answer or stream, None after a failure: then the exception being handled is read.
    """
    served: str | None
    behind = attempts(response if response is not None else sys.exception())
    if behind:
        served, number = behind[-1].target, len(behind)
    else:
        from resilience.middleware.callbacks import served_by  # noqa: PLC0415 (loaded by now)

        served, number = served_by(data)
    found = {_ATTEMPTS: str(number)} if number else {}
    if served is not None and response is not None:
        found[_SERVED_BY] = quote(served, safe="/:@#+,=* ()[]")  # a name of the settings may hold any character
    return found


def _callback_class() -> type[ResilienceCallback]:
    from resilience.middleware.callbacks import ResilienceCallback  # noqa: PLC0415 (loads LiteLLM)
    from resilience.middleware.provider import delivery_of  # noqa: PLC0415 (likewise)

    class ProxyCallback(ResilienceCallback):
        """`ResilienceCallback` that also writes the Proxy's response headers."""

        async def async_post_call_response_headers_hook(
            self, data: dict[str, Any], user_api_key_dict: Any, response: Any, **_: Any
        ) -> dict[str, str]:
            """Say who served. A stream is opened for it: its headers go out before LiteLLM would begin it."""
            del user_api_key_dict
            delivery = delivery_of(getattr(response, "logging_obj", None) or data.get("litellm_logging_obj"))
            if delivery is not None:
                await delivery.open()
                if delivery.attempts:
                    return response_headers(data, delivery)
            return response_headers(data, response)

    return ProxyCallback


def _show_breakers() -> None:
    server = sys.modules.get(_SERVER)
    if server is None:
        return
    from fastapi import Depends  # noqa: PLC0415 (only where a Proxy runs)
    from litellm.proxy.auth.user_api_key_auth import user_api_key_auth  # noqa: PLC0415 (likewise)

    server.app.add_api_route(
        _PATH,
        _breakers,
        methods=["GET"],
        dependencies=[Depends(user_api_key_auth)],
        response_model=None,
        tags=["resilience"],
        summary="Circuit breakers of the worker that answers",
    )


async def _breakers() -> dict[str, Any]:
    from resilience.decorators import default  # noqa: PLC0415 (loaded by now)

    runtime: MultiProviderFallback = default()
    return {"worker": os.getpid(), **runtime.snapshot().model_dump(mode="json")}

"""What a LiteLLM Proxy's config.yaml names: one callback and one provider on the process-wide runtime.

```yaml
litellm_settings:
  callbacks: ["resilience.middleware.proxy.callback"]
  custom_provider_map:
    - {provider: resilience, custom_handler: resilience.middleware.proxy.provider}
```

The Proxy executes a file beside its config.yaml once per reference, outside ``sys.modules``; this module is
imported once, so that both share one state. The runtime is `resilience.default()`: the environment's
``RESILIENCE_CONFIG`` names its settings.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resilience.middleware.callbacks import ResilienceCallback
    from resilience.middleware.provider import ResilienceProvider

    callback: ResilienceCallback
    provider: ResilienceProvider

_LOCK: Final = threading.Lock()


def __getattr__(name: str) -> Any:
    if name not in {"callback", "provider"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilience.decorators import default  # noqa: PLC0415 (the runtime is made when the first call needs it)
    from resilience.middleware.callbacks import ResilienceCallback  # noqa: PLC0415 (loads LiteLLM)
    from resilience.middleware.provider import ResilienceProvider  # noqa: PLC0415 (likewise)

    with _LOCK:
        made = globals()
        made.setdefault("callback", ResilienceCallback(default))
        made.setdefault("provider", ResilienceProvider(default))
        return made[name]

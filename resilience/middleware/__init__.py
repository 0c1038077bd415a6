"""The seam to LiteLLM: the only room that may import it, and only when a function needs it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience.middleware.installation import install, uninstall

__all__ = ["install", "uninstall"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from resilience.middleware import installation  # noqa: PLC0415 (it loads LiteLLM, which takes seconds)

        return getattr(installation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

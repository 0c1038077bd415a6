"""Images: the calls of a runtime that ask for a picture. A whole answer, and no text that anybody could judge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resilience.upstream import Operation

if TYPE_CHECKING:
    from resilience.execution.engine import Engine
    from resilience.execution.steps import CallOptions
    from resilience.routing.route import Route


class ImageCalls:
    """A part of `resilience.MultiProviderFallback`."""

    if TYPE_CHECKING:  # what the runtime brings

        @property
        def _engine(self) -> Engine: ...

        def _prepare(
            self, model: str | None, params: dict[str, Any], *, stream: bool = False
        ) -> tuple[Route, dict[str, Any], CallOptions]: ...

    async def aimage_generation(self, model: str | None = None, prompt: str | None = None, **params: Any) -> Any:
        """Ask for pictures. An answer without one is empty, and the next target is asked.

        Args:
            model: A route's name or a model string.
            prompt: What is to be seen.
            **params: As in `acompletion`.

        Returns:
            ``litellm.ImageResponse``.
        """
        route, rest, call = self._prepare_image(model, prompt, params)
        return await self._engine.arun(route, Operation.IMAGE, rest, call)

    def image_generation(self, model: str | None = None, prompt: str | None = None, **params: Any) -> Any:
        """The same as `aimage_generation` in a thread."""
        route, rest, call = self._prepare_image(model, prompt, params)
        return self._engine.run(route, Operation.IMAGE, rest, call)

    def _prepare_image(
        self, model: str | None, prompt: str | None, params: dict[str, Any]
    ) -> tuple[Route, dict[str, Any], CallOptions]:
        route, rest, call = self._prepare(model, {**params, "prompt": prompt})
        return route, rest, replace(call, validate=None)  # it judges texts

"""Continuing a broken stream: whether it may be, and who may write on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.routing.route import Route, RoutedTarget
    from resilience.upstream import Delivered, Upstream


def why_not_continued(route: Route, delivered: Delivered) -> str:
    """What keeps a broken stream from being continued, as a part of a sentence; "" if nothing does.

    Args:
        route: Whose stream it is.
        delivered: What the reader has been given.
    """
    if route.settings.stream.on_interruption != "continue":
        return "on_interruption is raise"
    if not delivered.is_plain:
        return "half a tool call, or half of anything but plain text, fits no other target's"
    return ""


def able_to_continue(
    candidates: tuple[RoutedTarget, ...], delivered: Delivered, upstream: Upstream
) -> tuple[RoutedTarget, ...]:
    """Those that may be given the beginning of their answer: by their ``prefill``, else by what the upstream knows.

    Args:
        candidates: The route's targets in order.
        delivered: What the reader has been given. Where that is no text yet (a thought), everybody may begin.
        upstream: Who knows the models.
    """
    if not delivered.text.strip():
        return candidates
    return tuple(
        place
        for place in candidates
        if (place.prefill if place.prefill is not None else upstream.takes_prefill(place.target))
    )

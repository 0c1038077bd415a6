"""The ops app: health, breakers, events, metrics and one page, over HTTP. Stands alone or in your own ASGI app."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from resilience.errors import ConfigurationError
from resilience.ops.gate import COOKIE, SESSION_SECONDS, Gate, Role
from resilience.ops.intake import MAX_BODY_BYTES, IntakeError, Places, read_json
from resilience.ops.live import Live
from resilience.ops.replies import (
    Envelope,
    Stream,
    error_response,
    http_error,
    refusal_response,
    refused,
    what_is_wrong,
)
from resilience.requests import AIRequest

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ConfigurationError("the ops app needs the extra: pip install 'litellm-resilience[ops]'") from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.ops.gate import Token
    from resilience.runtime import MultiProviderFallback
    from resilience.telemetry.metrics import Metrics

    Endpoint = Callable[[Request], Awaitable[Response]]

PAGE: Final = Path(__file__).parent / "page"
MAX_REASON_CHARS: Final = 200
NO_REASON: Final = "by hand"
_SMALL_BODY: Final = 4096
_OPENED: Final = frozenset({"open", "half-open"})
_FILES: Final = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


def create_app(
    runtime: MultiProviderFallback,
    *,
    tokens: Sequence[Token] = (),
    metrics: Metrics | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_requests: int = 100,
    max_subscribers: int = 500,
) -> Starlette:
    """Make the app, to be served alone or mounted: ``app.mount("/resilience", ...)``.

    Args:
        runtime: What to show and steer. It stays yours to close.
        tokens: Who may do what, see `resilience.ops.gate.read_tokens`. None: this machine only.
        metrics: What ``/metrics`` shows. Default: the client's own registry.
        max_body_bytes: The longest body of ``/process``.
        max_requests: So many of ``/process`` at once.
        max_subscribers: So many of ``/events`` at once.
    """
    ops = _Ops(
        runtime, Gate(tokens, clock=runtime.registry.clock), metrics, max_body_bytes, max_requests, max_subscribers
    )
    read, admin = Role.READ, Role.ADMIN
    app = Starlette(
        routes=[
            Route("/health", ops.health),
            Route("/ready", ops.ready),
            Route("/session", ops.sign_in, methods=["POST"]),
            Route("/session", ops.sign_out, methods=["DELETE"]),
            Route("/status", ops.guarded(read, ops.status)),
            Route("/breakers", ops.guarded(read, ops.breakers)),
            Route("/breakers/{kind}/{name:path}/isolate", ops.guarded(admin, ops.isolate), methods=["POST"]),
            Route("/breakers/{kind}/{name:path}/reset", ops.guarded(admin, ops.reset), methods=["POST"]),
            Route("/breakers/{kind}/{name:path}", ops.guarded(read, ops.breaker)),
            Route("/events", ops.guarded(read, ops.events)),
            Route("/metrics", ops.guarded(read, ops.metrics)),
            Route("/process", ops.guarded(admin, ops.process), methods=["POST"]),
            Route("/", _page),
            Route("/{file}", _page),
        ],
        exception_handlers={IntakeError: refused, HTTPException: http_error},
    )
    app.add_middleware(Envelope)
    app.state.ops = ops
    return app


class _Ops:
    """The endpoints of one app."""

    def __init__(
        self,
        runtime: MultiProviderFallback,
        gate: Gate,
        metrics: Metrics | None,
        max_body_bytes: int,
        max_requests: int,
        max_subscribers: int,
    ) -> None:
        self._runtime = runtime
        self._registry = runtime.registry
        self._gate = gate
        self._metrics = metrics if metrics is not None else _default_metrics()
        self._max_body_bytes = max_body_bytes
        self._requests = Places(max_requests, "requests")
        self._subscribers = Places(max_subscribers, "readers of events")
        self.live = Live(runtime)
        self._ends = [self.live.close]
        if self._metrics is not None:
            self._ends.append(runtime.observe(self._metrics))
        self.draining = False
        self._asked_ready_at: float | None = None

    def since_asked_ready(self) -> float | None:
        """How many seconds ago somebody asked whether we are ready, None: nobody ever has."""
        at = self._asked_ready_at
        return None if at is None else self._registry.clock.monotonic() - at

    def close(self) -> None:
        """Follow the runtime no more."""
        for end in self._ends:
            end()

    def guarded(self, needed: Role, endpoint: Endpoint) -> Endpoint:
        """The endpoint for those who may."""

        async def guarded(request: Request) -> Response:
            refusal = self._gate.refusal(request, needed)
            if refusal is None:
                return await endpoint(request)
            return refusal_response(refusal)

        return guarded

    # -- for probes and balancers: open, and silent about names -----------------------------------------------

    async def health(self, request: Request) -> Response:
        """The process answers."""
        del request
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Every route has somebody to serve it, and nobody is about to leave."""
        routes = {
            name: bool(self._registry.rotation(name)) for name in self._runtime.settings.routes if "*" not in name
        }
        self._asked_ready_at = self._registry.clock.monotonic()
        ready = all(routes.values()) and not self.draining
        body: dict[str, Any] = {"status": "draining" if self.draining else "ready" if ready else "not ready"}
        if self._gate.role(request) is not None:
            body["routes"] = routes
        return JSONResponse(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    # -- looking ----------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """What the page shows."""
        role = self._gate.role(request)
        return JSONResponse(
            {
                "role": role.name.lower() if role is not None else None,
                "signed_in": self._gate.needs_token,
                "draining": self.draining,
                **self.live.read(),
            }
        )

    async def breakers(self, request: Request) -> Response:
        """The registry's snapshot."""
        del request
        return JSONResponse(self._registry.snapshot().model_dump(mode="json"))

    async def breaker(self, request: Request) -> Response:
        """One breaker's snapshot."""
        kind, breaker = self._find(request)
        return JSONResponse(self._reading(kind, breaker))

    async def events(self, request: Request) -> Response:
        """Server-sent events."""
        places = self._subscribers
        places.__enter__()  # given back when the body has been sent, or its reader has gone
        query = request.query_params
        body = self.live.stream(
            request.headers.get("last-event-id") or query.get("after"),
            standing=query.get("standing") == "1",
            changes_only=query.get("only") == "changes",
            ended=lambda: self.draining,
        )
        return Stream(
            body,
            lambda: places.__exit__(None, None, None),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        del request
        if self._metrics is None:
            return error_response(501, "metrics need the extra: pip install 'litellm-resilience[prometheus]'")
        from resilience.telemetry.metrics import CONTENT_TYPE

        self._metrics.refresh(self._registry.snapshot())
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    # -- steering ---------------------------------------------------------------------------------------------

    async def isolate(self, request: Request) -> Response:
        """Take one out of rotation until somebody resets it."""
        kind, breaker = self._find(request)
        body = await read_json(request, _SMALL_BODY, empty={})
        reason = body.get("reason", NO_REASON) if isinstance(body, dict) else None
        if not isinstance(reason, str) or (isinstance(body, dict) and body.keys() - {"reason"}):
            raise IntakeError(400, 'allowed: {"reason": "a text"}')
        breaker.isolate(_plain(reason) or NO_REASON)
        return JSONResponse(self._reading(kind, breaker))

    async def reset(self, request: Request) -> Response:
        """Put one back into rotation and forget its history; a provider with its targets, but for isolated ones."""
        kind, breaker = self._find(request)
        await read_json(request, _SMALL_BODY, empty={})
        breaker.reset()
        if kind == "provider":  # they went out with it, and would keep it empty
            for target in self._registry.targets.values():
                if target.provider == breaker.provider and target.current_state in _OPENED:
                    target.reset()
        return JSONResponse(self._reading(kind, breaker))

    async def process(self, request: Request) -> Response:
        """An AIRequest in, an AIResponse out. A failed request is a 200 too: its status tells."""
        with self._requests:
            body = await read_json(request, self._max_body_bytes)
            try:
                asked = AIRequest.model_validate(body)
                answer = await self._runtime.process(asked)
            except ValidationError as error:
                return error_response(422, what_is_wrong(error))
            except ConfigurationError as error:
                return error_response(400, str(error))
            return Response(answer.model_dump_json(), media_type="application/json")

    # -- who may ----------------------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """A token in, a session's cookie out, for the page."""
        body = await read_json(request, _SMALL_BODY)
        secret = body.get("token") if isinstance(body, dict) else None
        value = self._gate.session(secret.strip()) if isinstance(secret, str) else None
        if value is None:
            return refusal_response(self._gate.unknown())
        response = JSONResponse({"status": "signed in"})
        secure = request.scope["scheme"] == "https"
        path = request.scope.get("root_path") or "/"
        response.set_cookie(
            COOKIE, value, max_age=SESSION_SECONDS, path=path, secure=secure, httponly=True, samesite="strict"
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """Forget the session."""
        response = JSONResponse({"status": "signed out"})
        response.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/")
        return response

    # -- the parts --------------------------------------------------------------------------------------------

    def _find(self, request: Request) -> tuple[str, CircuitBreaker]:
        kind, name = request.path_params["kind"], request.path_params["name"]
        kind = kind.removesuffix("s")
        views = {"provider": self._registry.providers, "target": self._registry.targets}
        if kind not in views:
            raise IntakeError(404, f"there is no kind {_plain(kind)!r}; allowed: provider, target")
        try:
            return kind, views[kind][name]
        except ConfigurationError as error:
            raise IntakeError(404, str(error)) from None

    def _reading(self, kind: str, breaker: CircuitBreaker) -> dict[str, Any]:
        snapshot = self._registry.snapshot()
        one = (snapshot.providers if kind == "provider" else snapshot.targets)[str(breaker.label)]
        return one.model_dump(mode="json")


async def _page(request: Request) -> Response:
    found = _FILES.get(request.path_params.get("file", ""))
    if found is None:
        raise IntakeError(404, "there is nothing here")
    name, kind = found
    return Response((PAGE / name).read_bytes(), media_type=kind)


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:MAX_REASON_CHARS].strip()


def _default_metrics() -> Metrics | None:
    try:
        from resilience.telemetry.metrics import default_metrics

        return default_metrics()
    except ConfigurationError:
        return None

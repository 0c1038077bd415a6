"""The ops app: health, breakers, events, metrics and one page, over HTTP. Stands alone or in your own ASGI app."""

from __future__ import annotations

import logging
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from resilience.errors import ConfigurationError
from resilience.ops.gate import COOKIE, SESSION_SECONDS, Gate, Role
from resilience.ops.intake import MAX_BODY_BYTES, IntakeError, Places, read_json
from resilience.ops.live import Live
from resilience.requests import AIRequest

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise ConfigurationError("the ops app needs the extra: pip install 'litellm-resilience[ops]'") from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.ops.gate import Token
    from resilience.runtime import MultiProviderFallback
    from resilience.telemetry.metrics import Metrics

    Endpoint = Callable[[Request], Awaitable[Response]]

PAGE: Final = Path(__file__).parent / "page"
MAX_REASON_CHARS: Final = 200
NO_REASON: Final = "by hand"
_SMALL_BODY: Final = 4096
_FILES: Final = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_LOG: Final = logging.getLogger("resilience.ops")


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
        exception_handlers={IntakeError: _refused, HTTPException: _http_error, Exception: _broken},
    )
    app.add_middleware(_Headers)
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
            response = _error(refusal.status, refusal.message)
            if refusal.status == HTTPStatus.UNAUTHORIZED:
                response.headers["www-authenticate"] = "Bearer"
            return response

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
        return _Stream(
            body,
            lambda: places.__exit__(None, None, None),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        del request
        if self._metrics is None:
            return _error(501, "metrics need the extra: pip install 'litellm-resilience[prometheus]'")
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
        """Put one back into rotation and forget its history."""
        kind, breaker = self._find(request)
        await read_json(request, _SMALL_BODY, empty={})
        breaker.reset()
        return JSONResponse(self._reading(kind, breaker))

    async def process(self, request: Request) -> Response:
        """An AIRequest in, an AIResponse out. A failed request is a 200 too: its status tells."""
        with self._requests:
            body = await read_json(request, self._max_body_bytes)
            try:
                asked = AIRequest.model_validate(body)
                answer = await self._runtime.process(asked)
            except ValidationError as error:
                return _error(422, _what_is_wrong(error))
            except ConfigurationError as error:
                return _error(400, str(error))
            return Response(answer.model_dump_json(), media_type="application/json")

    # -- who may ----------------------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """A token in, a session's cookie out, for the page."""
        body = await read_json(request, _SMALL_BODY)
        secret = body.get("token") if isinstance(body, dict) else None
        value = self._gate.session(secret.strip()) if isinstance(secret, str) else None
        if value is None:
            return _error(401, "this token is not known")
        response = JSONResponse({"status": "signed in"})
        secure = request.url.scheme == "https"
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


class _Stream(StreamingResponse):
    """A stream that tells when it is over, however it ends."""

    def __init__(self, content: Any, over: Callable[[], None], **more: Any) -> None:
        super().__init__(content, **more)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


class _Headers:
    """Every answer carries the same headers, an error's too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, sending)


async def _page(request: Request) -> Response:
    found = _FILES.get(request.path_params.get("file", ""))
    if found is None:
        raise IntakeError(404, "there is nothing here")
    name, kind = found
    return Response((PAGE / name).read_bytes(), media_type=kind)


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, IntakeError)  # noqa: S101 (registered for it alone)
    response = _error(error.status, error.message)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it alone)
    response = _error(error.status_code, HTTPStatus(error.status_code).phrase.lower())
    response.headers.update(error.headers or {})
    return response


async def _broken(request: Request, error: Exception) -> Response:
    # Its text may hold what was asked, or a key: the type must do.
    del request
    _LOG.error("the ops app failed with %s", type(error).__name__)
    return _error(500, "something broke; the log names it")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message, "status": int(status)}, int(status))


def _what_is_wrong(error: ValidationError) -> str:
    # Without the input itself: it is somebody's prompt.
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in wrong[:10])


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:MAX_REASON_CHARS].strip()


def _default_metrics() -> Metrics | None:
    try:
        from resilience.telemetry.metrics import default_metrics

        return default_metrics()
    except ConfigurationError:
        return None

"""Evidence: what an exception and its causes say, gathered once, judged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilience.middleware.bodies import codes_of, decoded, parsed_body, sentences_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEEPEST = 40
_LONGEST_TEXT = 4000
_PLAIN = frozenset({"object", "BaseException", "Exception", "OSError", "ABC", "Generic"})

# Class names that settle what happened on the wire: what stands behind them is somebody else's.
TIMEOUTS = frozenset(
    {
        "TimeoutError",
        "TimeoutException",
        "APITimeoutError",
        "Timeout",
        "ReadTimeoutError",
        "ConnectTimeoutError",
    }
)
TRANSPORT = frozenset(
    {
        "NetworkError",  # httpx: connect, read, write, close
        "RemoteProtocolError",
        "ProxyError",
        "ConnectionError",  # builtin: refused, reset, aborted, broken pipe; requests
        "gaierror",
        "SSLError",
        "APIConnectionError",  # of the SDKs; LiteLLM's own of that name says nothing, see `mapped`
        "ClientConnectionError",  # aiohttp
        "ClientPayloadError",
        "HTTPClientError",  # botocore
        "ProtocolError",  # urllib3
        "IncompleteRead",
        "IncompleteReadError",
        "ConnectionClosed",  # websockets
    }
)
BAD_JSON = frozenset({"JSONDecodeError", "DecodingError", "APIResponseValidationError", "UnicodeDecodeError"})
IMPORTS = frozenset({"ImportError"})
_SETTLING = TIMEOUTS | TRANSPORT | BAD_JSON | IMPORTS

_LITELLM_WRAPPERS = frozenset({"wrapper", "wrapper_async"})

MARK = "_resilience_mark"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the one who called knows and an exception cannot tell.

    Attributes:
        sent: Whether the request reached the wire; None: unknown.
        streaming: Whether the answer had already begun to stream.
        outer: The exception that was being handled when the call was made: no part of what happened here.
        said: The error event of a stream as it arrived; LiteLLM loses its type.
    """

    sent: bool | None = None
    streaming: bool = False
    outer: BaseException | None = None
    said: str | None = None


def mark(error: BaseException, note: Mark) -> None:
    """Leave a note on an exception for `gather`. Exceptions that take no attributes are left alone."""
    try:
        setattr(error, MARK, note)
    except (AttributeError, TypeError):
        return


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rows of the table look at.

    Attributes:
        outer: Class names of the exception itself, its bases included.
        classes: Class names of the whole chain but for LiteLLM's own, bases included.
        mapped: Class names that LiteLLM put around it, bases included.
        wire_status: The status of a response that really arrived; None: there was none in the chain.
        status: The same, else the number that an error event or LiteLLM gives.
        codes: Codes, types and reasons in the bodies, in lower case.
        text: What was said, in lower case, cut.
        headers: Of the response, names in lower case, wherever LiteLLM left them.
        bodies: Parsed error bodies.
        sent: Whether the request reached the wire; None: unknown.
        streaming: Whether the answer had already begun to stream.
    """

    outer: frozenset[str]
    classes: frozenset[str]
    mapped: frozenset[str]
    wire_status: int | None
    status: int | None
    codes: frozenset[str]
    text: str
    headers: Mapping[str, str]
    bodies: tuple[dict[str, Any], ...]
    sent: bool | None
    streaming: bool


def gather(error: BaseException, *, sent: bool | None = None) -> Evidence:
    """Read everything that an exception says.

    Args:
        error: Any exception.
        sent: Whether the request reached the wire, where the caller knows.
    """
    note = getattr(error, MARK, None)
    note = note if isinstance(note, Mark) else Mark()
    sent = sent if sent is not None else note.sent
    streaming = note.streaming
    collected = _Collected()
    if note.said is not None:
        collected.add_event(note.said)
    for link in _chain(error, note.outer):
        collected.add(link)
        streaming = streaming or type(link).__name__ == "MidStreamFallbackError"
        if sent is None:
            sent = _pre_call_seen(link)
    status = collected.wire_status or collected.body_status or collected.mapped_status
    return Evidence(
        outer=frozenset(_names(error)),
        classes=frozenset(collected.classes),
        mapped=frozenset(collected.mapped),
        wire_status=collected.wire_status,
        status=status,
        codes=frozenset(collected.codes),
        text=collected.text(),
        headers=collected.headers,
        bodies=tuple(collected.bodies),
        sent=sent,
        streaming=streaming,
    )


def _names(error: BaseException) -> Iterator[str]:
    return (base.__name__ for base in type(error).__mro__ if base.__name__ not in _PLAIN)


def _is_litellm(error: BaseException) -> bool:
    # MaskedHTTPStatusError is LiteLLM's, but it is an httpx error with the real response in it.
    return type(error).__module__.startswith("litellm.") and type(error).__name__ != "MaskedHTTPStatusError"


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """The exception and what led to it, the nearest first, without what somebody else was handling then."""
    waiting: list[BaseException] = [error]
    seen: set[int] = {id(outer)} if outer is not None else set()
    settled = False
    while waiting and len(seen) < _DEEPEST:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        foreign = not _is_litellm(link)
        if foreign and (_real_response(link) is not None or not _SETTLING.isdisjoint(_names(link))):
            settled = True
        # Last in, first out: the stream's own error first, then the cause, then the members of a group.
        members = getattr(link, "exceptions", None) or ()
        waiting.extend(member for member in reversed(members) if isinstance(member, BaseException))
        if link.__cause__ is not None:
            waiting.append(link.__cause__)
        elif link.__context__ is not None and not settled:
            # LiteLLM raises its mapped errors without `from`: only the context leads to the real one.
            waiting.append(link.__context__)
        original = getattr(link, "original_exception", None)
        if isinstance(original, BaseException):
            waiting.append(original)


def _real_response(error: BaseException) -> Any:
    """The response of an error that has one; LiteLLM's own errors carry invented ones."""
    if _is_litellm(error):
        return None
    response = getattr(error, "response", None)
    if response is None and "ClientResponseError" in set(_names(error)):
        return error
    return response if _status_of(response) is not None else None


def _status_of(response: Any) -> int | None:
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata")
        status = response.get("HTTPStatusCode") if isinstance(response, dict) else None
    else:
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
    return _as_status(status)


def _as_status(value: object) -> int | None:
    if isinstance(value, str) and value.isdigit() and len(value) == 3:
        value = int(value)
    return int(value) if isinstance(value, int) and 100 <= value <= 599 else None


class _Collected:
    def __init__(self) -> None:
        self.classes: set[str] = set()
        self.mapped: set[str] = set()
        self.codes: set[str] = set()
        self.said: list[str] = []
        self.mapped_said: list[str] = []
        self.headers: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.wire_status: int | None = None
        self.body_status: int | None = None
        self.mapped_status: int | None = None

    def text(self) -> str:
        """What the provider said; what LiteLLM made of it only where that is all there is."""
        said = self.said if self.wire_status is not None and self.said else self.said + self.mapped_said
        return " ".join(said)[:_LONGEST_TEXT].lower()

    def add(self, link: BaseException) -> None:
        litellm = _is_litellm(link)
        (self.mapped if litellm else self.classes).update(_names(link))
        response = _real_response(link)
        if response is not None and self.wire_status is None:
            self.wire_status = _status_of(response)
        raw_status = getattr(link, "status_code", None)
        status = _as_status(raw_status)
        if litellm and status is not None and status != 200:
            # The innermost wins: it stands nearest to what the provider said.
            self.mapped_status = status
        elif not litellm and response is None and status is not None:
            self.body_status = self.body_status or status
        elif isinstance(raw_status, str):
            self.codes.add(raw_status.lower())  # LiteLLM puts the code of an error inside a 200 there
        self._add_headers(link, response)
        self._add_bodies(link, response, litellm=litellm)

    def add_event(self, said: str) -> None:
        body = parsed_body(said)
        if body is not None:
            self._add_body(body, self.said)

    def _add_headers(self, link: BaseException, response: Any) -> None:
        found = (
            getattr(link, "litellm_response_headers", None),
            getattr(link, "headers", None),
            getattr(response, "headers", None),
            response.get("ResponseMetadata", {}).get("HTTPHeaders") if isinstance(response, dict) else None,
        )
        for headers in found:
            items = getattr(headers, "items", None)
            for name, value in items() if callable(items) else ():
                if isinstance(name, str) and isinstance(value, (str, int, float)):
                    self.headers.setdefault(name.lower().removeprefix("llm_provider-"), str(value))

    def _add_bodies(self, link: BaseException, response: Any, *, litellm: bool) -> None:
        into = self.mapped_said if litellm else self.said
        found = [getattr(link, "body", None), _text_of(response)]
        if not any(found):
            # Only then: the sentence of an error with a response names the URL, and a URL names models.
            message = getattr(link, "message", None)
            found.append(message if isinstance(message, (str, bytes)) and message else str(link))
        for said in found:
            parsed = said if isinstance(said, dict) else parsed_body(said)
            if parsed is not None:
                self._add_body(parsed, into)
            elif isinstance(said, (str, bytes)) and said:
                into.append(decoded(said)[:_LONGEST_TEXT])
        if not litellm:
            for name in ("code", "type"):
                self._add_code(getattr(link, name, None))
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            self._add_body(response["Error"], into)

    def _add_body(self, body: dict[str, Any], into: list[str]) -> None:
        self.bodies.append(body)
        for code in codes_of(body):
            self._add_code(code)
        into.extend(sentence[:_LONGEST_TEXT] for sentence in sentences_of(body))

    def _add_code(self, value: object) -> None:
        if isinstance(value, str) and 0 < len(value) <= 200:
            self.codes.add(value.lower())
        status = _as_status(value)
        if status is not None and self.body_status is None and status >= 400:
            self.body_status = status


def _text_of(response: Any) -> str | None:
    if isinstance(response, dict) or response is None:
        return None
    try:
        text = response.text
    except Exception:  # noqa: BLE001 (an unread or closed stream: each client raises its own class)
        return None
    return text if isinstance(text, str) else None


def _pre_call_seen(link: BaseException) -> bool | None:
    """Whether LiteLLM's pre-call event fired in the call that raised this; None where LiteLLM was not in it.

    Its wrapper keeps the call's own logging object in a local variable, and that notes the moment of the
    pre-call event. Reading it there needs no callback, and nothing that could reach the provider.
    """
    trace = link.__traceback__
    seen: bool | None = None
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name in _LITELLM_WRAPPERS and frame.f_globals.get("__name__") == "litellm.utils":
            details = getattr(frame.f_locals.get("logging_obj"), "model_call_details", None)
            fired = isinstance(details, dict) and details.get("api_call_start_time") is not None
            seen = bool(seen) or fired
        trace = trace.tb_next
    return seen

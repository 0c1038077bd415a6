"""Dialects: whole answers and event streams as OpenAI and Anthropic write them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilience.testing.faults import error_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from resilience.testing.faults import Fault

PATHS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/embeddings": "embeddings",
    "/embeddings": "embeddings",
    "/v1/images/generations": "images",
    "/images/generations": "images",
    "/v1/responses": "responses",
    "/responses": "responses",
    "/v1/messages": "anthropic",
    "/messages": "anthropic",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a provider is about to say."""

    model: str
    text: str
    prompt_tokens: int
    fault: Fault

    @property
    def tokens(self) -> list[str]:
        """The text cut into words, their spaces kept: one chunk each."""
        words = self.text.split(" ")
        return [word if i == 0 else " " + word for i, word in enumerate(words)] if self.text else []

    @property
    def completion_tokens(self) -> int:
        """One token a word."""
        return len(self.tokens)


def count_tokens(body: Mapping[str, Any]) -> int:
    """About one token in four letters of whatever was asked."""
    asked = body.get("messages") or body.get("input") or ""
    return max(1, len(json.dumps(asked)) // 4)


def _chat_usage(reply: Reply) -> dict[str, int]:
    total = reply.prompt_tokens + reply.completion_tokens
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": total,
    }


def _other_usage(reply: Reply) -> dict[str, Any]:
    return {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens}


def _chat(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text, **dict(reply.fault.fields)}
    reason = reply.fault.stop or ("tool_calls" if "tool_calls" in message else "stop")
    return {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 1700000000,
        "model": reply.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _chat_usage(reply),
    }


def _embeddings(reply: Reply, inputs: int) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": [0.25, 0.5, 0.25]} for i in range(max(1, inputs))],
        "model": reply.model,
        "usage": {"prompt_tokens": reply.prompt_tokens, "total_tokens": reply.prompt_tokens},
    }


def _images(reply: Reply) -> dict[str, Any]:
    # As of a model that is paid by the picture: what it is told to say stands in for one.
    return {"created": 1700000000, "data": [{"url": "https://127.0.0.1/picture.png"}] if reply.text else []}


def _response(reply: Reply, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": reply.text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": [part]}
    usage = {
        **_other_usage(reply),
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": "resp_loopback",
        "object": "response",
        "created_at": 1700000000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": reply.model,
        "output": [item] if status == "completed" and reply.text else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _message(reply: Reply) -> dict[str, Any]:
    return {
        "id": "msg_loopback",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [{"type": "text", "text": reply.text}] if reply.text else [],
        "stop_reason": reply.fault.stop or "end_turn",
        "stop_sequence": None,
        "usage": _other_usage(reply),
    }


def whole(dialect: str, reply: Reply, body: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer in the dialect of the path that was asked."""
    if dialect == "embeddings":
        asked = body.get("input")
        return _embeddings(reply, len(asked) if isinstance(asked, list) else 1)
    makers: dict[str, Callable[[Reply], dict[str, Any]]] = {
        "chat": _chat,
        "images": _images,
        "responses": _response,
        "anthropic": _message,
    }
    return makers[dialect](reply)


def event(data: Mapping[str, Any] | str, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def named(data: Mapping[str, Any]) -> bytes:
    """One event whose name stands in it, as Anthropic and the responses API send them."""
    return event(data, str(data["type"]))


@dataclass(frozen=True, slots=True)
class Script:
    """A stream in three parts: what opens it, one event a token, what closes it."""

    opening: list[bytes]
    tokens: list[bytes]
    closing: list[bytes]


def script(dialect: str, reply: Reply, body: Mapping[str, Any]) -> Script:
    """A whole stream in the dialect of the path that was asked."""
    if dialect == "anthropic":
        return _anthropic_script(reply)
    if dialect == "responses":
        return _responses_script(reply)
    return _chat_script(reply, usage=bool((body.get("stream_options") or {}).get("include_usage")))


def _chunk(reply: Reply, delta: dict[str, Any], reason: str | None = None, **more: object) -> dict[str, Any]:
    return {
        "id": "chatcmpl-loopback",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": reply.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


def _chat_script(reply: Reply, *, usage: bool) -> Script:
    fault = reply.fault
    opening = [event(_chunk(reply, {"role": "assistant", "content": ""}))] if fault.role_only else []
    tokens = [event(_chunk(reply, {"content": token})) for token in reply.tokens]
    tokens += [event(_chunk(reply, {key: value})) for key, value in fault.fields]
    closing = []
    if fault.finish:
        reason = fault.stop or ("tool_calls" if "tool_calls" in dict(fault.fields) else "stop")
        closing.append(event(_chunk(reply, {}, reason)))
    if usage:
        closing.append(event({**_chunk(reply, {}), "choices": [], "usage": _chat_usage(reply)}))
    if fault.terminator:
        closing.append(event("[DONE]"))
    return Script(opening, tokens, closing)


def _anthropic_script(reply: Reply) -> Script:
    fault = reply.fault
    start = {**_message(reply), "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": reply.prompt_tokens, "output_tokens": 1}
    opening = [
        named({"type": "message_start", "message": start}),
        named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        named({"type": "ping"}),
    ]
    tokens = [
        named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}})
        for token in reply.tokens
    ]
    closing = [named({"type": "content_block_stop", "index": 0})]
    if fault.finish:
        delta = {"stop_reason": fault.stop or "end_turn", "stop_sequence": None}
        usage = {"output_tokens": reply.completion_tokens}
        closing.append(named({"type": "message_delta", "delta": delta, "usage": usage}))
    if fault.terminator:
        closing.append(named({"type": "message_stop"}))
    return Script(opening, tokens, closing)


def _responses_script(reply: Reply) -> Script:
    numbers: Iterator[int] = iter(range(1_000_000))

    def numbered(data: dict[str, Any]) -> bytes:
        return named({**data, "sequence_number": next(numbers)})

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    begun = _response(reply, "in_progress")
    opening = [
        numbered({"type": "response.created", "response": begun}),
        numbered({"type": "response.in_progress", "response": begun}),
        numbered({"type": "response.output_item.added", "output_index": 0, "item": item}),
        numbered({"type": "response.content_part.added", **place, "part": part}),
    ]
    tokens = [
        numbered({"type": "response.output_text.delta", **place, "delta": token, "logprobs": []})
        for token in reply.tokens
    ]
    done = _response(reply)
    closing = [
        numbered({"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []}),
        numbered({"type": "response.content_part.done", **place, "part": {**part, "text": reply.text}}),
        *(numbered({"type": "response.output_item.done", "output_index": 0, "item": item}) for item in done["output"]),
    ]
    if reply.fault.finish:
        closing.append(numbered({"type": "response.completed", "response": done}))
    return Script(opening, tokens, closing)


def stream_error(dialect: str, reply: Reply) -> bytes:
    """An error event as the fault's form, or the path's own dialect, writes it."""
    fault = reply.fault
    form = fault.form or dialect
    if form == "anthropic":
        return named(error_object("anthropic", 500, fault.code, fault.type, fault.message))
    if form == "openrouter":
        error = {"code": 502, "message": fault.message, "metadata": {"error_type": fault.code}}
        return event(_chunk(reply, {"content": ""}, "error", error=error, provider="Loopback"))
    if form == "failed":
        failed = {**_response(reply, "failed"), "error": {"code": fault.code, "message": fault.message}}
        return named({"type": "response.failed", "response": failed, "sequence_number": 99})
    if form == "responses":
        error = {"type": "error", "code": fault.code, "message": fault.message, "param": None}
        return named({**error, "sequence_number": 99})
    return event(error_object("openai", 500, fault.code, fault.type, fault.message))

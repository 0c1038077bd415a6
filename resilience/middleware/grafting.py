"""Grafting: asking another target to write on after half an answer, and making one answer of the two."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from resilience.middleware.answers import field
from resilience.middleware.pieces import kind_of
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.upstream import Delivered, Piece, Target

# These take an assistant's turn at the end for a beginning only where it says so; others know no such key.
_MARKED: Final = frozenset({"mistral", "codestral", "deepseek"})
_OPENINGS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


@lru_cache(maxsize=4096)
def takes_prefill(model: str) -> bool:
    """What LiteLLM's model map says; a model that is not in it may be tried."""
    import litellm  # noqa: PLC0415 (loaded already; named here for a function without an instance)

    try:
        info = litellm.get_model_info(model)
    except Exception:  # noqa: BLE001 (LiteLLM raises a plain Exception for a model that it does not know)
        return True
    return info.get("supports_assistant_prefill") is True


def asks_plain_text(operation: Operation, params: Mapping[str, Any]) -> bool:
    """Whether a request asks for one text: neither a document with a form, nor several answers, nor a voice."""
    if operation is Operation.RESPONSES:
        form = field(params.get("text"), "format")
        return params.get("text_format") is None and field(form, "type") in {None, "text"}
    form = params.get("response_format")
    if form is not None and field(form, "type") != "text":
        return False
    return (params.get("n") or 1) == 1 and "audio" not in (params.get("modalities") or ())


def continued(target: Target, operation: Operation, params: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The parameters with ``text`` as the assistant's turn at the end."""
    turn: dict[str, Any] = {"role": "assistant", "content": text.rstrip()}  # spaces at the end are refused by some
    if operation is Operation.RESPONSES:
        asked = params.get("input")
        items = list(asked) if isinstance(asked, (list, tuple)) else [{"role": "user", "content": asked}]
        return {**params, "input": [*items, turn]}
    messages = list(params.get("messages") or ())
    last = messages[-1] if messages else None
    own = field(last, "content")
    if field(last, "role") == "assistant" and isinstance(own, str) and not field(last, "tool_calls"):
        # The caller has begun the answer himself.
        turn["content"] = own + turn["content"]
        messages.pop()
    if target.provider.split("/", 1)[0] in _MARKED:
        turn["prefix"] = True
    return {**params, "messages": [*messages, turn]}


def graft(operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> ChatGraft | EventGraft:
    """What makes the pieces of a continuation fit on what was delivered."""
    spent = _Spent(operation, params, delivered)
    return EventGraft(delivered, spent) if operation is Operation.RESPONSES else ChatGraft(delivered, spent)


class _Spent:
    """The tokens of those who broke, counted where a sum is asked for: they were paid for, and nobody told them.

    Counted as LiteLLM counts streams that tell no usage, by one tokenizer for all: nothing is fetched for it.
    """

    def __init__(self, operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> None:
        self._asked = params.get("input" if operation is Operation.RESPONSES else "messages")
        self._parts = delivered.parts

    def tokens(self) -> tuple[int, int]:
        """Of the prompts and of the answers."""
        from litellm import token_counter  # noqa: PLC0415 (loaded already)

        texts = [token_counter(model="", text=part) if part else 0 for part in self._parts]
        if isinstance(self._asked, str):
            asked = token_counter(model="", text=self._asked)
        else:
            asked = token_counter(model="", messages=list(self._asked or ()))
        # Each got what all before it had said, too.
        given = sum(asked + sum(texts[:at]) for at in range(len(texts)))
        return given, sum(texts)

    def added_to(self, usage: Any, asked: str, answered: str) -> Any:
        """The usage with them, or as it is where they cannot be counted."""
        try:
            more = self.tokens()
            sums = {
                asked: field(usage, asked) + more[0],
                answered: field(usage, answered) + more[1],
                "total_tokens": field(usage, "total_tokens") + sum(more),
            }
        except Exception:  # noqa: BLE001 (LiteLLM's counter raises whatever a message makes it stumble over)
            return usage
        if isinstance(usage, dict):
            return {**usage, **sums, "cost": None}
        # What it cost was told for the last one only.
        return usage.model_copy(update={**sums, "cost": None} if field(usage, "cost") is not None else sums)


class ChatGraft:
    """Chunks of a chat stream: with the answer's id, the model of who sent them, and everybody's usage."""

    def __init__(self, delivered: Delivered, spent: _Spent) -> None:
        self._id = field(delivered.last, "id")
        self._spent = spent

    def grown(self, piece: Piece, text: str, repeated: int) -> Piece | None:  # noqa: ARG002 (chunks tell only their own)
        """The piece as the reader gets it; None for the role at the beginning."""
        chunk = piece.chunk
        usage = getattr(chunk, "usage", None)
        if not piece.has_content and usage is None and not any(choice.finish_reason for choice in chunk.choices):
            return None
        # Copies: LiteLLM makes its own books of the chunks that it gave.
        update: dict[str, Any] = {"id": self._id} if self._id else {}
        if usage is not None:
            update["usage"] = self._spent.added_to(usage, "prompt_tokens", "completion_tokens")
        made = chunk.model_copy(update=update)
        if chunk.choices and field(chunk.choices[0].delta, "content") not in {text, None}:
            first = chunk.choices[0].model_copy()
            first.delta = first.delta.model_copy()
            first.delta.content = text
            made.choices = [first, *chunk.choices[1:]]
        return piece._replace(chunk=made, text=text)


class EventGraft:
    """Events of the Responses API: one message that goes on, and whole texts at its end."""

    def __init__(self, delivered: Delivered, spent: _Spent) -> None:
        last = delivered.last
        places = {name: field(last, name) for name in ("item_id", "output_index", "content_index")}
        self._place = {name: value for name, value in places.items() if value is not None}
        self._number = field(last, "sequence_number")
        self._before = delivered.text
        self._models = delivered.models
        self._spent = spent

    def grown(self, piece: Piece, text: str, repeated: int) -> Piece | None:
        """The piece as the reader gets it; None for the events that begin an answer."""
        event = piece.chunk
        kind = kind_of(event)
        if self._place and (kind in _OPENINGS or kind.endswith(".added")) and piece.is_plain:
            return None
        update: dict[str, Any] = {}
        if ".output_text." in kind or kind.startswith("response.content_part"):
            update |= self._place
        if kind == "response.output_text.delta":
            update["delta"] = text
        elif kind == "response.output_text.done":
            update["text"] = self._whole(event, repeated)
        elif kind == "response.content_part.done":
            update["part"] = self._part(field(event, "part"), repeated)
        elif kind == "response.output_item.done":
            update["item"] = self._item(field(event, "item"), repeated)
        elif kind in _ENDINGS:
            update["response"] = self._response(field(event, "response"), repeated)
        if isinstance(self._number, int):
            self._number += 1
            update["sequence_number"] = self._number
        return piece._replace(chunk=_changed(event, update), text=text)

    def _whole(self, part: Any, repeated: int) -> str:
        own = field(part, "text")
        return self._before + (own[repeated:] if isinstance(own, str) else "")

    def _part(self, part: Any, repeated: int) -> Any:
        return _changed(part, {"text": self._whole(part, repeated)}) if field(part, "type") == "output_text" else part

    def _item(self, item: Any, repeated: int) -> Any:
        content = field(item, "content")
        if field(item, "type") != "message" or not content:
            return item
        update: dict[str, Any] = {"content": [self._part(content[0], repeated), *content[1:]]}
        if "item_id" in self._place:
            update["id"] = self._place["item_id"]
        return _changed(item, update)

    def _response(self, response: Any, repeated: int) -> Any:
        model, usage = field(response, "model"), field(response, "usage")
        output = list(field(response, "output") or ())
        at = next((at for at, item in enumerate(output) if field(item, "type") == "message"), None)
        if at is not None:
            output[at] = self._item(output[at], repeated)
        update: dict[str, Any] = {"output": output}
        if isinstance(model, str):
            update["model"] = "+".join([*self._models, model])
        if usage is not None:
            names = ("prompt_tokens", "completion_tokens")
            if field(usage, "input_tokens") is not None:
                names = ("input_tokens", "output_tokens")
            update["usage"] = self._spent.added_to(usage, *names)
        return _changed(response, update)


def _changed(of: Any, update: dict[str, Any]) -> Any:
    """A copy of an object or a dict with other values."""
    if isinstance(of, dict):
        return {**of, **update}
    made = of.model_copy(update=update)
    # LiteLLM writes some fields past its own models: there they hide what the copy was given.
    made.__dict__.update({name: value for name, value in update.items() if name in made.__dict__})
    return made

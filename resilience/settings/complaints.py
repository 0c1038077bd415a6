"""What is wrong with settings, in sentences: the path, the value, what is allowed. Never a secret."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import ValidationError

NOT_AVAILABLE = "not available in this version"
_TOLD = "told"
"""The type of an error whose message is already a sentence of ours."""

_PLAIN_NAME = re.compile(r"[\w*-]+")
# A value that may be a credential in the wrong place, or an address that carries one.
_SECRETIVE = re.compile(
    r"://|^\s*(sk|pk|rk|gsk|xai|hf|ghp)[-_]|^(AKIA|AIza|ey[JI]|Bearer )|[\w+/=-]{24,}", re.IGNORECASE
)

# pydantic's words to ours. What is missing here keeps pydantic's sentence, which shows no value.
_ALLOWED: dict[str, str] = {
    "literal_error": "one of {expected}",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_HOLDS_OTHERS = frozenset({"tuple_type", "list_type", "dict_type", "model_type"})


def finished(sentence: str) -> PydanticCustomError:
    """An error whose message needs no more work."""
    # The sentence goes in as a value: as a template, its braces would be read as fields.
    return PydanticCustomError(_TOLD, "{text}", {"text": sentence})


def complaint(sentence: str, *loc: str | int) -> InitErrorDetails:
    """One error at ``loc``, a path relative to the section that reports it."""
    return InitErrorDetails(type=finished(sentence), loc=loc, input=None)


def refusal(value: object, allowed: str) -> str:
    """``-1 is not allowed; allowed: a number above 0``."""
    return f"{shown(value)} is not allowed; allowed: {allowed}"


def shown(value: object) -> str:
    """A value as an error may show it: short scalars whole, the rest by its kind only."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= 24 else "a number that long"
    if isinstance(value, str):
        if not value.strip():
            return "an empty text"
        return f"a text of {len(value)} characters" if len(value) > 40 or _SECRETIVE.search(value) else repr(value)
    return (
        "a mapping"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list | tuple)
        else type(value).__name__
    )


def says(allowed: str) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """A wrap validator that tells the whole range whatever part of it a value missed."""

    def check(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValueError:
            refused = finished(refusal(value, allowed))
        raise refused

    return check


def not_yet(*values: str, allowed: str = "") -> Callable[[Any], Any]:
    """A validator that refuses ``values``, or with none of them everything but null, as not built yet."""

    def check(value: Any) -> Any:
        if value in values if values else value is not None:
            raise finished(f"{NOT_AVAILABLE}; allowed: {allowed}" if allowed else NOT_AVAILABLE)
        return value

    return check


def unknown_key(key: object, known: Iterable[str]) -> str:
    """The sentence for a key that nobody knows. Its value may be anything, so it is not shown."""
    names = sorted(known)
    near = nearest(str(key), names)
    guess = f"did you mean {near!r}? " if near else ""
    return f"unknown key; {guess}allowed: {', '.join(names)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, None where none is near."""
    lowered = {name.lower(): name for name in known}
    found = get_close_matches(word.lower().replace("-", "_"), lowered, n=1, cutoff=0.65)
    return lowered[found[0]] if found else None


def is_slip(word: str, meant: str) -> bool:
    """Whether ``word`` is ``meant`` but for its case or one letter: more, fewer, other, or two swapped."""
    word, meant = word.lower(), meant.lower()
    if word == meant:
        return True
    if len(word) > len(meant):
        word, meant = meant, word
    if len(meant) - len(word) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), len(word))
    if len(word) < len(meant):
        return word[at:] == meant[at + 1 :]
    return word[at + 1 :] == meant[at + 1 :] or (
        word[at : at + 2] == meant[at : at + 2][::-1] and word[at + 2 :] == meant[at + 2 :]
    )


def in_sentences(error: ValidationError, nullable: Iterable[str]) -> list[InitErrorDetails]:
    """Each error that pydantic found in one section, as a sentence of ours at its place.

    Args:
        error: What pydantic found. Errors of inner sections have been told by those already.
        nullable: The section's fields that may be null: their sentences say so.
    """
    optional = frozenset(nullable)
    told = []
    for found in error.errors(include_url=False):
        loc, kind, value = found["loc"], found["type"], found["input"]
        sentence = found["msg"]
        if kind in _ALLOWED:
            allowed = _ALLOWED[kind].format(**found.get("ctx", {}))
            # A text where a mapping belongs is often a key in the wrong line.
            hidden = kind in _HOLDS_OTHERS and isinstance(value, str)
            sentence = f"a text is not allowed; allowed: {allowed}" if hidden else refusal(value, allowed)
        if kind == "missing":
            sentence = "required"
        if loc and loc[-1] == "[key]":
            loc, sentence = (
                loc[:-2],
                f"{shown(loc[-2])} is not allowed as a name; allowed: a text (put it in quotes)",
            )
        elif len(loc) == 1 and loc[0] in optional and NOT_AVAILABLE not in sentence:
            sentence += ", or null"
        told.append(complaint(sentence, *loc))
    return told


def told(error: ValidationError, source: str | None = None, what: str = "the settings") -> str:
    """The message of a ConfigurationError: every error of a validation, each with its path.

    Args:
        error: What is wrong.
        source: The file it stands in.
        what: What is called so where it stands in no file.
    """
    lines = [
        f"{path(found['loc'])}: {found['msg']}" if found["loc"] else found["msg"]
        for found in error.errors(include_url=False, include_input=False)
    ]
    return listed(lines, what, source)


def listed(lines: Sequence[str], what: str, source: str | None = None) -> str:
    """One sentence as it is, several under a line that counts them."""
    if len(lines) == 1:
        return f"{source}: {lines[0]}" if source else lines[0]
    return "\n  ".join([f"{len(lines)} errors in {source or what}:", *lines])


def path(loc: Iterable[str | int]) -> str:
    """``routes.chat.targets[1].weight``; names with dots or slashes stand as ``providers["azure/east"]``."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text

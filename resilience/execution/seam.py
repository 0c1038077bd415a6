"""The seam: where a continuation meets what was delivered. What it says twice is left out, and nothing else."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilience.upstream import Graft, Piece

# A few words may well come twice; so many in a row, exactly at the break, are a repetition.
_LEAST_CHARS: Final = 24
_LEAST_WORDS: Final = 4


def repeated(before: str, after: str) -> int:
    """How many characters at the beginning of ``after`` only repeat ``before``.

    All of ``before`` once more: a target that begins anew, or that gives back what it was given. The end of it, if
    that is four words or more: one that takes a run-up. And spaces at the break, which are not sent along, since
    providers refuse a beginning that ends in one.
    """
    if before and after.startswith(before):
        return len(before)
    stripped = before.rstrip()
    if stripped and after.startswith(stripped):  # as it was sent
        return _spaces(before, len(stripped), after)
    for length in range(min(len(before), len(after)), _LEAST_CHARS - 1, -1):
        if before.endswith(after[:length]) and len(set(after[:length].split())) >= _LEAST_WORDS:
            return length
    return _common(before[len(stripped) :], after)


def _spaces(before: str, stripped: int, after: str) -> int:
    return stripped + _common(before[stripped:], after[stripped:])


def _common(spaces: str, after: str) -> int:
    length = 0
    while length < min(len(spaces), len(after)) and spaces[length] == after[length]:
        length += 1
    return length


class Seam:
    """Takes the pieces of a continuation, and gives those that the reader gets.

    The first of them are held back for as long as they could be a repetition: while all that was said stands
    somewhere in what was delivered. That is a piece or two, or the length of the repetition.

    Args:
        graft: Makes them pieces of the whole answer.
        before: The text that was delivered.
    """

    __slots__ = ("_before", "_graft", "_held", "_joined", "_repeated", "_said")

    def __init__(self, graft: Graft, before: str) -> None:
        self._graft = graft
        self._before = before
        self._held: list[Piece] = []
        self._said = ""
        self._joined = not before
        self._repeated = 0

    def all_of(self, pieces: Iterable[Piece]) -> deque[Piece]:
        """What comes of several pieces."""
        ready: deque[Piece] = deque()
        for piece in pieces:
            ready.extend(self.take(piece))
        return ready

    def take(self, piece: Piece) -> list[Piece]:
        """What comes of one piece: it, nothing yet, or it and those that were held back."""
        if self._joined or not (piece.text or self._said):
            return self._grown([piece])
        self._held.append(piece)
        self._said += piece.text
        return [] if self._said in self._before else self._join()

    def rest(self) -> list[Piece]:
        """At the end: what is still held back."""
        return [] if self._joined else self._join()

    def _join(self) -> list[Piece]:
        self._joined = True
        left = self._repeated = repeated(self._before, self._said)
        pieces = []
        for piece in self._held:
            cut = min(left, len(piece.text))
            left -= cut
            pieces.append(piece._replace(text=piece.text[cut:]))
        self._held = []
        return self._grown(pieces)

    def _grown(self, pieces: list[Piece]) -> list[Piece]:
        grown = (self._graft.grown(piece, piece.text, self._repeated) for piece in pieces)
        return [piece for piece in grown if piece is not None]

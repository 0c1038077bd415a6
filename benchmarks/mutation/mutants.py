"""Mutants: every small fault that one file can be given. mutmut's operators, and four of our own beside them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Declarations, not decisions: what they say is held by the type checker, or breaks every import.
_DECLARATIONS = frozenset({"__slots__", "__all__"})
_TYPE_MAKERS = frozenset({"TypeVar", "ParamSpec", "cast"})
# mutmut leaves their arguments alone as well: another number of them is a TypeError in each test.
_NOT_WITHOUT_ARGUMENTS = frozenset({"len", "isinstance"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    Attributes:
        file: The file's path from the root of the repository.
        function: The qualified name of the function it is in, "" for the module's own level.
        first_line: The first line of the statement.
        last_line: Its last line; of a compound statement, the last one of its head.
        statement: The text of the first one.
        before: The text that was there.
        after: The text that is there now.
        source: The whole file with the fault.
        at_import: Whether it is in a module's or class's own statements: they run once, when it is imported.
        key: What identifies it as long as nobody edits its function.
    """

    file: str
    function: str
    first_line: int
    last_line: int
    statement: str
    before: str
    after: str
    source: str
    key: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.first_line} {self.function}: `{self.before}` -> `{self.after}`"


def mutants_of(path: Path, file: str) -> list[Mutant]:
    """Every mutant of one file that compiles, each different text once."""
    text = path.read_text(encoding="utf-8")
    rows = text.splitlines()
    wrapper = MetadataWrapper(cst.parse_module(text))
    maker = _Maker(wrapper, text.encode())
    made, seen, counts = [], {text}, Counter[str]()
    for place, node, changed in maker.changes(wrapper.module, _Place("", 1, 1, "")):
        source, before, after = maker.spliced(node, changed)
        if source in seen:
            continue
        seen.add(source)
        try:
            compile(source, str(path), "exec", dont_inherit=True)
        except SyntaxError:
            continue
        same = f"{file}\0{place.function}\0{place.body}\0{before}\0{after}"
        counts[same] += 1
        key = hashlib.sha256(f"{same}\0{counts[same]}".encode()).hexdigest()[:20]
        lines = place.first_line, place.last_line, rows[place.first_line - 1].strip()
        made.append(Mutant(file, place.function, *lines, before, after, source, key, place.at_import))
    return made


@dataclass(frozen=True, slots=True)
class _Place:
    function: str
    first_line: int
    last_line: int
    body: str
    at_import: bool = True


class _Maker:
    def __init__(self, wrapper: MetadataWrapper, text: bytes) -> None:
        self._text = text
        self._module = wrapper.module
        self._spans = wrapper.resolve(ByteSpanPositionProvider)
        self._positions = wrapper.resolve(PositionProvider)

    def changes(self, node: cst.CSTNode, place: _Place) -> Iterator[tuple[_Place, cst.CSTNode, cst.CSTNode]]:
        """Each node that can be changed below ``node``, where it stands, and what it becomes."""
        if _is_left_alone(node):
            return
        place = self._place_of(node, place)
        if node in self._spans:
            for kind, operator in (*mutation_operators, *_OWN_OPERATORS):
                if isinstance(node, kind) and not (operator is operator_arg_removal and _called(node) in _UNTOUCHED):
                    yield from ((place, node, changed) for changed in operator(node))
            if isinstance(node, cst.If | cst.While | cst.CompIf | cst.Assert):
                yield from ((place, node.test, changed) for changed in _opposite(node.test))
        if isinstance(node, cst.FunctionDef):
            # Decorators are declarations. Defaults are worked out where the function is made.
            yield from self.changes(node.params, place)
            yield from self.changes(node.body, replace(place, at_import=False))
        elif _called(node) == "cast" and isinstance(node, cst.Call):
            yield from self.changes(node.args[1], place)  # the first one is a type
        else:
            for child in [node.body] if isinstance(node, cst.ClassDef) else node.children:
                yield from self.changes(child, place)

    def spliced(self, node: cst.CSTNode, changed: cst.CSTNode) -> tuple[str, str, str]:
        """The file's text with the change, and the two pieces."""
        span = self._spans[node]
        start, end = span.start, span.start + span.length
        before = self._text[start:end].decode()
        after = self._module.code_for_node(changed)
        if isinstance(node, cst.BaseCompOp):
            after = after.strip()
        text = self._text[:start].decode() + after + self._text[end:].decode()
        return text, before, after

    def _place_of(self, node: cst.CSTNode, place: _Place) -> _Place:
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            name = f"{place.function}.{node.name.value}".lstrip(".")
            body = self._module.code_for_node(node) if isinstance(node, cst.FunctionDef) else ""
            line = self._positions[node].start.line
            last = max(line, self._positions[node.body].start.line - 1)
            return replace(place, function=name, first_line=line, last_line=last, body=body)
        if isinstance(node, cst.SimpleStatementLine):
            where = self._positions[node]
            body = place.body or self._module.code_for_node(node)
            return replace(place, first_line=where.start.line, last_line=where.end.line, body=body)
        if isinstance(node, cst.BaseCompoundStatement):
            first = self._positions[node].start.line
            last = max(first, self._positions[node.body].start.line - 1)
            return replace(place, first_line=first, last_line=last)
        return place


def _is_left_alone(node: cst.CSTNode) -> bool:
    """Whether nothing in it is a decision: annotations, casts, imports, docstrings, declarations."""
    if isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Comment):
        return True
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.BaseString)
    if isinstance(node, cst.If):
        return _named(node.test) == "TYPE_CHECKING"
    if isinstance(node, cst.FunctionDef):
        return any(_named(each.decorator) == "overload" for each in node.decorators)
    if isinstance(node, cst.Assign):
        return _named(node.targets[0].target) in _DECLARATIONS or _called(node.value) in _TYPE_MAKERS - {"cast"}
    return False


def _named(node: cst.CSTNode) -> str:
    return node.value if isinstance(node, cst.Name) else ""


def _called(node: cst.CSTNode) -> str:
    return _named(node.func) if isinstance(node, cst.Call) else ""


_UNTOUCHED = _NOT_WITHOUT_ARGUMENTS | _TYPE_MAKERS


# ---- what mutmut does not do


def _opposite(test: cst.BaseExpression) -> Iterator[cst.CSTNode]:
    """Ask the opposite. Where one word says it, mutmut has done so already."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        return
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        word = test.comparisons[0].operator
        if isinstance(word, cst.Is | cst.IsNot | cst.In | cst.NotIn | cst.Equal | cst.NotEqual):
            return
    yield cst.UnaryOperation(cst.Not(), test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()]))


def _nothing_returned(node: cst.Return) -> Iterator[cst.CSTNode]:
    """Return nothing. Instead of False that is no fault: mutmut makes it True."""
    if node.value is not None and _named(node.value) not in {"None", "False"}:
        yield cst.Return(cst.Name("None"))


def _left_out(node: cst.Expr | cst.Raise | cst.Del) -> Iterator[cst.CSTNode]:
    """Leave the statement out."""
    if not isinstance(node, cst.Expr) or isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()


def _said_otherwise(node: cst.FormattedStringText) -> Iterator[cst.CSTNode]:
    """Say something else: what people read is part of the promise."""
    yield node.with_changes(value=f"XX{node.value}XX")


_OWN_OPERATORS: tuple[tuple[Any, Callable[[Any], Iterator[cst.CSTNode]]], ...] = (
    (cst.Return, _nothing_returned),
    (cst.Expr | cst.Raise | cst.Del, _left_out),
    (cst.FormattedStringText, _said_otherwise),
)

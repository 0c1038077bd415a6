"""Swapping: puts a mutant into a process, into functions that live already or into a module not yet imported."""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
from collections import Counter, defaultdict
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

Key = tuple[str, int]


class CannotSwapError(Exception):
    """A living function cannot take the mutant's code."""


def live_functions(paths: Sequence[Path]) -> dict[CodeType, list[FunctionType]]:
    """Every function of these files in this process, by its code."""
    names = {str(path) for path in paths}
    found: dict[CodeType, list[FunctionType]] = defaultdict(list)
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename in names:
            found[each.__code__].append(each)
    return found


def swap(functions: dict[CodeType, list[FunctionType]], path: Path, source: str) -> None:
    """Give the living functions of one file the code that a mutant's text has for them.

    Raises:
        CannotSwapError: One of them closes over other names than before; the mutant needs a fresh import.
    """
    old, new = codes(path, path.read_text(encoding="utf-8")), codes(path, source)
    for key, code in old.items():
        if key in new and new[key] != code:
            for function in functions.get(code, ()):
                try:
                    function.__code__ = new[key]
                except ValueError as error:
                    raise CannotSwapError(str(error)) from error


class MutantFinder(importlib.abc.MetaPathFinder):
    """Imports one module from the mutant's text, in a process that has not imported it yet."""

    def __init__(self, path: Path, module: str, source: str) -> None:
        self._module = module
        self._loader = _MutantLoader(path, source)

    def find_spec(self, fullname: str, _path: object, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Only the mutated module is ours."""
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._loader.path, loader=self._loader)


class _MutantLoader(importlib.abc.Loader):
    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self._source = source

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(self.path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102


@cache
def codes(path: Path, source: str) -> dict[Key, CodeType]:
    """Every code object of a file's text, by its qualified name and its number among those of that name."""
    counts = Counter[str]()
    found = {}
    for code in _walk(compile(source, str(path), "exec", dont_inherit=True)):
        counts[code.co_qualname] += 1
        found[code.co_qualname, counts[code.co_qualname]] = code
    return found


def _walk(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk(constant)

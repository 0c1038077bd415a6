"""Loading: settings from a file or a mapping, and where in a file it went wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from resilience.errors import ConfigurationError
from resilience.settings.complaints import shown, told
from resilience.settings.root import Settings

CONFIG_VARIABLE = "RESILIENCE_CONFIG"


def load(source: str | os.PathLike[str] | Mapping[str, Any] | Settings | None) -> Settings:
    """See `Settings.load`."""
    if isinstance(source, Settings):
        return source
    if source is None:
        named = os.environ.get(CONFIG_VARIABLE, "").strip()
        return _from_file(Path(named), f"{named} (named by {CONFIG_VARIABLE})") if named else Settings()
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), os.fspath(source))
    if isinstance(source, Mapping):
        return _validated(dict(source), None)
    raise ConfigurationError(
        f"settings cannot be read from {type(source).__name__}; allowed: a file's path, a mapping, Settings, or None"
    )


def read_mapping(source: str | os.PathLike[str] | Mapping[str, Any], what: str) -> tuple[dict[Any, Any], str | None]:
    """A mapping as it stands, or the one that a YAML or JSON file holds, and the file's name.

    Args:
        source: Where it stands.
        what: What it is, as errors call it.

    Raises:
        ConfigurationError: It cannot be read, or is no mapping.
    """
    if isinstance(source, Mapping):
        return dict(source), None
    if isinstance(source, str | os.PathLike):
        return _mapping(Path(source), os.fspath(source), what), os.fspath(source)
    raise ConfigurationError(f"{what} cannot be read from {type(source).__name__}; allowed: a file's path or a mapping")


def _from_file(file: Path, called: str) -> Settings:
    data = _mapping(file, called, "the settings")
    return _validated(data, called) if data else Settings()


def _mapping(file: Path, called: str, what: str) -> dict[Any, Any]:
    if not str(called).strip():
        raise ConfigurationError(f"{what} file's path is empty")
    # Raised outside the except clauses: an error's context may hold the file's text, keys included.
    problem = None
    try:
        text = file.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problem = (
            f"there is no such file (looked in {Path.cwd()})" if not file.is_absolute() else "there is no such file"
        )
    except IsADirectoryError:
        problem = "this is a directory; allowed: a YAML or JSON file"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
    if problem is not None:
        raise ConfigurationError(f"{called}: {problem}")
    data = _json(text, called) if file.suffix.lower() == ".json" else _yaml(text, called)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{called}: holds {_kind(data)}; allowed: a mapping, such as routes: {{...}}")
    return data


def _kind(data: object) -> str:
    return "a text" if isinstance(data, str) else shown(data)


def _validated(data: dict[Any, Any], source: str | None) -> Settings:
    message = None
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        message = told(error, source)
    raise ConfigurationError(message)


def _json(text: str, called: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
    except _GivenTwiceError as error:
        problem = f"the key {error.key} is given twice"
    except RecursionError:
        problem = "nested too deeply"
    raise ConfigurationError(f"{called}: {problem}")


class _GivenTwiceError(Exception):
    """A key that stands twice in one mapping: one of them would be lost without a word."""

    def __init__(self, key: object) -> None:
        self.key = shown(key)
        super().__init__(self.key)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise _GivenTwiceError(key)
        data[key] = value
    return data


def _yaml(text: str, called: str) -> Any:
    import yaml  # noqa: PLC0415 (20 ms that only those pay who have a YAML file)

    class OnceLoader(yaml.SafeLoader):
        """The safe loader, but a key that stands twice in one mapping is an error."""

    def mapping(loader: OnceLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            # A merge (<<) may be overridden: that is what it is for.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = loader.construct_object(key_node)
            if key in seen:
                problem = f"the key {shown(key)} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    OnceLoader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(text, Loader=OnceLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = f"{where}{error.problem or error.context or 'not YAML'}"
    except (yaml.YAMLError, ValueError) as error:
        # A forbidden character, or a date that is none.
        problem = f"not YAML: {getattr(error, 'reason', None) or type(error).__name__}"
    except RecursionError:
        problem = "nested too deeply"
    raise ConfigurationError(f"{called}: {problem}")

"""The public names: what `__all__` says is what can be imported, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys

import pybreaker
import pytest

import resilience


@pytest.mark.parametrize("name", resilience.__all__)
def test_every_public_name_can_be_imported_and_is_explained(name: str) -> None:
    thing = getattr(resilience, name)
    assert thing.__doc__


def test_unknown_names_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        resilience.nonsense  # noqa: B018 (the access is what is tested)


def test_importing_the_package_does_not_import_litellm() -> None:
    code = "import resilience, sys; print('litellm' in sys.modules, 'openai' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]


def test_the_errors_keep_their_promised_bases() -> None:
    assert issubclass(resilience.CircuitOpenError, pybreaker.CircuitBreakerError)
    assert issubclass(resilience.CircuitIsolatedError, resilience.CircuitOpenError)
    assert issubclass(resilience.DeadlineExceededError, TimeoutError)
    assert issubclass(resilience.RouteExhaustedError, ExceptionGroup)
    assert issubclass(resilience.ConfigurationError, ValueError)
    for name in resilience.__all__:
        thing = getattr(resilience, name)
        if isinstance(thing, type) and issubclass(thing, BaseException):
            assert issubclass(thing, resilience.ResilienceError), name

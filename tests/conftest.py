"""What every test stands on: LiteLLM with its own copy of the price map, and no network but loopback."""

import os

import pytest

# Before anybody imports LiteLLM: without it, its import asks the internet for prices.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def pytest_configure(config: pytest.Config) -> None:
    """LiteLLM reads every attribute of a stream's chunk that carries usage, also two that pydantic deprecates."""
    said = "ignore:Accessing the 'model_(computed_)?fields' attribute on the instance is deprecated"
    config.addinivalue_line("filterwarnings", said)

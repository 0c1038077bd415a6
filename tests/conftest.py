"""What every test stands on: LiteLLM with its own copy of the price map, and no network but loopback."""

import os

# Before anybody imports LiteLLM: without it, its import asks the internet for prices.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

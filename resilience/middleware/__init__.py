"""The seam to LiteLLM: the only room that may import it, and only when a function needs it."""

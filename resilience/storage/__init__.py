"""Where a fleet's shared breaker state lives: one agent per process, and nothing on the request path."""

"""``python -m resilience`` is the command line."""

from resilience.ops.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

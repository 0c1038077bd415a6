"""Benchmarks: one question per file, each run as ``python -m benchmarks.NAME``."""

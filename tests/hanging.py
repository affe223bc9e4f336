"""When a test takes a process for hung."""

HANGING = 600
"""Seconds. No test needs a tenth of it on a quiet machine; a busy one is not a failure."""

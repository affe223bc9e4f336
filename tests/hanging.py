"""The time after which a test calls a process hung."""

HANGING = 600
"""Seconds. No test needs a tenth of it on a quiet machine, and a slow machine must not fail."""

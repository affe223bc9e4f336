"""Metrics for `evaluate.load`, which loads them by their folder: `cmi` and `ncmi`."""

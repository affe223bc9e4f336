"""Metrics that `evaluate.load` takes by their folder: `cmi` and `ncmi`."""

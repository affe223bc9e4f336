"""Folder of the metric `cmi` for `evaluate.load`."""

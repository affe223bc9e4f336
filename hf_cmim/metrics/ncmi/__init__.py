"""Folder of the metric `ncmi` for `evaluate.load`."""

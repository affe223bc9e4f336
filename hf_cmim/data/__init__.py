"""Labelled data, opened in one way: splits, columns, classes, and what a model's processor makes of samples."""

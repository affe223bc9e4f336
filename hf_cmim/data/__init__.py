"""Labelled data, opened in one way: splits, columns, classes, and samples as a model's processor prepares them."""

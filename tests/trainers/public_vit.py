"""A class of a model that is published with its weights: it needs a file of its own."""

from transformers import ViTForImageClassification


class PublicViT(ViTForImageClassification):
    """A class that is published as code."""

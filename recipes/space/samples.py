"""A visitor's text or image: read, or refused with a sentence."""

from pathlib import Path

from pairs import VisitorError
from PIL import Image

LONGEST_TEXT = 5_000
"""Largest number of letters of a text."""
LARGEST_IMAGE = 20_000_000
"""Largest number of pixels of an image."""


def read_text(text: str) -> str:
    """Return the visitor's text, or raise a `VisitorError`."""
    if not text.strip():
        raise VisitorError("There is no text to answer. Give one, or take a test sample.")
    if len(text) > LONGEST_TEXT:
        raise VisitorError(f"The text has {len(text):,} letters. Give at most {LONGEST_TEXT:,}.")
    return text


def read_image(path: str | None, uploads: Path) -> Image.Image:
    """Return the visitor's image from a file in the folder of uploads, or raise a `VisitorError`."""
    if path is None:
        raise VisitorError("There is no image to answer. Give one, or take a test sample.")
    # A request can name any file of this machine, not only an uploaded one.
    if not Path(path).resolve().is_relative_to(uploads.resolve()):
        raise VisitorError("Only an image that you upload can be answered.")
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise VisitorError(
                    f"The image has {image.width:,} x {image.height:,} pixels. Give one of at most {LARGEST_IMAGE:,}."
                )
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VisitorError("The file is no image that can be read. Give a PNG or a JPEG.") from error

"""Printing of all commands: no text can control the terminal or forge a line of output."""

import sys
from typing import TextIO

from hf_cmim.names import safe_text


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line, with escapes for control characters and for letters that the terminal's encoding lacks.

    Args:
        line: text with names, dates and messages of unknown origin.
        file: stream to print to; None for the standard output.
    """
    # Looked up at each call: tests and notebooks replace sys.stdout.
    stream = sys.stdout if file is None else file
    encoding = stream.encoding or "utf-8"
    text = safe_text(line).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


def say_lines(text: str) -> None:
    """Print a text of several lines, each with `say`."""
    for line in text.split("\n"):
        say(line)

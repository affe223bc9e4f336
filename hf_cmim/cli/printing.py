"""The one way in which commands print: whatever a text holds, it can neither act on a terminal nor end a line."""

import sys
from typing import TextIO

from hf_cmim.names import safe_text


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line; what cannot be shown, by its kind or in the terminal's encoding, is escaped.

    Args:
        line: may hold names, dates and messages of unknown origin.
        file: to print to; None for the standard output.
    """
    stream = sys.stdout if file is None else file
    encoding = stream.encoding or "utf-8"
    text = safe_text(line).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


def say_lines(text: str) -> None:
    """Print a text of several lines, each as `say` does."""
    for line in text.split("\n"):
        say(line)

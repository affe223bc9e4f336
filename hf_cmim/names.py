"""Names of unknown origin in a form that is safe to print: one line, no control characters, a limited width."""

import re
import unicodedata

_SPACES = "\u00a0\u2009\u202f"
"""Spaces that tables and numbers use; Python does not count them as printable."""
_TOKEN = re.compile(r"(\bhf_(?=[A-Za-z0-9]{16})|\b[Bb]earer )[A-Za-z0-9_.~+/-]{8,}")
"""Access tokens, as the Hub makes them and as requests carry them."""


def one_line(text: str) -> str:
    r"""Return the text on one line, with a space for each unprintable character, such as a terminal's escape.

    >>> one_line("two\nlines")
    'two lines'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def safe_text(text: str) -> str:
    r"""Return a text of unknown origin that a terminal can print safely: control characters are shown as escapes.

    A newline could forge a line of output, an escape could hide one, and a mark of direction could reverse one. Access
    tokens of the Hub are masked.

    >>> print(safe_text("kd\nholds  files"))
    kd\nholds  files
    """
    printable = "".join(letter if letter.isprintable() or letter in _SPACES else _escaped(letter) for letter in text)
    return _TOKEN.sub(lambda match: f"{match[1]}***", printable)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def cells(text: str) -> int:
    """Return the width of a text in a terminal, in columns: wide letters and emoji take two, combining marks none.

    >>> cells("kd"), cells("蒸留"), cells("é")
    (2, 4, 1)
    """
    return sum(_cells(letter) for letter in text)


def shortened(text: str, longest: int) -> str:
    """Return the text on one line of at most so many columns, an ellipsis in the place of its middle if it is longer.

    >>> shortened("logit-standardization, queries mixed", 20)
    'logit-stan…ies mixed'
    """
    text = one_line(text)
    if cells(text) <= longest:
        return text
    start, end = longest // 2, (longest - 1) // 2
    return f"{_first(text, start)}…{_first(text[::-1], end)[::-1]}"


def _cells(letter: str) -> int:
    if unicodedata.category(letter) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in {"W", "F"} else 1


def _first(text: str, longest: int) -> str:
    """Return as many letters from the start as fit."""
    room = longest
    for position, letter in enumerate(text):
        room -= _cells(letter)
        if room < 0:
            return text[:position]
    return text

"""Names that users chose, made fit to be shown: one line, no control characters, no longer than there is room."""

import unicodedata


def one_line(text: str) -> str:
    r"""Return the text on one line; what cannot be printed, such as a terminal's escape, becomes a space.

    >>> one_line("two\nlines")
    'two lines'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def cells(text: str) -> int:
    """Return how many columns a text takes: wide letters and emoji take two, combining marks none.

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

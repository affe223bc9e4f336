"""The error of this package, and lists inside its message."""

from collections.abc import Sequence

MOST_LISTED = 8
"""Largest number of values that an error lists."""


class HfCmimError(ValueError):
    """An error whose message is written for the user: the fact with its numbers, its consequence, and the fix.

    The command line shows it without a traceback, and every other error with one. It is a `ValueError`, so that code
    which catches `ValueError` keeps working.
    """


def abbreviated(values: Sequence[object]) -> str:
    """Return the first values of a list for a message, separated by commas, and "..." in place of the others.

    >>> abbreviated(range(10))
    '0, 1, 2, 3, 4, 5, 6, 7, ...'
    """
    return ", ".join(map(str, values[:MOST_LISTED])) + (", ..." if len(values) > MOST_LISTED else "")

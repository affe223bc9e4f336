"""The error of this package."""


class HfCmimError(ValueError):
    """An error whose message is written for the user: the fact with its numbers, its consequence, and the fix.

    The command line shows it without a traceback, and every other error with one. It is a `ValueError`, so that code
    which catches `ValueError` keeps working.
    """

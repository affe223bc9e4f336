"""How far an audit is, and for how much longer it goes on."""

import sys
import time
from collections.abc import Sequence
from typing import IO, Any, final

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 60.0
"""A log gets a line about so often."""
SHOWN_ARMS = 3
"""Arms that are named of those in training."""
BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} students [{elapsed}<{remaining}{postfix}]"


@final
class AuditProgress:
    """One bar for a whole audit on a terminal, a line a minute elsewhere.

    The number of students is an estimate until the audit ends: attacks stop early, and an audit that is not decided
    at a look trains more.

    Args:
        steps: optimizer steps of one student.
        expected: students that the audit trains up to its first look, at most.
        quiet: whether nothing is written.
        stream: where it is written to; None for stderr.
    """

    def __init__(self, steps: int, expected: int, *, quiet: bool, stream: IO[str] | None = None) -> None:
        self.steps = steps
        self.quiet = quiet
        self.stream: Any = stream or sys.stderr
        self._bar: Any = None
        if not quiet and self.stream.isatty():
            self._bar = tqdm(total=expected, bar_format=BAR_FORMAT, dynamic_ncols=True, smoothing=0, file=self.stream)
        self.done, self.total = 0.0, float(expected)
        self._trained = 0.0  # in this sitting: what an earlier one trained says nothing about the speed
        self._started = self._last_line = time.monotonic()
        self._stage = self._wave = ""

    def begin_stage(self, what: str, missing: int, present: int, *, is_expected: bool) -> None:
        """Note what is trained next.

        Args:
            what: stage in words.
            missing: students that it trains.
            present: students of the stage that an earlier sitting finished.
            is_expected: whether the students are among those expected from the start.
        """
        self._stage = what
        self.done += present
        self.total = max(self.total + (0 if is_expected else missing + present), self.done + missing)
        if self._bar is not None:
            self._bar.initial += present  # whose speed is not this sitting's
            self._bar.set_description(what, refresh=False)
        self._show(present)

    def begin_wave(self, arms: Sequence[str], seed: int) -> None:
        """Note the arms that are trained side by side under one seed."""
        rest = f" and {len(arms) - SHOWN_ARMS} more" if len(arms) > SHOWN_ARMS else ""
        self._wave = f"{', '.join(arms[:SHOWN_ARMS])}{rest}, seed {seed}"
        if self._bar is not None:
            self._bar.set_postfix_str(self._wave)

    def advance(self, steps: float) -> None:
        """Note optimizer steps, those of all students in training added up."""
        self.done += steps / self.steps
        self._trained += steps / self.steps
        self._show(steps / self.steps)
        now = time.monotonic()
        if self._bar is None and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return how far the audit is after so many seconds of this sitting."""
        left = max(0.0, self.total - self.done) * seconds / self._trained if self._trained else 0.0
        return (
            f"{self._stage}: {self.done:.0f} of about {self.total:.0f} students, {in_words(seconds)} passed, about"
            f" {in_words(left)} left. Now: {self._wave}"
        )

    def say(self, sentence: str) -> None:
        """Write a sentence without breaking the bar."""
        if not self.quiet:
            tqdm.write(sentence, file=self.stream)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, students: float) -> None:
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(students)


def in_words(seconds: float) -> str:
    """Return a time in minutes, or in hours and minutes.

    >>> in_words(90), in_words(4000), in_words(2)
    ('2 min', '1 h 07 min', '2 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"

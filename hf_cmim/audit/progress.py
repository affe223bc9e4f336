"""Progress display of an audit, with an estimate of the remaining time."""

import sys
import time
from collections.abc import Sequence
from typing import IO, Any, final

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 60.0
"""Time between two lines of progress in a log."""
SHOWN_ARMS = 3
"""Number of arms in training that are listed by name."""
BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} students [{elapsed}<{remaining}{postfix}]"


@final
class AuditProgress:
    """A progress bar for a whole audit on a terminal, or one line per minute elsewhere.

    The number of students is an estimate until the audit ends: attacks stop early, and an audit that is undecided at a
    look trains more.

    Args:
        steps: optimizer steps of one student.
        expected: largest number of students up to the first look.
        quiet: True to write nothing.
        stream: output stream; None for stderr.
    """

    def __init__(self, steps: int, expected: int, *, quiet: bool, stream: IO[str] | None = None) -> None:
        self.steps = steps
        self.quiet = quiet
        self.stream: Any = stream or sys.stderr
        self._bar: Any = None
        if not quiet and self.stream.isatty():
            self._bar = tqdm(total=expected, bar_format=BAR_FORMAT, dynamic_ncols=True, smoothing=0, file=self.stream)
        self.done, self.total = 0.0, float(expected)
        # Only students of this sitting: an earlier one may have had another speed.
        self._trained = 0.0
        self._started = self._last_line = time.monotonic()
        self._stage = self._wave = ""

    def begin_stage(self, stage: str, missing: int, present: int, *, is_expected: bool) -> None:
        """Begin a stage.

        Args:
            stage: name of the stage.
            missing: number of students to train.
            present: number of students of the stage that an earlier sitting finished.
            is_expected: True if the students are among those expected from the start.
        """
        self._stage = stage
        self.done += present
        self.total = max(self.total + (0 if is_expected else missing + present), self.done + missing)
        if self._bar is not None:
            # tqdm leaves the initial count out of its estimate of the speed.
            self._bar.initial += present
            self._bar.set_description(stage, refresh=False)
        self._show(present)

    def begin_wave(self, arms: Sequence[str], seed: int) -> None:
        """Begin a wave of arms that are trained side by side under one seed."""
        more = f" and {len(arms) - SHOWN_ARMS} more" if len(arms) > SHOWN_ARMS else ""
        self._wave = f"{', '.join(arms[:SHOWN_ARMS])}{more}, seed {seed}"
        if self._bar is not None:
            self._bar.set_postfix_str(self._wave)

    def advance(self, steps: float) -> None:
        """Count optimizer steps, summed over the students in training."""
        self.done += steps / self.steps
        self._trained += steps / self.steps
        self._show(steps / self.steps)
        now = time.monotonic()
        if self._bar is None and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return the progress in words after `seconds` of this sitting."""
        remaining_students = max(0.0, self.total - self.done)
        seconds_left = remaining_students * seconds / self._trained if self._trained else 0.0
        return (
            f"{self._stage}: {self.done:.0f} of about {self.total:.0f} students, {in_words(seconds)} passed, about"
            f" {in_words(seconds_left)} left. Now: {self._wave}"
        )

    def say(self, sentence: str) -> None:
        """Write a sentence without breaking the bar."""
        if not self.quiet:
            tqdm.write(sentence, file=self.stream)

    def close(self) -> None:
        """Close the bar and leave it visible."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, students: float) -> None:
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(students)


def in_words(seconds: float) -> str:
    """Return a duration in seconds, minutes, or hours and minutes.

    >>> in_words(90), in_words(4000), in_words(2)
    ('2 min', '1 h 07 min', '2 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"

"""Settings that an arm of an audit may have: those of the released suites and of the references."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.references import reference_settings
from hf_cmim.attacks.suites import NULL_CONFIDENCES, RELEASED_SUITES

_RELATIVE = re.compile(r"Relative\\\(factor=([\d\\.]+)\\\)")
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
SCALES_APART = 2e-3
"""Largest relative difference of two scales: temperatures are rounded to four digits."""


@dataclass(frozen=True)
class Setting:
    """One setting of a family, with placeholders for relative temperatures.

    Attributes:
        pattern: regular expression of the setting as Python would build it; one group per relative temperature.
        factors: factors of the relative temperatures, in the same order.
        may_be_impossible: True if some data or students do not allow it, because it changes queries or reads hidden
            states.
    """

    pattern: re.Pattern[str]
    factors: tuple[float, ...]
    may_be_impossible: bool

    @classmethod
    def of(cls, attack: Composition, *, is_resolved: bool) -> "Setting":
        """Return a setting of a grid.

        Args:
            attack: attack of the grid.
            is_resolved: True for a setting that the audit rebuilds with numbers for relative temperatures. A rebuilt
                setting lists its parts in the order in which they act.
        """
        setting = repr(attack)
        if is_resolved:
            # Parts that change nothing are left out of it.
            setting = f"Composition({', '.join(map(repr, attack.active_parts))})"
        # Escaped first, so that the pattern of a relative temperature has to match escaped text as well.
        escaped = re.escape(setting)
        # Escaping put a backslash before the point of a factor.
        factors = tuple(float(factor.replace("\\", "")) for factor in _RELATIVE.findall(escaped))
        pattern = re.compile(_RELATIVE.sub(lambda _: _NUMBER, escaped))
        return cls(pattern, factors, attack.query_protocol is not None or attack.student_protocol is not None)

    def scales(self, text: str) -> list[float] | None:
        """Return the teacher's logit scale implied by each temperature in a text; None if the text does not match."""
        match = self.pattern.fullmatch(text)
        if match is None:
            return None
        temperatures = map(float, match.groups())
        return [temperature / factor for temperature, factor in zip(temperatures, self.factors, strict=True)]


Grid = Mapping[str, tuple[Setting, ...]]


@cache
def suite_grid(name: str) -> Grid:
    """Return the settings of each family of a released suite."""
    suite = RELEASED_SUITES[name]
    return {
        family: tuple(Setting.of(attack, is_resolved=True) for attack in suite.of(family)) for family in suite.families
    }


@cache
def reference_grid() -> Grid:
    """Return the settings of each family of references."""
    return {
        family: tuple(Setting.of(attack, is_resolved=False) for attack in attacks)
        for family, attacks in reference_settings().items()
    }


def null_confidences(num_classes: int) -> tuple[float, ...]:
    """Return the confidences of a label-only null: those above 1 / C, so that the label stays the likeliest class."""
    return tuple(confidence for confidence in NULL_CONFIDENCES if confidence > 1 / num_classes)


def setting_faults(settings: Iterable[Setting], chosen: str, screened: Iterable[str]) -> list[str]:
    """Return the first fault of a family's screened and chosen settings in a list, or an empty list.

    Args:
        settings: settings of the family's grid.
        chosen: setting that the arm was confirmed with.
        screened: settings that were tried on validation data.
    """
    settings, screened = list(settings), list(screened)
    faults = []
    if chosen not in screened:
        faults.append("the chosen setting was not screened")
    if any(all(setting.scales(text) is None for setting in settings) for text in screened):
        faults.append("a screened setting is none of the family's settings")
    # A fixed setting has one text; of a relative one only the pattern is known, with a number in its place.
    fixed = [setting for setting in settings if not setting.factors]
    claimed = {text for text in screened if any(setting.scales(text) is not None for setting in fixed)}
    for setting in fixed:
        if not (setting.may_be_impossible or any(setting.scales(text) is not None for text in screened)):
            faults.append("a setting of the family was not screened")
    relative = [setting for setting in settings if setting.factors]
    # A number may be that of any relative temperature: all of them together have to follow from one logit scale.
    free = [text for text in screened if text not in claimed]
    if relative and not any(_follow_from(scale, relative, screened, free) for scale in _scales(relative, screened)):
        needed = sum(not setting.may_be_impossible for setting in relative)
        if len(free) > len(relative):
            faults.append("a setting was screened twice")
        elif len(free) < needed:
            faults.append("a setting of the family was not screened")
        else:
            faults.append("its relative temperatures imply several logit scales of one teacher")
    return faults[:1]


def _scales(relative: Sequence[Setting], screened: Sequence[str]) -> list[float]:
    """Return every logit scale of a teacher that some relative temperature would imply; 1 if none is needed."""
    scales = [scale for setting in relative for text in screened for scale in setting.scales(text) or ()]
    return scales or [1.0]


def _follow_from(scale: float, relative: Sequence[Setting], screened: Sequence[str], free: Sequence[str]) -> bool:
    """Return True if one logit scale explains each relative setting, and each text that no fixed setting explains."""
    explained: set[str] = set()
    implied = [scale]
    for setting in relative:
        matches = {
            text: scales for text in screened if (scales := setting.scales(text)) is not None and min(scales) > 0
        }
        near = {text: scales for text, scales in matches.items() if all(_is_near(part, scale) for part in scales)}
        if not near and not setting.may_be_impossible:
            return False
        explained |= near.keys()
        implied += chain.from_iterable(near.values())
    # Every setting may be near `scale` and two of them still too far apart from each other.
    return scale > 0 and explained >= set(free) and max(implied) <= min(implied) * (1 + SCALES_APART)


def _is_near(first: float, second: float) -> bool:
    return max(first, second) <= min(first, second) * (1 + SCALES_APART)

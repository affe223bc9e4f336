"""Which settings an arm of an audit may have, as the suites and the references list them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.references import reference_settings
from hf_cmim.attacks.suites import NULL_CONFIDENCES, SUITES

_RELATIVE = re.compile(r"Relative\\\(factor=([\d\\.]+)\\\)")
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
SCALES_APART = 2e-3
"""Relative difference of two scales that rounding temperatures to four digits explains."""


@dataclass(frozen=True)
class Setting:
    """One setting of a family, its relative temperatures open.

    Attributes:
        pattern: of the setting as Python would build it, a group for each relative temperature.
        factors: of the relative temperatures, in the same order.
        may_be_impossible: whether some data or students do not allow it: changed queries, or hidden states.
    """

    pattern: re.Pattern[str]
    factors: tuple[float, ...]
    may_be_impossible: bool

    @classmethod
    def of(cls, attack: Composition, *, is_resolved: bool) -> "Setting":
        """Return a setting of a grid.

        Args:
            attack: as the grid has it.
            is_resolved: whether an audit builds it anew to put numbers in the place of relative temperatures; it then
                lists the parts in the order in which they act.
        """
        escaped = re.escape(
            f"Composition({', '.join(map(repr, attack.active_parts))})" if is_resolved else repr(attack)
        )
        factors = tuple(float(each.replace("\\", "")) for each in _RELATIVE.findall(escaped))
        pattern = re.compile(_RELATIVE.sub(lambda _: _NUMBER, escaped))
        return cls(pattern, factors, attack.query_protocol is not None or attack.student_protocol is not None)

    def scales(self, text: str) -> list[float] | None:
        """Return the teacher's logit scale that each relative temperature in a text implies; None for another text."""
        match = self.pattern.fullmatch(text)
        return None if match is None else [float(n) / f for n, f in zip(match.groups(), self.factors, strict=True)]


Grid = Mapping[str, tuple[Setting, ...]]


@cache
def suite_grid(name: str) -> Grid:
    """Return the settings of each family of a named suite."""
    suite = SUITES[name]
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
    """Return the confidences of a label-only null that name the label."""
    return tuple(confidence for confidence in NULL_CONFIDENCES if confidence > 1 / num_classes)


def setting_faults(settings: Iterable[Setting], chosen: str, screened: Iterable[str]) -> list[str]:
    """Return what is wrong with the settings that a family was screened with, and with the one that was chosen."""
    settings, screened = list(settings), list(screened)
    faults = []
    if chosen not in screened:
        faults.append("the chosen setting was not screened")
    if any(all(each.scales(text) is None for each in settings) for text in screened):
        faults.append("a setting that was screened is in no grid of it")
    scales: list[float] = []
    for each in settings:
        matching = [found for text in screened if (found := each.scales(text)) is not None]
        if len(matching) > 1:
            faults.append("a setting was screened twice")
        if not matching and not each.may_be_impossible:
            faults.append("a setting of its grid was not screened")
        scales += [scale for found in matching for scale in found]
    if scales and not (min(scales) > 0 and max(scales) <= min(scales) * (1 + SCALES_APART)):
        faults.append("its relative temperatures are not those of one teacher")
    return faults[:1]

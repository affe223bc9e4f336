"""Whether an audit's verdicts follow from its results."""

from collections.abc import Collection, Iterator

from hf_cmim.report import AuditReport, CriterionResult
from hf_cmim.statistics import Comparison, decide

CLOSE = 1e-9
"""Difference of two bounds that another machine's rounding may explain; ours."""


def audit_faults(audit: AuditReport, class_names: Collection[str]) -> Iterator[str]:
    """Yield everything in an audit that does not follow from its results, as sentences.

    Args:
        audit: as a certificate holds it.
        class_names: of the certified model.
    """
    for result in audit.criteria:
        yield from recomputed_faults(audit, result)
    yield from _inconsistent_arms(audit)


def recomputed_faults(audit: AuditReport, result: CriterionResult) -> Iterator[str]:
    """Yield what one criterion says that does not follow from the accuracies of the arms."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    num_attacks = sum(arm.role == "knockoff" for arm in audit.arms)
    try:
        decision = decide(accuracies, result.baselines, num_attacks, audit.design)
    except (KeyError, ValueError) as error:
        yield f"the verdict under {result.criterion!r} cannot be recomputed: {error}"
        return
    is_void = any(check.severity == "fatal" for check in audit.checks)
    verdict = "inconclusive" if is_void else decision.verdict
    if verdict != result.verdict:
        yield f"under {result.criterion!r} the results say {verdict!r}, the certificate says {result.verdict!r}"
    if abs(decision.smallest_margin - result.smallest_margin) > CLOSE:
        yield (
            f"under {result.criterion!r} the smallest margin is {decision.smallest_margin:.6f}, the certificate says"
            f" {result.smallest_margin:.6f}"
        )
    known = {each.attack: each for each in result.comparisons}
    found = {each.attack: each for each in decision.comparisons}
    wrong = [name for name in {**known, **found} if not _same(known.get(name), found.get(name))]
    if wrong:
        yield f"under {result.criterion!r} the bounds of {', '.join(sorted(wrong))} are not those of the results"


def _same(first: Comparison | None, second: Comparison | None) -> bool:
    if first is None or second is None:
        return first is second
    numbers = ("gain", "standard_error", "lower", "upper")
    names = ("baseline", "seeds", "baseline_seeds")
    return all(abs(getattr(first, each) - getattr(second, each)) <= CLOSE for each in numbers) and all(
        getattr(first, each) == getattr(second, each) for each in names
    )


def _inconsistent_arms(audit: AuditReport) -> Iterator[str]:
    for arm in audit.arms:
        if len(arm.accuracies) != len(arm.seeds) or len(set(arm.seeds)) < len(arm.seeds):
            yield f"arm {arm.name!r} has {len(arm.accuracies)} accuracies of {len(set(arm.seeds))} different seeds"
    if audit.margin < 3 / audit.scope.num_test and audit.primary.verdict != "inconclusive":
        yield f"a margin of {audit.margin:g} is under 3 of {audit.scope.num_test} test samples: no verdict can stand"
    if audit.power is False and audit.primary.verdict != "inconclusive":
        yield "its positive control was not distilled: no verdict can stand"

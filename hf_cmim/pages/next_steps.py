"""Advice after an audit: the next steps of the model's owner, by verdict and by the audit's weaknesses."""

from collections.abc import Iterator

from hf_cmim.pages.quantities import bound_text, margin_text
from hf_cmim.report import NOT_CONVERGED, AuditReport, CriterionResult

MORE_TRAINING = "Train students longer, then audit again: the verdict may change."
MORE_LOOKS = "Run the same command with more --looks: bounds get narrower with each seed. Until then this is no pass."
PUBLISH = "hf-cmim certify MODEL --audit AUDIT, then hf-cmim push MODEL user/name"


def next_steps(report: AuditReport) -> list[str]:
    """Return the next steps of the model's owner as sentences, the most urgent first."""
    return list(_steps(report))


def _steps(report: AuditReport) -> Iterator[str]:
    failed = [check.name for check in report.checks if check.severity == "fatal"]
    if failed:
        yield f"Remove the cause of failed checks ({', '.join(failed)}), then audit again. Each check names a fix."
    if any(check.name == NOT_CONVERGED for check in report.checks):
        curve = report.learning_curve
        yield MORE_TRAINING if curve is None else f"{MORE_TRAINING} For instance with {curve.longer_setting}."
    if report.power is None:
        yield (
            "Audit the same model, trained with plain cross-entropy, as the positive control (--twin). It shows if"
            " these attacks can distil anything at all."
        )
    # A verdict that a check voided calls for no step of its own.
    if not failed:
        yield from _steps_of_verdict(report.primary, report.margin)


def _steps_of_verdict(result: CriterionResult, margin: float) -> Iterator[str]:
    match result.verdict:
        case "distillable":
            best = max(result.comparisons, key=lambda comparison: comparison.gain)
            yield (
                f"Harden the model more and audit it again. The attack to stop first is {best.attack}. If you need not"
                " publish the weights, change the answers on their way out instead (--channel)."
            )
        case "leaks less than the margin":
            yield (
                f"Decide whether a gain below {margin_text(margin)} matters to you. If it does, harden the model more"
                " and audit it again."
            )
            yield f"If it does not, publish the model with suite, student, data and margin of this audit: {PUBLISH}."
        case "undistillable within the margin":
            yield f"Publish the model with suite, student, data and margin of this audit: {PUBLISH}."
            yield "Audit again with the largest student and the most data that an attacker of yours may have."
        case "inconclusive":
            yield MORE_LOOKS
            if 0 < result.smallest_margin < 1:
                yield (
                    "If more seeds do not decide it, use more test samples, or publish the smallest margin that would"
                    f" hold: {bound_text(result.smallest_margin)}."
                )

"""A model's utility to its owner, and what its losses tell about its training data: rows of a table."""

from dataclasses import dataclass

from hf_cmim.pages.quantities import MINUS, decimal, percent, points
from hf_cmim.report import AuditReport, Interval, ModelFacts

MEMBERSHIP = "membership-inference AUC"
MEMBERSHIP_NOTE = (
    "Membership-inference AUC: the probability that the model has a smaller loss on a random training sample than on a"
    " random test sample, with a 95 % interval. At 0.5 the loss does not tell who was in the training data; a stronger"
    " attacker may."
)


@dataclass(frozen=True)
class UtilityRow:
    """One row of the table of a model's utility, as text; "" without a twin."""

    name: str
    model: str
    twin: str = ""
    change: str = ""


@dataclass(frozen=True)
class Utility:
    """One figure of a model's utility to its owner.

    Attributes:
        name: name as shown.
        field: attribute of `ModelFacts`.
        is_share: True if the figure is shown in percent.
    """

    name: str
    field: str
    is_share: bool

    def of(self, facts: ModelFacts) -> str:
        """Return the model's figure as text."""
        value = getattr(facts, self.field)
        return percent(value) if self.is_share else decimal(value, 4)

    def row(self, facts: ModelFacts, twin: ModelFacts | None) -> UtilityRow:
        """Return the figure of a model and of its twin, if it has one."""
        if twin is None:
            return UtilityRow(self.name, self.of(facts))
        return UtilityRow(self.name, self.of(facts), self.of(twin), self.change(facts, twin))

    def change(self, facts: ModelFacts, twin: ModelFacts) -> str:
        """Return the model's figure minus the twin's, in points or in the figure's unit."""
        difference = getattr(facts, self.field) - getattr(twin, self.field)
        text = points(difference) if self.is_share else decimal(difference, 4)
        return text if text.startswith(("+", MINUS)) or not text.strip("0.") else f"+{text}"


UTILITY = (
    Utility("accuracy", "accuracy", True),
    Utility("top-5 accuracy", "top5_accuracy", True),
    Utility("NLL, nats", "nll", False),
    Utility("NLL after temperature calibration, nats", "nll_calibrated", False),
    Utility("ECE", "ece", True),
    Utility("ECE after temperature calibration", "ece_calibrated", True),
    Utility("AURC", "aurc", False),
    Utility("within-class share of the logits' variance", "within_total_ratio", False),
)


def utility_rows(report: AuditReport) -> list[UtilityRow]:
    """Return the rows of the table of a model's utility, the membership-inference AUC last where it was measured."""
    rows = [figure.row(report.teacher, report.twin) for figure in UTILITY]
    model, twin = report.teacher.membership_auc, report.twin.membership_auc if report.twin else None
    if model is not None:
        rows.append(UtilityRow(MEMBERSHIP, membership_text(model), membership_text(twin)))
    return rows


def membership_text(auc: Interval | None) -> str:
    """Return a membership-inference AUC with its interval, or "" if it was not measured."""
    return f"{decimal(auc.estimate, 3)} [{decimal(auc.lower, 3)}, {decimal(auc.upper, 3)}]" if auc else ""


def membership_sentence(auc: Interval) -> str:
    """Return a membership-inference AUC in words."""
    return (
        "Of a random training sample and a random test sample, the model has the smaller loss on the training sample"
        f" with probability {decimal(auc.estimate, 3)} (95 % interval {decimal(auc.lower, 3)} to"
        f" {decimal(auc.upper, 3)}). At 0.5 its loss tells nothing; a stronger attacker may still succeed."
    )

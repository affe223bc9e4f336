"""What an audit found, as plain data: nothing here trains, decides or draws.

Accuracies, gains and bounds are fractions, CMI is in nats, times in seconds. `AuditReport.write` and
`AuditReport.read` keep it as JSON; `hf_cmim.pages` shows it.
"""

from hf_cmim.report.audit_report import CERTIFICATE_NAME, REPORT_NAME, SCHEMA, AuditReport
from hf_cmim.report.parts import (
    NOT_CONVERGED,
    Accounting,
    ArmResult,
    Check,
    ControlResult,
    Costs,
    Criterion,
    CriterionResult,
    Interval,
    LeakDifference,
    LearningCurve,
    ModelFacts,
    Role,
    Scope,
)

__all__ = [
    "CERTIFICATE_NAME",
    "NOT_CONVERGED",
    "REPORT_NAME",
    "SCHEMA",
    "Accounting",
    "ArmResult",
    "AuditReport",
    "Check",
    "ControlResult",
    "Costs",
    "Criterion",
    "CriterionResult",
    "Interval",
    "LeakDifference",
    "LearningCurve",
    "ModelFacts",
    "Role",
    "Scope",
]

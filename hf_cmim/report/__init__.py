"""The results of an audit as plain data: nothing here trains, decides or draws.

Accuracies, gains and bounds are fractions, CMI is in nats, times are in seconds. `AuditReport.to_json` and
`AuditReport.read` write and read JSON; `hf_cmim.pages` shows a report.
"""

from hf_cmim.report.attackers import UNKNOWN_ATTACKER, Attacker, Origin
from hf_cmim.report.audit_report import CERTIFICATE_NAME, REPORT_NAME, SCHEMA, AuditReport
from hf_cmim.report.parts import (
    NOT_CONVERGED,
    Accounting,
    ArmResult,
    Check,
    ClassAnswersControl,
    ControlResult,
    Costs,
    Criterion,
    CriterionResult,
    Interval,
    LabelFloor,
    Leak,
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
    "UNKNOWN_ATTACKER",
    "Accounting",
    "ArmResult",
    "Attacker",
    "AuditReport",
    "Check",
    "ClassAnswersControl",
    "ControlResult",
    "Costs",
    "Criterion",
    "CriterionResult",
    "Interval",
    "LabelFloor",
    "Leak",
    "LeakDifference",
    "LearningCurve",
    "ModelFacts",
    "Origin",
    "Role",
    "Scope",
]

"""The report of one audit, in files and on the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import huggingface_hub

from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import check_schema, from_plain, parsed_json, to_plain
from hf_cmim.report.parts import (
    Accounting,
    ArmResult,
    Check,
    ClassAnswersControl,
    ControlResult,
    Costs,
    CriterionResult,
    LabelFloor,
    LearningCurve,
    ModelFacts,
    Scope,
)
from hf_cmim.statistics import Design
from hf_cmim.whole_files import read_bounded

SCHEMA = 1
"""Version of the JSON format; readers refuse later versions."""
REPORT_NAME = "audit.json"
"""File name of a report in the folder of its audit."""
CERTIFICATE_NAME = "cmim_certificate.json"
"""File name of a certificate, beside the weights; it contains the audit."""


@dataclass(frozen=True)
class AuditReport:
    """All results of an audit.

    Attributes:
        teacher: figures of the audited model.
        twin: figures of its cross-entropy twin, or None.
        power: success at distilling the positive control; None without a control.
        design: margin, planned looks and error rate.
        criteria: results under each criterion, the primary one first.
        reference: name of the arm that the primary criterion measures against; "" where attacks have different ones.
        looks: numbers of seeds at which verdicts were tried.
        sittings: number of times the audit was started or continued.
        checks: reasons to doubt the verdict.
        label_floor: gain from nothing but the teacher's labels; None if no such students were trained.
        class_answers: gain from class answers in place of the model's own; None if no such students were trained.
        other_attackers: results for the audit's other attackers, each as the report of its own.
        learning_curve: evidence that students are trained long enough; None in reports of earlier releases.
        reproduction: command, versions, device, date and digests, for repeating the audit.
    """

    title: str
    date: str
    scope: Scope
    teacher: ModelFacts
    twin: ModelFacts | None
    power: bool | None
    design: Design
    criteria: tuple[CriterionResult, ...]
    reference: str
    arms: tuple[ArmResult, ...]
    accounting: tuple[Accounting, ...]
    controls: tuple[ControlResult, ...]
    costs: Costs
    checks: tuple[Check, ...]
    looks: tuple[int, ...]
    sittings: int
    reproduction: dict[str, Any]
    schema: int = SCHEMA
    learning_curve: LearningCurve | None = None
    label_floor: LabelFloor | None = None
    class_answers: ClassAnswersControl | None = None
    other_attackers: tuple["AuditReport", ...] = ()

    @property
    def margin(self) -> float:
        """Smallest gain that counts as distilling, a fraction."""
        return self.design.margin

    @property
    def by_attacker(self) -> dict[str, "AuditReport"]:
        """The report for each attacker, by the attacker's name, this one first."""
        return {report.scope.attacker.name: report for report in (self, *self.other_attackers)}

    @property
    def primary(self) -> CriterionResult:
        """Result under the criterion that was chosen before the run."""
        return next(result for result in self.criteria if result.primary)

    def to_json(self) -> str:
        """Return the report as JSON; `from_json` reads it back."""
        return json.dumps(to_plain(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the report from the JSON that `to_json` wrote.

        Raises:
            HfCmimError: text that is no audit report, or a report of a later version.
        """
        return cls.from_plain(parsed_json(text, "an audit report"))

    @classmethod
    def from_plain(cls, values: Any) -> Self:
        """Return the report from parsed JSON.

        Raises:
            HfCmimError: values that are no audit report, or a report of a later version.
        """
        check_schema(values, SCHEMA, "an audit report")
        report: Self = from_plain(cls, values, "report")
        return report

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the report in a file, or in the audit.json or certificate of a folder.

        Raises:
            HfCmimError: no report at this path.
        """
        path = Path(path)
        # The folder of an audit has audit.json, that of a certified model a certificate with the audit inside.
        if path.is_dir():
            names = [name for name in (REPORT_NAME, CERTIFICATE_NAME) if (path / name).is_file()]
            path = path / (names or [REPORT_NAME])[0]
        if not path.is_file():
            raise HfCmimError(
                f"No file {path}: an audit writes its {REPORT_NAME} when it ends. Run the same audit again; it"
                " continues where it stopped."
            )
        text = read_bounded(path)
        return cls._certified(text, path) if path.name == CERTIFICATE_NAME else cls.from_json(text)

    @classmethod
    def from_hub(cls, repo_id: str, revision: str | None = None, token: str | None = None) -> Self:
        """Return the audit from the certificate of a Hub repository, unchecked; `hf-cmim verify` checks it.

        Args:
            repo_id: repository, for instance user/name.
            revision: branch, tag or commit; None for the main branch.
            token: access token for a private repository; None for the token of the current login.

        Raises:
            HfCmimError: a certificate without an audit.
            huggingface_hub.errors.HfHubHTTPError: no repository, no certificate, or no right to read it.
        """
        path = huggingface_hub.hf_hub_download(repo_id, CERTIFICATE_NAME, revision=revision, token=token)
        return cls._certified(read_bounded(Path(path)), repo_id)

    @classmethod
    def _certified(cls, text: str | bytes, where: object) -> Self:
        values = parsed_json(text, "a certificate")
        if not isinstance(values, dict) or values.get("audit") is None:
            raise HfCmimError(
                f"The certificate of {where} contains no audit: the model was not audited, or its owner did not"
                " publish the audit. Run hf-cmim audit yourself."
            )
        return cls.from_plain(values["audit"])

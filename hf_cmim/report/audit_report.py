"""The report of an audit as a whole, in files and on the Hub."""

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
    ControlResult,
    Costs,
    CriterionResult,
    LearningCurve,
    ModelFacts,
    Scope,
)
from hf_cmim.statistics import Design
from hf_cmim.whole_files import read_bounded

SCHEMA = 1
"""Version of the JSON; a reader refuses a later one."""
REPORT_NAME = "audit.json"
"""File of a report, in the folder of its audit."""
CERTIFICATE_NAME = "cmim_certificate.json"
"""File of a certificate, beside the weights; an audit is part of it."""


@dataclass(frozen=True)
class AuditReport:
    """Everything an audit found.

    Attributes:
        teacher: the audited model.
        twin: its cross-entropy twin, or None.
        power: whether the positive control was distilled; None without one.
        design: margin, looks that were planned, error rate.
        criteria: the primary one first.
        reference: name of the arm that the primary criterion measures against, where one serves all attacks.
        looks: numbers of seeds at which the audit looked.
        sittings: how many times it was started or continued.
        checks: what speaks against believing it.
        learning_curve: whether students are trained long enough; None in reports of earlier releases.
        reproduction: command, versions, device, date, digests: what is needed to repeat it.
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

    @property
    def margin(self) -> float:
        """Gain that counts as distilling, a fraction."""
        return self.design.margin

    @property
    def primary(self) -> CriterionResult:
        """The criterion that was named before the run."""
        return next(each for each in self.criteria if each.primary)

    def to_json(self) -> str:
        """Return it as JSON that `from_json` turns into an equal report."""
        return json.dumps(to_plain(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the report that `to_json` wrote.

        Raises:
            HfCmimError: something that is no such report, or one of a later version.
        """
        return cls.from_plain(parsed_json(text, "an audit report"))

    @classmethod
    def from_plain(cls, values: Any) -> Self:
        """Return the report that JSON's values hold.

        Raises:
            HfCmimError: something that is no such report, or one of a later version.
        """
        check_schema(values, SCHEMA, "an audit report")
        report: Self = from_plain(cls, values, "report")
        return report

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the report in a file, or in a folder's audit.json or certificate.

        Raises:
            HfCmimError: no report there.
        """
        path = Path(path)
        if path.is_dir():
            names = [name for name in (REPORT_NAME, CERTIFICATE_NAME) if (path / name).is_file()]
            path = path / (names or [REPORT_NAME])[0]
        if not path.is_file():
            raise HfCmimError(
                f"Expected an audit's {REPORT_NAME}, got nothing at {path}: an audit writes it when it ends. Run the"
                " same audit again; it goes on where it was."
            )
        text = read_bounded(path)
        return cls._certified(text, path) if path.name == CERTIFICATE_NAME else cls.from_json(text)

    @classmethod
    def from_hub(cls, repo_id: str, revision: str | None = None, token: str | None = None) -> Self:
        """Return the audit in the certificate of a repository on the Hub; `hf-cmim verify` says whether it holds.

        Args:
            repo_id: for instance user/name.
            revision: branch, tag or commit; None for the main branch.
            token: of a private repository; None for the one that was logged in with.

        Raises:
            HfCmimError: no audit in its certificate.
            huggingface_hub.errors.HfHubHTTPError: no repository, no certificate, or no right to read it.
        """
        path = huggingface_hub.hf_hub_download(repo_id, CERTIFICATE_NAME, revision=revision, token=token)
        return cls._certified(read_bounded(Path(path)), repo_id)

    @classmethod
    def _certified(cls, text: str | bytes, where: object) -> Self:
        values = parsed_json(text, "a certificate")
        if not isinstance(values, dict) or values.get("audit") is None:
            raise HfCmimError(
                f"Expected an audit in the certificate of {where}, got none: the model was not audited, or its owner"
                " kept the audit to themselves. Run hf-cmim audit yourself."
            )
        return cls.from_plain(values["audit"])

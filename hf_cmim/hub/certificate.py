"""The certificate of a model, one JSON file: hashes of its files, training settings, measurements and audit.

It proves integrity, not authorship or honesty: a person who can write the weights can also write a certificate.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.files import FileRecord, link_out_of
from hf_cmim.measurement import Measurement
from hf_cmim.plain_data import Plain, check_schema, from_plain, parsed_json, to_plain
from hf_cmim.report import CERTIFICATE_NAME, AuditReport, ModelFacts
from hf_cmim.report import SCHEMA as AUDIT_SCHEMA
from hf_cmim.whole_files import read_bounded

SCHEMA = 1
"""Version of the JSON; a reader refuses a later version."""
DEFENSE_TRAINER = "DefenseTrainer"
"""Name of the trainer whose models have another objective than cross-entropy or CMIM, in their record."""
DIGEST = "digest"
"""Key of the certificate's own digest: sha256 hex of all other entries in canonical JSON."""


@dataclass(frozen=True)
class Training:
    """Record of the training, written by the trainer.

    Attributes:
        trainer: class name of the trainer.
        objective: the loss, as Python would build it.
        settings: settings that determined the weights, by name.
        base_model: Hub id of the weights that training started from, or "".
        dataset: Hub id or name of the training data, or "".
        is_hardened: True if training continued until the CMI had its full weight in the loss.
        is_knockoff: True if the model learned from another model's answers.
    """

    trainer: str
    objective: str
    settings: dict[str, Any]
    base_model: str
    dataset: str
    is_hardened: bool
    is_knockoff: bool


@dataclass(frozen=True)
class Evaluation:
    """Measurement of these weights by their trainer.

    Attributes:
        dataset: name of the evaluation data, or "".
        measurement: accuracy, calibration and CMI on that data.
    """

    dataset: str
    measurement: Measurement

    @property
    def facts(self) -> ModelFacts:
        """The measurement in the form that an audit reports."""
        return ModelFacts.of(self.measurement)


@dataclass(frozen=True)
class Certificate:
    """Claims about the model in a folder, bound to its files by their hashes.

    Attributes:
        lineage: random id, kept when the folder is certified again. Tells a newer version of this model from a
            different model on the Hub.
        date: date of writing, as YYYY-MM-DD.
        architecture: class name of the model.
        class_names: names of the classes in the order of the logits.
        files: size and sha256 of every file that determines the model's answers, by path.
        training: record of the training; None for a model that no trainer of hf_cmim saved.
        evaluation: measurement by the trainer; None if it did not measure exactly these weights.
        audit: report of an audit of these weights, or None.
        environment: versions and device at the time of writing.
        schema: version of the JSON.
    """

    lineage: str
    date: str
    architecture: str
    class_names: tuple[str, ...]
    files: dict[str, FileRecord]
    training: Training | None
    evaluation: Evaluation | None
    audit: AuditReport | None
    environment: dict[str, Any]
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the certificate as JSON with its digest."""
        values = to_plain(self)
        # Keys are sorted, so that certificates of equal content are equal byte for byte, as a signature sees them.
        return json.dumps({**values, DIGEST: digest_of(values)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the certificate from the JSON of `to_json`.

        Raises:
            HfCmimError: a text that is no certificate, has a later schema, or was changed.
        """
        values = parsed_json(text, "a certificate")
        check_schema(values, SCHEMA, "a certificate")
        # The digest shows accidents and careless edits. A forger can compute it anew; only a signature shows that.
        claimed = values.pop(DIGEST, None)
        if claimed != digest_of(values):
            raise HfCmimError(
                f"The certificate was changed after it was written: it names the digest {str(claimed)[:16]}..., its"
                f" content has {digest_of(values)[:16]}.... None of its claims can be trusted. Download or copy the"
                " original file again."
            )
        if values.get("audit") is not None:
            check_schema(values["audit"], AUDIT_SCHEMA, "an audit report")
        certificate: Self = from_plain(cls, values, "certificate")
        return certificate

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the certificate in a folder.

        Raises:
            HfCmimError: a missing or unreadable certificate.
        """
        path = folder / CERTIFICATE_NAME
        # A broken link is no file, but still a link: the check below names its target.
        if not path.is_file() and not path.is_symlink():
            raise HfCmimError(
                f"Expected {CERTIFICATE_NAME} in {folder}, got none: there are no claims about these weights to check."
                f" Write one with: hf-cmim certify {folder}. CMIMTrainer writes one with each saved model."
            )
        if target := link_out_of(folder, path):
            raise HfCmimError(
                f"{path} is a link to {target}, outside of the folder. hf_cmim reads no certificate through such a"
                " link. Put the file itself there."
            )
        return cls.from_json(read_bounded(path))


def digest_of(values: Plain) -> str:
    """Return the sha256 hex of plain values in canonical JSON: sorted keys, no spaces, shortest numbers."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""The certificate: hashes of a model's files, what it was trained with, what was measured, and its audit, as one JSON.

It proves integrity, not authorship or honesty: whoever can write the weights can write a certificate for them.
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
"""Version of the JSON; a reader refuses a later one."""
DIGEST = "digest"
"""Name of the sha256 hex of everything else in the certificate, in canonical JSON."""


@dataclass(frozen=True)
class Training:
    """How the weights came about, as the trainer says.

    Attributes:
        trainer: its class.
        objective: the loss, as Python would build it.
        settings: that determined it, by name.
        base_model: Hub id of the weights it started from, or "".
        dataset: Hub id or name of the training data, or "".
        is_hardened: whether training went on until the CMI had its full weight in the loss.
        is_knockoff: whether another model taught it.
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
    """A measurement of these weights by their trainer.

    Attributes:
        dataset: its name, or "".
    """

    dataset: str
    measurement: Measurement

    @property
    def facts(self) -> ModelFacts:
        """The measurement as an audit would report it."""
        return ModelFacts.of(self.measurement)


@dataclass(frozen=True)
class Certificate:
    """What is said about a folder's model, bound to its files.

    Attributes:
        lineage: drawn once for a folder, kept when it is certified again: what tells another model on the Hub from a
            newer state of the same.
        date: when it was written.
        architecture: of the model.
        class_names: in the order of the logits.
        files: of every file that determines its answers.
        training: None for a model that no trainer of ours saved.
        evaluation: None where the trainer did not measure these very weights.
        audit: None where there is none.
        environment: it was written in.
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
        """Return it as JSON with its digest."""
        values = to_plain(self)
        return json.dumps({**values, DIGEST: digest_of(values)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the certificate that `to_json` wrote.

        Raises:
            HfCmimError: something that is no certificate, one of a later version, or one that was changed.
        """
        values = parsed_json(text, "a certificate")
        check_schema(values, SCHEMA, "a certificate")
        claimed = values.pop(DIGEST, None)
        if claimed != digest_of(values):
            raise HfCmimError(
                f"Expected a certificate whose content has the digest it names, {str(claimed)[:16]}..., got"
                f" {digest_of(values)[:16]}...: something in it was changed after it was written, perhaps a"
                " result that changes no verdict. Take the original."
            )
        if values.get("audit") is not None:
            check_schema(values["audit"], AUDIT_SCHEMA, "an audit report")
        certificate: Self = from_plain(cls, values, "certificate")
        return certificate

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the certificate in a folder.

        Raises:
            HfCmimError: none there, or none that can be read.
        """
        path = folder / CERTIFICATE_NAME
        if not path.is_file() and not path.is_symlink():
            raise HfCmimError(
                f"Expected {CERTIFICATE_NAME} in {folder}, got none: nothing is said about these weights that could be"
                " checked. Write one with hf-cmim certify, or save the model with CMIMTrainer."
            )
        if target := link_out_of(folder, path):
            raise HfCmimError(f"{path} is a link out of the folder, to {target}: nothing is read through it.")
        return cls.from_json(read_bounded(path))


def digest_of(values: Plain) -> str:
    """Return the sha256 hex of plain values in canonical JSON: sorted names, no spaces, shortest numbers."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

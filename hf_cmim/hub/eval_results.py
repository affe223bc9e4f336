"""Accuracy on a benchmark of the Hub, in the file that the Hub reads for its leaderboards.

Format: https://huggingface.co/docs/hub/eval-results
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.card_metadata import HUB_ID, MEASURED_BY_US, measured_facts
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import EVAL_RESULTS_NAME, link_out_of
from hf_cmim.names import one_line, safe_text
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import read_bounded, write_whole

MOST_BYTES = 2_000


@dataclass(frozen=True)
class Benchmark:
    """A task of a benchmark on the Hub.

    Attributes:
        dataset: Hub id of the data set, as user/name.
        task: id of the task in the data set's `eval.yaml`.
    """

    dataset: str
    task: str

    @classmethod
    def of_folder(cls, folder: Path) -> Self | None:
        """Return the benchmark in a folder's file, or None without one that can be read."""
        try:
            dataset = _read(folder)["dataset"]
            names = (dataset["id"], dataset["task_id"])
        except (HfCmimError, KeyError, TypeError):
            return None
        return cls(*names) if all(isinstance(name, str) for name in names) else None


def write_eval_results(folder: Path, certificate: Certificate, benchmark: Benchmark, repo_id: str) -> Path:
    """Write the accuracy in a certificate as the result of a benchmark, and return the path.

    Args:
        folder: folder of the model.
        certificate: certificate of the model.
        benchmark: benchmark that the certificate measured.
        repo_id: user/name of the model, whose certificate is named as the source; "" for none.

    Raises:
        HfCmimError: an invalid id, or a certificate that measured other data or nothing.
    """
    if fault := benchmark_fault(certificate, benchmark):
        raise HfCmimError(
            f"No result can be written for the benchmark {benchmark.dataset!r}: {fault}. The Hub would show the"
            " accuracy of other data on its leaderboard. Give the data set that was measured, or audit the model on"
            " this one."
        )
    entry = _entry(certificate, benchmark, repo_id)
    path = folder / EVAL_RESULTS_NAME
    if path.parent.is_symlink():
        raise HfCmimError(f"{path.parent} is a link: writing there could change files elsewhere. Remove the link.")
    path.parent.mkdir(exist_ok=True)
    write_whole(path, str(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)))
    return path


def benchmark_fault(certificate: Certificate, benchmark: Benchmark) -> str:
    """Return the reason why a certificate has no result for a benchmark, or ""."""
    if "/" not in benchmark.dataset or not HUB_ID.fullmatch(benchmark.dataset):
        return "it is no id of a data set on the Hub, user/name"
    measured = measured_facts(certificate)
    if measured is None:
        return "the model was neither audited nor evaluated"
    name = measured[0]
    # A trainer names a data set by its Hub id. The command `audit` writes "name: split", other audits "name split".
    starts = tuple(f"{benchmark.dataset.rpartition('/')[2]}{separator}" for separator in (": ", " "))
    if name != benchmark.dataset and not name.startswith(starts):
        return f"the accuracy was measured on {name or 'data without a name'!r}"
    return ""


def eval_results_fault(folder: Path, certificate: Certificate) -> str:
    """Return the difference between a folder's evaluation results and the certificate as a sentence, or ""."""
    if target := link_out_of(folder, folder / EVAL_RESULTS_NAME):
        return f"{EVAL_RESULTS_NAME} is a link out of the folder, to {safe_text(target)}"
    try:
        actual = _read(folder)
        benchmark = Benchmark.of_folder(folder)
    except HfCmimError as error:
        return safe_text(str(error))
    if benchmark is None:
        return f"{EVAL_RESULTS_NAME} names no benchmark"
    if fault := benchmark_fault(certificate, benchmark):
        return safe_text(f"{EVAL_RESULTS_NAME} is about {benchmark.dataset!r}, but {fault}")
    expected = _entry(certificate, benchmark, "")
    # The source is a link to wherever the model was published, the revision is the owner's to add.
    for values in (actual, actual["dataset"]):
        for name in ("source", "revision"):
            values.pop(name, None)
    # As text, in which true is not 1.
    if yaml.safe_dump(actual) != yaml.safe_dump(expected):
        return f"the result in {EVAL_RESULTS_NAME} differs from the certificate. Write it again with: hf-cmim card"
    return ""


def _entry(certificate: Certificate, benchmark: Benchmark, repo_id: str) -> dict[str, Any]:
    measured = measured_facts(certificate)
    # `benchmark_fault` was asked before.
    assert measured is not None
    audit = certificate.audit
    source = f"https://huggingface.co/{repo_id}/blob/main/{CERTIFICATE_NAME}" if "/" in repo_id else None
    entry = EvalResultEntry(
        dataset_id=benchmark.dataset,
        task_id=benchmark.task,
        value=round(measured[1].accuracy, 6),
        date=certificate.date if audit is None else audit.date,
        source_url=source,
        source_name=None if source is None else "hf_cmim certificate",
        notes=f"accuracy, {MEASURED_BY_US}",
    )
    return eval_result_entries_to_yaml([entry])[0]


def _read(folder: Path) -> dict[str, Any]:
    """Return the one result in a folder's file.

    Raises:
        HfCmimError: a missing file, or one with another content.
    """
    path = folder / EVAL_RESULTS_NAME
    try:
        entries = yaml.safe_load(read_bounded(path, MOST_BYTES))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise HfCmimError(f"{EVAL_RESULTS_NAME} cannot be read ({one_line(str(error))[:200]})") from None
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise HfCmimError(f"{EVAL_RESULTS_NAME} does not hold exactly one result. Write it again with: hf-cmim card")
    return entries[0]

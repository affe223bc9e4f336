"""Model card of a certified model, for people and for the Hub. The owner's own text in it is kept."""

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import RepoCard
from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.card_metadata import card_metadata, merged, plain_metadata
from hf_cmim.hub.certificate import DEFENSE_TRAINER, Certificate, Evaluation, Training
from hf_cmim.hub.eval_results import Benchmark, benchmark_fault, write_eval_results
from hf_cmim.hub.files import CARD_NAME, CONFIG_NAME, CURVE_NAME, EVAL_RESULTS_NAME, FOREST_NAME, PAGE_NAME, WEIGHTS
from hf_cmim.names import one_line
from hf_cmim.pages.markdown import audit_markdown, escaped
from hf_cmim.pages.quantities import plain
from hf_cmim.pages.utility import UTILITY, membership_sentence
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.tasks import AUDIO, IMAGE, TEXT, TOKENS, VIDEO, task_of
from hf_cmim.whole_files import write_whole

BEGIN = "<!-- hf_cmim begins: written anew each time. What stands outside of these two marks is yours and is kept. -->"
END = "<!-- hf_cmim ends -->"
OURS = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
"""Part of a card that hf_cmim writes. Changed marks would no longer find the parts in earlier cards."""
SAMPLES = {
    IMAGE: '"image.png"',
    TEXT: '"A text."',
    TOKENS: '"A text."',
    AUDIO: '"sound.wav"',
    VIDEO: '"film.mp4"',
}


@dataclass(frozen=True)
class _Kind:
    """Sentences of a card for one kind of training."""

    lead: str
    objective: str
    is_hardened: bool
    cites_cmim: bool = True


HARDENED = _Kind(
    "This classifier was hardened against knowledge distillation. In addition to the cross-entropy, its training"
    " minimised the conditional mutual information (CMI) of its inputs and outputs given the label, at many"
    " temperatures: its answers say less about a sample beyond its class.",
    "`loss = cross-entropy + w(t) reduce_T[f(T) CMI_T]` with the settings below, after"
    " [arXiv 2507.00012](https://arxiv.org/abs/2507.00012). Schedule, centroids and defaults are those of hf_cmim.",
    True,
)
UNFINISHED = _Kind(
    "The training of this classifier is not finished. It is to be hardened against knowledge distillation, but the"
    " weight of the conditional mutual information (CMI) in its loss has not reached its final value.",
    HARDENED.objective,
    False,
)
PLAIN = _Kind(
    "This classifier was trained with cross-entropy only, for comparison with a hardened one. It is **not** hardened"
    " against knowledge distillation.",
    "The CMI had no weight in the loss.",
    False,
)
DEFENDED = _Kind(
    "This classifier was trained with the loss of another method, to be compared with hardened classifiers. The table"
    " below names the method, its purpose and its source. Its training did not minimise the conditional mutual"
    " information (CMI).",
    "The loss took the place of the cross-entropy. `objective` names it with its settings.",
    False,
    cites_cmim=False,
)
KNOCKOFF = _Kind(
    "This is a knockoff student: a distillation attack trained it on the answers of another classifier. It shows the"
    " owner of that classifier how much these answers give away, and is not meant for other use.",
    "The attack, with its settings:",
    False,
)
UNKNOWN = _Kind(
    "There is no record of the training of this classifier. It is not known whether it was hardened against knowledge"
    " distillation.",
    "",
    False,
)


def write_card(
    folder: str | Path,
    certificate: Certificate,
    *,
    repo_id: str = "",
    license: str | None = None,
    language: str | None = None,
    tags: Sequence[str] = (),
    benchmark: Benchmark | None = None,
) -> list[Path]:
    """Write our part of a folder's README.md, with its pictures, the page of its audit, and a benchmark's result.

    The owner's sections and metadata in the card are kept. Pictures and page need the extra "plots"; without it the
    card has none.

    Args:
        folder: folder of the model.
        certificate: certificate of the model.
        repo_id: user/name on the Hub for the commands in the card; "" for the folder's name.
        license: identifier of the Hub; None keeps the card's entry.
        language: code of the Hub; None keeps the card's entry.
        tags: further tags.
        benchmark: benchmark of the Hub on which the certificate measured the accuracy; None keeps that of an existing
            result.

    Returns:
        Paths of the files that were written, the card first.

    Raises:
        HfCmimError: an existing card with metadata that cannot be read, or a benchmark that was not measured.
    """
    folder = Path(folder)
    # `hf-cmim verify` renders the card from the certificate's file, where settings are sorted and tuples are lists.
    # The same detour here makes both cards equal.
    certificate = Certificate.from_json(certificate.to_json())
    results = _write_results(folder, certificate, benchmark, repo_id)
    pictures = _draw(folder, certificate)
    name = repo_id or folder.resolve().name
    metadata = card_metadata(certificate, name, license, language, tags)
    card = write_section(folder, metadata, _rendered(certificate, name, [path.name for path in pictures]))
    return [card, *pictures, *results]


def _write_results(folder: Path, certificate: Certificate, benchmark: Benchmark | None, repo_id: str) -> list[Path]:
    """Write the result of a benchmark, of the given one or of the one in an existing file."""
    kept = Benchmark.of_folder(folder) if benchmark is None else None
    if kept is not None and not benchmark_fault(certificate, kept):
        benchmark = kept
    if benchmark is not None:
        return [write_eval_results(folder, certificate, benchmark, repo_id)]
    # A result of an earlier certificate must not stay.
    (folder / EVAL_RESULTS_NAME).unlink(missing_ok=True)
    return []


def write_section(folder: Path, metadata: dict[str, Any], text: str) -> Path:
    """Write our metadata and our section into a folder's README.md, and keep everything else in it.

    Returns:
        Path of the card.

    Raises:
        HfCmimError: an existing card with metadata that cannot be read.
    """
    path = folder / CARD_NAME
    text_before = path.read_text(encoding="utf-8") if path.is_file() else ""
    earlier_metadata, body = parsed_card(text_before, path)
    section = f"{BEGIN}\n{text}\n{END}"
    if OURS.search(body):
        # A function, because backslashes in a replacement text would be read as groups.
        body = OURS.sub(lambda _: section, body, count=1)
    else:
        body = "\n\n".join(part for part in (section, body.strip()) if part) + "\n"
    write_whole(path, f"---\n{merged(earlier_metadata, metadata)}\n---\n{body}")
    return path


def section_of(certificate: Certificate, name: str, pictures: Collection[str]) -> str:
    """Return the part of a card that hf_cmim writes, with its marks.

    Args:
        certificate: certificate of the model.
        name: user/name on the Hub, or name of the folder.
        pictures: file names of the pictures that it shows.
    """
    return f"{BEGIN}\n{_rendered(certificate, name, pictures)}\n{END}"


def parsed_card(text: str, path: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the body of a card.

    Raises:
        HfCmimError: metadata that cannot be read.
    """
    # RepoCard refuses an empty text.
    try:
        card = RepoCard(text) if text.strip() else None
    except (ValueError, yaml.YAMLError) as error:
        raise HfCmimError(
            f"The metadata at the top of {path}, between two lines of ---, is no valid YAML ({one_line(str(error))}):"
            " the Hub would refuse the card, and a new card would lose your entries. Correct or remove them."
        ) from None
    if card is None:
        return {}, ""
    return plain_metadata(card.data), card.text.lstrip("\n")


def _draw(folder: Path, certificate: Certificate) -> list[Path]:
    """Write the pictures and the page for which there are data, and return their paths; none without matplotlib."""
    # Pictures of an earlier certificate must not stay.
    for name in (CURVE_NAME, FOREST_NAME, PAGE_NAME):
        (folder / name).unlink(missing_ok=True)
    if find_spec("matplotlib") is None:
        return []
    from hf_cmim.pages.html import audit_page
    from hf_cmim.plots import plot_audit_curves, plot_cmi_curves, plot_forest

    audit, drawn = certificate.audit, []
    if audit is not None and audit.teacher.curve:
        # "this model", because the model's own name may have letters that the font lacks.
        curves = {"this model": audit.teacher}
        if audit.twin is not None and audit.twin.curve:
            curves["its cross-entropy twin"] = audit.twin
        drawn.append((plot_audit_curves(curves), CURVE_NAME))
    elif certificate.evaluation is not None:
        drawn.append((plot_cmi_curves({"this model": certificate.evaluation.measurement}), CURVE_NAME))
    if audit is not None and audit.primary.comparisons:
        drawn.append((plot_forest(audit.primary, audit.margin), FOREST_NAME))
    for figure, name in drawn:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150, format="png")
        write_whole(folder / name, buffer.getvalue())
    written = [folder / name for _, name in drawn]
    if audit is not None:
        write_whole(folder / PAGE_NAME, audit_page(audit))
        written.append(folder / PAGE_NAME)
    return written


def kind_of(training: Training | None) -> _Kind:
    """Return the sentences of a card for a model's kind of training."""
    if training is None:
        return UNKNOWN
    if training.is_knockoff:
        return KNOCKOFF
    if training.trainer == DEFENSE_TRAINER:
        return DEFENDED
    if training.settings.get("cmi_weight"):
        return HARDENED if training.is_hardened else UNFINISHED
    return PLAIN


def _rendered(certificate: Certificate, name: str, pictures: Collection[str]) -> str:
    training, audit = certificate.training, certificate.audit
    task = task_of(certificate.architecture)
    membership = None if audit is None else audit.teacher.membership_auc
    return render(
        "model_card.md.jinja",
        name=name.rpartition("/")[2],
        repo=name,
        kind=kind_of(training),
        audit=audit,
        audit_section="" if audit is None else audit_markdown(audit),
        certificate_name=CERTIFICATE_NAME,
        task=None if task is None else task.name,
        sample=None if task is None else SAMPLES[task],
        has_processor=task is not None
        and any(name != CONFIG_NAME and not WEIGHTS.fullmatch(name) for name in certificate.files),
        auto_model=certificate.architecture if task is None else task.auto_class,
        classes=certificate.class_names,
        training=training,
        evaluation=certificate.evaluation,
        # The audit's section has the same figures, beside those of the twin.
        figures=figures_of(None if audit is not None else certificate.evaluation),
        has_curve=CURVE_NAME in pictures,
        has_forest=FOREST_NAME in pictures,
        membership="" if membership is None else membership_sentence(membership),
    )


def render(template: str, *, training: Training | None, **values: Any) -> str:
    """Return a card's section from a template, with those settings of the training that are not None."""
    environment = Environment(loader=PackageLoader("hf_cmim.hub"), undefined=StrictUndefined, autoescape=False)
    # HTML escaping would not do: the section is Markdown, where a pipe or a backtick in a name breaks a table.
    environment.filters["text"] = lambda value: escaped(plain(value))
    settings = {}
    if training is not None:
        settings = {name: value for name, value in training.settings.items() if value is not None}
    text: str = environment.get_template(template).render(training=training, settings=settings, **values)
    # A mark of ours in a user's words would end the section.
    return text.strip().replace("<!-- hf_cmim", "&lt;!-- hf_cmim")


def figures_of(evaluation: Evaluation | None) -> dict[str, str]:
    """Return the figures of the trainer's measurement, as text by name."""
    if evaluation is None:
        return {}
    figures = {figure.name: figure.of(evaluation.facts) for figure in UTILITY}
    figures["largest CMI among correctly classified samples, nats"] = f"{evaluation.measurement.cmi_sup:.3g}"
    return figures

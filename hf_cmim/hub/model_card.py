"""The model card: what a certificate says, for people and for the Hub; what its reader added stays."""

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
from hf_cmim.hub.certificate import Certificate, Evaluation, Training
from hf_cmim.hub.files import CARD_NAME, CONFIG_NAME, CURVE_NAME, FOREST_NAME, PAGE_NAME, WEIGHTS
from hf_cmim.names import one_line
from hf_cmim.pages.markdown import audit_markdown, escaped
from hf_cmim.pages.quantities import plain
from hf_cmim.pages.wording import UTILITY
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.tasks import AUDIO, IMAGE, TEXT, TOKENS, VIDEO, task_of
from hf_cmim.whole_files import write_whole

BEGIN = "<!-- hf_cmim begins: written anew each time. What stands outside of these two marks is yours and is kept. -->"
END = "<!-- hf_cmim ends -->"
OURS = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
SAMPLES = {
    IMAGE: '"image.png"',
    TEXT: '"A text."',
    TOKENS: '"A text."',
    AUDIO: '"sound.wav"',
    VIDEO: '"film.mp4"',
}


@dataclass(frozen=True)
class _Kind:
    """What a card says of a model of some origin."""

    lead: str
    objective: str
    is_hardened: bool


HARDENED = _Kind(
    "This classifier was hardened against knowledge distillation: beside the cross-entropy, its training minimized the"
    " conditional mutual information (CMI) of its outputs given the label, over many temperatures.",
    "`loss = cross-entropy + w(t) reduce_T[f(T) CMI_T]` with the settings below, after"
    " [arXiv 2507.00012](https://arxiv.org/abs/2507.00012); schedule, centroids and defaults are those of hf_cmim.",
    True,
)
UNFINISHED = _Kind(
    "This classifier is in the middle of its training, or was stopped there: it was to be hardened against knowledge"
    " distillation, but the weight of the conditional mutual information (CMI) has not reached its final value.",
    HARDENED.objective,
    False,
)
PLAIN = _Kind(
    "This classifier was trained with cross-entropy alone, for comparison with a hardened one: it is **not** hardened"
    " against knowledge distillation.",
    "The CMI had no weight in the loss.",
    False,
)
KNOCKOFF = _Kind(
    "This is a knockoff student: it learned from the answers of another classifier by a distillation attack, so that"
    " the owner of that classifier can measure how much it gives away. It is meant for that audit, not for use.",
    "The attack, with its settings:",
    False,
)
UNKNOWN = _Kind(
    "Nothing is recorded of how this classifier was trained; whether it was hardened against knowledge distillation is"
    " not known.",
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
) -> list[Path]:
    """Write a folder's README.md anew, and the pictures and the page that it shows.

    Sections and metadata that others wrote into the card stay. Pictures need the extra "plots"; without it the card
    has none.

    Args:
        folder: of the model.
        certificate: of the model.
        repo_id: user/name on the Hub, as the card's commands show it; "" for the folder's name.
        license: identifier of the Hub; None leaves what the card says.
        language: code of the Hub; None leaves what the card says.
        tags: further ones.

    Returns:
        What was written.

    Raises:
        HfCmimError: a card there whose metadata cannot be read.
    """
    folder = Path(folder)
    certificate = Certificate.from_json(certificate.to_json())  # as its file will be read: settings sorted, no tuples
    pictures = _draw(folder, certificate)
    name = repo_id or folder.resolve().name
    metadata = card_metadata(certificate, name, license, language, tags)
    return [write_section(folder, metadata, _rendered(certificate, name, [each.name for each in pictures])), *pictures]


def write_section(folder: Path, metadata: dict[str, Any], text: str) -> Path:
    """Write our metadata and our section into a folder's README.md; everything else in it stays.

    Returns:
        Path of the card.

    Raises:
        HfCmimError: a card there whose metadata cannot be read.
    """
    path = folder / CARD_NAME
    earlier = path.read_text(encoding="utf-8") if path.is_file() else ""
    known, body = parsed_card(earlier, path)
    section = f"{BEGIN}\n{text}\n{END}"
    if OURS.search(body):
        body = OURS.sub(lambda _: section, body, count=1)
    else:
        body = "\n\n".join(part for part in (section, body.strip()) if part) + "\n"
    write_whole(path, f"---\n{merged(known, metadata)}\n---\n{body}")
    return path


def section_of(certificate: Certificate, name: str, pictures: Collection[str]) -> str:
    """Return the part of a card that is ours, with its marks.

    Args:
        certificate: of the model.
        name: user/name on the Hub, or of the folder.
        pictures: names of those that it shows.
    """
    return f"{BEGIN}\n{_rendered(certificate, name, pictures)}\n{END}"


def parsed_card(text: str, path: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the body of a card.

    Raises:
        HfCmimError: metadata that cannot be read.
    """
    try:
        card = RepoCard(text) if text.strip() else None
    except (ValueError, yaml.YAMLError) as error:
        raise HfCmimError(
            f"Expected metadata in YAML between two lines of --- at the top of {path}, got some that cannot be read"
            f" ({one_line(str(error))}): the Hub would refuse the card, and writing it anew would lose what you wrote."
            " Mend or remove them."
        ) from None
    if card is None:
        return {}, ""
    return plain_metadata(card.data), card.text.lstrip("\n")


def _draw(folder: Path, certificate: Certificate) -> list[Path]:
    """Write pictures and page where there is something to show and matplotlib to draw it; return where they are."""
    for name in (CURVE_NAME, FOREST_NAME, PAGE_NAME):  # none of an earlier state may stay
        (folder / name).unlink(missing_ok=True)
    if find_spec("matplotlib") is None:
        return []
    from hf_cmim.pages.html import audit_page
    from hf_cmim.plots import plot_audit_curves, plot_cmi_curves, plot_forest

    audit, drawn = certificate.audit, []
    if audit is not None and audit.teacher.curve:
        shown = {"this model": audit.teacher}  # its name may hold letters that no font has
        if audit.twin is not None and audit.twin.curve:
            shown["its cross-entropy twin"] = audit.twin
        drawn.append((plot_audit_curves(shown), CURVE_NAME))
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
    """Return what a card says of a model's origin."""
    if training is None:
        return UNKNOWN
    if training.is_knockoff:
        return KNOCKOFF
    if training.settings.get("cmi_weight"):
        return HARDENED if training.is_hardened else UNFINISHED
    return PLAIN


def _rendered(certificate: Certificate, name: str, pictures: Collection[str]) -> str:
    training, audit = certificate.training, certificate.audit
    task = task_of(certificate.architecture)
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
        figures=figures_of(None if audit is not None else certificate.evaluation),  # an audit has a better table
        has_curve=CURVE_NAME in pictures,
        has_forest=FOREST_NAME in pictures,
    )


def render(template: str, *, training: Training | None, **values: Any) -> str:
    """Return a card's section from a template, with the settings of a training that were set."""
    environment = Environment(loader=PackageLoader("hf_cmim.hub"), undefined=StrictUndefined, autoescape=False)
    environment.filters["text"] = lambda value: escaped(plain(value))
    settings = {} if training is None else {k: v for k, v in training.settings.items() if v is not None}
    text: str = environment.get_template(template).render(training=training, settings=settings, **values)
    return text.strip().replace("<!-- hf_cmim", "&lt;!-- hf_cmim")  # a mark in a user's words would end the part


def figures_of(evaluation: Evaluation | None) -> dict[str, str]:
    """Return what the trainer measured, as a reader sees it."""
    if evaluation is None:
        return {}
    return {each.name: each.of(evaluation.facts) for each in UTILITY} | {
        "largest CMI among correctly classified samples, nats": f"{evaluation.measurement.cmi_sup:.3g}"
    }

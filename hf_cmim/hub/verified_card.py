"""Check of a model card: the part that hf_cmim wrote still agrees with the certificate."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.card_metadata import AUDITED, card_metadata, our_results
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import CARD_NAME, CURVE_NAME, FOREST_NAME
from hf_cmim.hub.model_card import OURS, parsed_card, section_of
from hf_cmim.names import safe_text
from hf_cmim.whole_files import read_bounded

_NAME = re.compile(r"^hf-cmim verify (\S+)$", re.MULTILINE)


def is_comparable(certificate: Certificate) -> bool:
    """Return True if this release wrote the certificate, so that it would write the same card again."""
    versions = certificate.environment.get("versions")
    written_by = versions.get("hf_cmim") if isinstance(versions, dict) else None
    return written_by == version("hf_cmim")


def card_faults(folder: Path, certificate: Certificate, repo_id: str) -> Iterator[str]:
    """Yield the differences between hf_cmim's part of a card and the certificate, as sentences.

    Args:
        folder: folder with the card.
        certificate: certificate of the model.
        repo_id: user/name of the repository that the folder was downloaded from; "" for a local folder.
    """
    try:
        text = read_bounded(folder / CARD_NAME).decode("utf-8")
        metadata, body = parsed_card(text, folder / CARD_NAME)
    except (HfCmimError, UnicodeDecodeError) as error:
        yield safe_text(f"{CARD_NAME} cannot be read ({error})")
        return
    sections = OURS.findall(body)
    if len(sections) > 1:
        yield f"{CARD_NAME} has {len(sections)} parts that claim to be written by hf_cmim"
        return
    # A card that the owner wrote alone makes no claim in our name.
    if not sections:
        return
    # The section depends on the name and the pictures it was written with, so both are read from it.
    match = _NAME.search(sections[0])
    name = match[1] if match is not None else ""
    if repo_id and name != repo_id:
        yield f"{CARD_NAME} has commands for {safe_text(name)!r}, which is another repository"
        return
    pictures = [picture for picture in (CURVE_NAME, FOREST_NAME) if f"({picture})" in sections[0]]
    if section_of(certificate, name, pictures) != sections[0]:
        yield (
            f"hf_cmim's part of {CARD_NAME} differs from the certificate: it was changed by hand. Write it again with:"
            " hf-cmim card"
        )
    yield from _metadata_faults(metadata, certificate, name)


def _metadata_faults(metadata: dict[str, Any], certificate: Certificate, name: str) -> Iterator[str]:
    expected = card_metadata(certificate, name, None, None, ())
    if our_results(metadata) != our_results(expected):
        yield f"the figures in the metadata of {CARD_NAME} differ from the certificate"
    tags = metadata.get("tags")
    has_tag, is_audited = isinstance(tags, list) and AUDITED in tags, certificate.audit is not None
    if has_tag != is_audited:
        yield (
            f"the metadata of {CARD_NAME} {'have' if has_tag else 'lack'} the tag {AUDITED!r}, but the model was"
            f" {'audited' if is_audited else 'not audited'}"
        )

"""Whether the part of a card that hf_cmim wrote still says what the certificate says."""

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
    """Return whether this release wrote the certificate, and so would write the same card."""
    versions = certificate.environment.get("versions")
    written_by = versions.get("hf_cmim") if isinstance(versions, dict) else None
    return written_by == version("hf_cmim")


def card_faults(folder: Path, certificate: Certificate, repo_id: str) -> Iterator[str]:
    """Yield what hf_cmim's part of a card says and the certificate does not, as sentences.

    Args:
        folder: with the card.
        certificate: of the model.
        repo_id: user/name of the repository that the folder is of, or "" for one here.
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
    if not sections:
        return  # a card of the owner's own
    match = _NAME.search(sections[0])
    name = match[1] if match is not None else ""
    if repo_id and name != repo_id:
        yield f"{CARD_NAME} shows how to use {safe_text(name)!r}, which is another repository"
        return
    pictures = [each for each in (CURVE_NAME, FOREST_NAME) if f"({each})" in sections[0]]
    if section_of(certificate, name, pictures) != sections[0]:
        yield (
            f"hf_cmim's own part of {CARD_NAME} is not what the certificate says: it was changed by hand. Write it"
            " anew: hf-cmim card"
        )
    yield from _of_metadata(metadata, certificate, name)


def _of_metadata(metadata: dict[str, Any], certificate: Certificate, name: str) -> Iterator[str]:
    expected = card_metadata(certificate, name, None, None, ())
    if our_results(metadata) != our_results(expected):
        yield f"the figures in the metadata of {CARD_NAME} are not those of the certificate"
    tags = metadata.get("tags")
    if (AUDITED in tags if isinstance(tags, list) else False) != (certificate.audit is not None):
        yield f"the metadata of {CARD_NAME} say {AUDITED!r} of a model that was not audited, or not of one that was"

"""Checks of a repository's file listing before anything large is downloaded from the Hub."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import listed, unaccounted
from hf_cmim.hub.verified_files import naming_faults
from hf_cmim.names import safe_text


@dataclass(frozen=True)
class Fetched:
    """Result of a download from a repository.

    Attributes:
        folder: folder of the downloaded files.
        commit: sha of their commit.
        paths: paths of all files in the repository at this commit, downloaded or not.
        faults: differences between this listing and the certificate. If there are any, only the certificate was
            downloaded.
    """

    folder: Path
    commit: str
    paths: tuple[str, ...]
    faults: tuple[str, ...]


def listing_faults(certificate: Certificate, sizes: Mapping[str, int | None]) -> Iterator[str]:
    """Yield the differences between a repository's file listing and its certificate, as sentences.

    Args:
        certificate: certificate of the repository.
        sizes: size in bytes of each file there, by path; None where the Hub gives no size.
    """
    yield from naming_faults(certificate)
    if unknown := unaccounted(sizes, certificate.files):
        yield f"{listed(unknown)} on the Hub: not certified, and a loader may use it instead of a certified file"
    for name, record in certificate.files.items():
        if name not in sizes:
            yield f"{safe_text(name)} is missing on the Hub"
        elif sizes[name] not in (None, record.size):
            yield f"{safe_text(name)} has {sizes[name]:,} bytes on the Hub, the certified file has {record.size:,}"


def check_room(folder: Path, total: int) -> None:
    """Raise an `HfCmimError` if the disk of a folder has less than `total` bytes of free space."""
    free = shutil.disk_usage(folder).free
    if total > free:
        raise HfCmimError(
            f"The certified files have {total:,} bytes, but the disk of {folder} has only {free:,} bytes left: nothing"
            " was downloaded. Free some space, or set HF_HOME to a folder on a larger disk."
        )

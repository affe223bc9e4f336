"""What a download from the Hub may bring, decided before anything large is fetched."""

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
    """What was downloaded of a repository.

    Attributes:
        folder: where the files are.
        commit: sha of the commit that they are of.
        paths: of every file that the repository holds at this commit.
        faults: what in this listing is not as certified; then only the certificate was downloaded.
    """

    folder: Path
    commit: str
    paths: tuple[str, ...]
    faults: tuple[str, ...]


def listing_faults(certificate: Certificate, sizes: Mapping[str, int | None]) -> Iterator[str]:
    """Yield what the listing of a repository shows to be wrong, as sentences.

    Args:
        certificate: in the repository.
        sizes: bytes of each file there, by its path.
    """
    yield from naming_faults(certificate)
    if strangers := unaccounted(sizes, certificate.files):
        yield f"{listed(strangers)} on the Hub: not certified, and a loader may take it instead"
    for name, record in certificate.files.items():
        if name not in sizes:
            yield f"{safe_text(name)} is missing on the Hub"
        elif sizes[name] not in (None, record.size):
            yield f"{safe_text(name)} has {sizes[name]:,} bytes on the Hub, certified are {record.size:,}"


def check_room(folder: Path, total: int) -> None:
    """Raise an `HfCmimError` if a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if total > free:
        raise HfCmimError(
            f"The certified files have {total:,} bytes, and the disk of {folder} has {free:,} left: nothing was"
            " downloaded. Free some, or set HF_HOME to a larger disk."
        )

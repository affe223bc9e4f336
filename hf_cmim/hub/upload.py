"""Selection of the files that a push sends: the certified files and their documents, and no other file."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import (
    ATTESTATION_NAME,
    OURS,
    check_links,
    hash_file,
    is_certifiable,
    is_certified,
    is_weights,
    listed,
    published_files,
    unaccounted,
)
from hf_cmim.hub.verified_attestation import attestation_faults
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import MOST_BYTES, read_bounded


@dataclass(frozen=True)
class PlannedUpload:
    """Preview of a push.

    Attributes:
        files: size in bytes of each file that would be sent, by name.
        kept_back: names of the files and folders that would stay on this machine.
    """

    files: dict[str, int]
    kept_back: tuple[str, ...]


@dataclass(frozen=True)
class Upload:
    """Files that are being sent, and their certificate.

    Attributes:
        folder: folder of the files.
        certificate: certificate, parsed from the same bytes that are sent.
        additions: operations that add the files to a commit.
    """

    folder: Path
    certificate: Certificate
    additions: Sequence[CommitOperationAdd]

    @property
    def names(self) -> set[str]:
        """Names of the files that are sent."""
        return {addition.path_in_repo for addition in self.additions}

    def check_unchanged(self) -> None:
        """Raise an `HfCmimError` if a file changed after it was certified, for instance during the upload."""
        _check_hashes(self.folder, self.certificate)


def planned_upload(folder: str | Path) -> PlannedUpload:
    """Return the files of a folder that a push would send, and those that would stay.

    Raises:
        HfCmimError: a link to a file outside of the folder, which would be published.
    """
    folder = Path(folder)
    names = {*published_files(folder)}
    if (folder / CERTIFICATE_NAME).is_file():
        names |= {name for name in Certificate.read(folder).files if is_certifiable(name)}
        check_links(folder, names)
    tops = {name.partition("/")[0] for name in names}
    kept_back = sorted(
        path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name not in tops
    )
    sizes = {name: (folder / name).stat().st_size for name in sorted(names) if (folder / name).is_file()}
    return PlannedUpload(sizes, tuple(kept_back))


def prepare(folder: Path) -> Upload:
    """Read the files of a folder for an upload.

    Small files are kept in memory, so that a change on the disk cannot reach the upload. The large ones, weights, are
    checked again after the upload by `Upload.check_unchanged`.

    Raises:
        HfCmimError: files that differ from the certificate, or that it does not name.
    """
    if uncertified := _uncertified(folder, Certificate.read(folder)):
        raise _does_not_fit(folder, uncertified)
    additions = []
    for name in planned_upload(folder).files:
        path = folder / name
        is_small = path.stat().st_size <= MOST_BYTES
        additions.append(CommitOperationAdd(name, read_bounded(path) if is_small else str(path)))
    sent = {addition.path_in_repo: addition for addition in additions}
    content = sent[CERTIFICATE_NAME].path_or_fileobj
    # A certificate is small: a large one would have been refused above.
    assert isinstance(content, bytes)
    # Parsed from the bytes that are sent: the file may have changed since it was read the first time.
    certificate = Certificate.from_json(content)
    changed = sorted(
        name
        for name, record in certificate.files.items()
        if name not in sent or sent[name].upload_info.sha256.hex() != record.sha256
    )
    if changed:
        raise _does_not_fit(folder, changed)
    return Upload(folder, certificate, additions)


def check_is_certified(folder: Path) -> None:
    """Raise an `HfCmimError` unless a folder's certificate and attestation fit its files, and name all of them."""
    certificate = Certificate.read(folder)
    _check_hashes(folder, certificate)
    if uncertified := _uncertified(folder, certificate):
        raise _does_not_fit(folder, uncertified)
    if (folder / ATTESTATION_NAME).is_file() and (faults := list(attestation_faults(folder, certificate))):
        raise HfCmimError(f"{faults[0]}. hf-cmim verify would refuse the model, so nothing was published.")


def stale_paths(paths: Collection[str], sent: Collection[str], *, force: bool) -> list[str]:
    """Return the paths of a repository that a push removes: files of an earlier version, which a loader could prefer.

    Args:
        paths: paths in the repository.
        sent: paths that the push writes.
        force: True to remove files of unknown kinds as well.
    """
    stale = {path for path in paths if is_replaced(path)} - {*sent}
    return sorted(stale.union(unknown_paths(paths) if force else ()))


def is_replaced(path: str) -> bool:
    """Return True if a push writes this path of a repository or removes it there."""
    return is_certified(path) or is_weights(path) or path in OURS


def unknown_paths(paths: Iterable[str]) -> list[str]:
    """Return the paths of a repository, sorted, that a push does not replace and a loader might still use."""
    return unaccounted((path for path in paths if not is_replaced(path)), ())


def _uncertified(folder: Path, certificate: Certificate) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and is_certified(path.name) and path.name not in certificate.files
    )


def _check_hashes(folder: Path, certificate: Certificate) -> None:
    records = {name: hash_file(folder / name) for name in certificate.files if (folder / name).is_file()}
    changed = sorted(name for name, record in certificate.files.items() if records.get(name) != record)
    if changed:
        raise _does_not_fit(folder, changed)


def _does_not_fit(folder: Path, names: list[str]) -> HfCmimError:
    return HfCmimError(
        f"The certificate in {folder} does not fit its files: {listed(names)} changed, or is not certified. Nobody"
        f" could verify the model, so nothing was published. Certify the files again with: hf-cmim certify {folder}"
    )

"""What a push sends: exactly what was certified, and its documents."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import (
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
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import MOST_BYTES, read_bounded


@dataclass(frozen=True)
class PlannedUpload:
    """What a push sends.

    Attributes:
        files: size in bytes of each file that goes, by name.
        kept_back: names of files in the folder that stay on this machine.
    """

    files: dict[str, int]
    kept_back: tuple[str, ...]


@dataclass(frozen=True)
class Upload:
    """Files as they are sent, and the certificate that speaks of them.

    Attributes:
        folder: that they are in.
        certificate: read once, from the very bytes that are sent.
        additions: operations of the commit.
    """

    folder: Path
    certificate: Certificate
    additions: Sequence[CommitOperationAdd]

    @property
    def names(self) -> set[str]:
        """Names of the files."""
        return {each.path_in_repo for each in self.additions}

    def check_unchanged(self) -> None:
        """Raise an `HfCmimError` if a certified file changed since it was certified, or while it was sent."""
        _check_hashes(self.folder, self.certificate)


def planned_upload(folder: str | Path) -> PlannedUpload:
    """Return what a push of a folder sends, and what it keeps back.

    Raises:
        HfCmimError: a link out of the folder, whose target would be published.
    """
    folder = Path(folder)
    names = {*published_files(folder)}
    if (folder / CERTIFICATE_NAME).is_file():
        names |= {name for name in Certificate.read(folder).files if is_certifiable(name)}
        check_links(folder, names)
    tops = {name.partition("/")[0] for name in names}
    kept_back = sorted(
        each.name + ("/" if each.is_dir() else "") for each in folder.iterdir() if each.name not in tops
    )
    sizes = {name: (folder / name).stat().st_size for name in sorted(names) if (folder / name).is_file()}
    return PlannedUpload(sizes, tuple(kept_back))


def prepare(folder: Path) -> Upload:
    """Return the files of a folder as they are sent: small ones from memory, so that nobody can change them any more.

    Raises:
        HfCmimError: a certificate that is not of these files, or files that it does not speak of.
    """
    if strangers := _uncertified(folder, Certificate.read(folder)):
        raise _not_of_these_files(folder, strangers)
    additions = []
    for name in planned_upload(folder).files:
        path = folder / name
        is_small = path.stat().st_size <= MOST_BYTES
        additions.append(CommitOperationAdd(name, read_bounded(path) if is_small else str(path)))
    sent = {each.path_in_repo: each for each in additions}
    content = sent[CERTIFICATE_NAME].path_or_fileobj
    assert isinstance(content, bytes)  # a certificate is small, or it would not have been read
    certificate = Certificate.from_json(content)
    changed = sorted(
        name
        for name, record in certificate.files.items()
        if name not in sent or sent[name].upload_info.sha256.hex() != record.sha256
    )
    if changed:
        raise _not_of_these_files(folder, changed)
    return Upload(folder, certificate, additions)


def check_is_certified(folder: Path) -> None:
    """Raise an `HfCmimError` unless the certificate in a folder is of the files beside it, and of all of them."""
    certificate = Certificate.read(folder)
    _check_hashes(folder, certificate)
    if strangers := _uncertified(folder, certificate):
        raise _not_of_these_files(folder, strangers)


def stale_paths(paths: Collection[str], sent: Collection[str], *, force: bool) -> list[str]:
    """Return the paths of a repository that a push removes: of an earlier state, which a loader could prefer.

    Args:
        paths: in the repository.
        sent: that the push writes.
        force: remove what is of no known kind as well.
    """
    stale = {path for path in paths if is_replaced(path)} - {*sent}
    return sorted(stale.union(strangers_in(paths) if force else ()))


def is_replaced(path: str) -> bool:
    """Return whether a push writes this path of a repository, or removes it there: what a loader of ours may take."""
    return is_certified(path) or is_weights(path) or path in OURS


def strangers_in(paths: Iterable[str]) -> list[str]:
    """Return the paths of a repository that a push neither replaces nor can leave there, sorted."""
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
        raise _not_of_these_files(folder, changed)


def _not_of_these_files(folder: Path, names: list[str]) -> HfCmimError:
    return HfCmimError(
        f"Expected the files that the certificate in {folder} names, got others for {listed(names)}: it would"
        " be published with files that it does not speak of. Nothing was published. Certify them: hf-cmim certify"
        f" {folder}."
    )

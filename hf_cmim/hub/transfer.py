"""Upload a certified model in one commit, and download what a certificate names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitInfo, HfApi, ModelInfo
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but listed for no checker

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import (
    CARD_NAME,
    SIGNATURE_NAME,
    hash_file,
    is_certified,
    is_weights,
    published_files,
    uncertified,
)
from hf_cmim.hub.hub_errors import explained
from hf_cmim.report import CERTIFICATE_NAME


@dataclass(frozen=True)
class Upload:
    """What a push sends.

    Attributes:
        files: size in bytes of each file that goes, by name.
        kept_back: names of files in the folder that stay on this machine.
    """

    files: dict[str, int]
    kept_back: tuple[str, ...]


@dataclass(frozen=True)
class _Remote:
    """What stands in a repository: its newest commit, the weights' hashes by name, the lineage of its certificate."""

    commit: str | None
    weights: dict[str, str]
    lineage: str | None


@final
class Repository:
    """A repository of models on the Hub.

    Args:
        repo_id: user/name.
        token: of its owner; None for the one that was logged in with.
        branch: to write to or read from; None for the main one.
        api: client of the Hub; None for the usual one.

    Raises:
        HfCmimError: no valid name.
    """

    def __init__(
        self, repo_id: str, *, token: str | None = None, branch: str | None = None, api: HfApi | None = None
    ) -> None:
        with explained(repo_id, "use"):
            validate_repo_id(repo_id)
        self.repo_id = repo_id
        self.branch = branch
        self.api = HfApi(token=token) if api is None else api

    # Upload

    def push(
        self,
        folder: str | Path,
        *,
        private: bool | None = None,
        force: bool = False,
        message: str = "Upload a certified model",
    ) -> CommitInfo:
        """Upload the model in a folder, its certificate, its card and its pictures in one commit.

        Nothing that `planned_upload` does not name leaves the machine. The repository is made where there is none.

        Args:
            folder: of the model, certified.
            private: whether a new repository is private; None for the account's default.
            force: overwrite a different model.
            message: of the commit.

        Raises:
            HfCmimError: a certificate that is not of these files, another model in the repository, or an error of the
                Hub. Nothing is published then.
        """
        folder = Path(folder)
        check_is_certified(folder)
        remote = self.check_not_another(Certificate.read(folder), force=force)
        with explained(self.repo_id, "write to"):
            self.api.create_repo(self.repo_id, private=private, exist_ok=True)
            if self.branch is not None:
                self.api.create_branch(self.repo_id, branch=self.branch, exist_ok=True)
        with explained(self.repo_id, "upload to"):
            return self.api.upload_folder(
                repo_id=self.repo_id,
                folder_path=folder,
                allow_patterns=list(planned_upload(folder).files),
                commit_message=message,
                revision=self.branch,
                parent_commit=remote.commit,
            )

    def check_not_another(self, certificate: Certificate | None, *, force: bool) -> _Remote:
        """Raise an `HfCmimError` if the repository holds weights of another model.

        Args:
            certificate: of what would be uploaded; None before there is one.
            force: whether they may be overwritten.
        """
        remote = self._remote()
        ours = {} if certificate is None else {name: each.sha256 for name, each in certificate.files.items()}
        is_same = all(ours.get(name) == sha256 for name, sha256 in remote.weights.items())
        is_earlier = certificate is not None and certificate.lineage == remote.lineage
        if not (force or is_same or is_earlier):
            raise HfCmimError(
                f"Expected {self.repo_id} to be empty or to hold an earlier state of this model, got"
                f" {', '.join(remote.weights)} of another one: whoever uses it would get yours from now on. Choose"
                " another name, or overwrite it with --force (hub_overwrite=True in a trainer); its commits remain."
            )
        return remote

    def _remote(self) -> _Remote:
        with explained(self.repo_id, "read"):
            info = self._newest()
            if info is None:
                return _Remote(None, {}, None)
            weights = {
                each.rfilename: each.lfs.sha256 if each.lfs is not None else str(each.blob_id)
                for each in info.siblings or ()
                if is_weights(each.rfilename)
            }
            return _Remote(info.sha, weights, self._lineage(info.sha) if weights else None)

    def _newest(self) -> ModelInfo | None:
        """Return what stands on the branch; where there is none yet on the main one, from which it would begin."""
        for revision in dict.fromkeys((self.branch, None)):
            try:
                return self.api.model_info(self.repo_id, revision=revision, files_metadata=True)
            except RevisionNotFoundError:
                continue
            except RepositoryNotFoundError:
                break
        return None

    def _lineage(self, commit: str | None) -> str | None:
        """Return the lineage in the repository's certificate; one that cannot be read is another model's."""
        try:
            path = self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit)
        except EntryNotFoundError:
            return None
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            return None
        return str(values.get("lineage")) if isinstance(values, dict) else None

    # Download

    def fetch(self) -> tuple[Path, list[str]]:
        """Download a certificate and the files it names, nothing else.

        Returns:
            The folder they are in, and the names in the repository that a loader may take instead, left there.

        Raises:
            HfCmimError: no certificate there, one that cannot be read, or an error of the Hub.
        """
        with explained(self.repo_id, "download from"):
            info = self.api.model_info(self.repo_id, revision=self.branch)
            commit = info.sha
            path = Path(self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit))
            names = [each.rfilename for each in info.siblings or ()]
            certificate = Certificate.read(path.parent)
            wanted = {*certificate.files, CARD_NAME, SIGNATURE_NAME}.intersection(names)
            for name in sorted(wanted):
                self.api.hf_hub_download(self.repo_id, name, revision=commit)
        return path.parent, uncertified(names, certificate.files)


def planned_upload(folder: str | Path) -> Upload:
    """Return what a push of a folder sends, and what it keeps back."""
    folder = Path(folder)
    names = set(published_files(folder))
    if (folder / CERTIFICATE_NAME).is_file():
        certified = Certificate.read(folder).files
        names = {name for name in names if not is_certified(name)} | {*certified}
    kept_back = sorted(
        each.name + ("/" if each.is_dir() else "") for each in folder.iterdir() if each.name not in names
    )
    sizes = {name: (folder / name).stat().st_size for name in sorted(names) if (folder / name).is_file()}
    return Upload(sizes, tuple(kept_back))


def check_is_certified(folder: Path) -> None:
    """Raise an `HfCmimError` unless the certificate in a folder is of the files beside it."""
    certificate = Certificate.read(folder)
    found = {name: hash_file(folder / name) for name in certificate.files if (folder / name).is_file()}
    changed = sorted(name for name, record in certificate.files.items() if found.get(name) != record)
    if changed:
        raise HfCmimError(
            f"Expected the files that the certificate in {folder} names, got others for {', '.join(changed)}: it would"
            " be published with weights that it does not speak of. Certify them: hf-cmim certify"
            f" {folder}."
        )

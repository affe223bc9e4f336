"""A repository on the Hub: upload a certified model in one commit, download what a certificate names."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitInfo, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but listed for no checker

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.download import Fetched, check_room, listing_faults
from hf_cmim.hub.files import CARD_NAME, PAGE_NAME, SIGNATURE_NAME, is_weights, listed
from hf_cmim.hub.hub_errors import PATIENCE, explained, patient_client
from hf_cmim.hub.loading import check_loads_alone
from hf_cmim.hub.upload import check_is_certified, planned_upload, prepare, stale_paths, strangers_in
from hf_cmim.plain_data import read_json
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import MOST_BYTES


@dataclass(frozen=True)
class _Remote:
    """A repository as it is: newest commit, weights' hashes by name, lineage of its certificate, every path."""

    commit: str | None
    weights: dict[str, str]
    lineage: str | None
    paths: tuple[str, ...]


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
            HfCmimError: a certificate that is not of these files, files that nobody could load, another model in the
                repository, or an error of the Hub. Nothing is published then.
        """
        folder = Path(folder)
        check_is_certified(folder)
        check_loads_alone(folder, planned_upload(folder).files)
        self.check_not_another(Certificate.read(folder), force=force)
        with explained(self.repo_id, "write to"), patient_client():
            self.api.create_repo(self.repo_id, private=private, exist_ok=True)
            if self.branch is not None:
                self.api.create_branch(self.repo_id, branch=self.branch, exist_ok=True)
        return self.commit(folder, force=force, message=message)

    def commit(self, folder: str | Path, *, force: bool = False, message: str) -> CommitInfo:
        """Upload the model in a folder to a repository that exists, in one commit.

        The same commit removes what an earlier state of the model left there and a loader might prefer. Every file is
        compared with the certificate once more after its upload, before the commit makes any of them visible.

        Args:
            folder: of the model, certified.
            force: overwrite a different model, and remove files of no known kind.
            message: of the commit.

        Raises:
            HfCmimError: as `push`.
        """
        folder = Path(folder)
        upload = prepare(folder)
        remote = self.check_not_another(upload.certificate, force=force)
        stale = stale_paths(remote.paths, upload.names, force=force)
        with explained(self.repo_id, "upload to"), patient_client():
            self.api.preupload_lfs_files(self.repo_id, upload.additions, revision=self.branch)
        upload.check_unchanged()
        with explained(self.repo_id, "upload to"), patient_client():
            return self.api.create_commit(
                self.repo_id,
                operations=[*upload.additions, *(CommitOperationDelete(path) for path in stale)],
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
        if not force and (strangers := strangers_in(remote.paths)):
            raise HfCmimError(
                f"Expected files of a model and documents in {self.repo_id}, got {listed(strangers)}: a loader may"
                " take it instead of what is certified, and hf-cmim verify would refuse the repository. Remove it,"
                " or remove it with --force (hub_overwrite=True in a trainer); its commits remain."
            )
        return remote

    def _remote(self) -> _Remote:
        with explained(self.repo_id, "read"), patient_client():
            info = self._newest()
            if info is None:
                return _Remote(None, {}, None, ())
            siblings = {each.rfilename: each for each in info.siblings or ()}
            weights = {
                name: each.lfs.sha256 if each.lfs is not None else str(each.blob_id)
                for name, each in siblings.items()
                if is_weights(name)
            }
            lineage = self._lineage(info.sha) if CERTIFICATE_NAME in siblings and weights else None
            return _Remote(info.sha, weights, lineage, tuple(siblings))

    def _newest(self) -> ModelInfo | None:
        """Return what stands on the branch; where there is none yet on the main one, from which it would begin."""
        for revision in dict.fromkeys((self.branch, None)):
            try:
                return self.api.model_info(self.repo_id, revision=revision, files_metadata=True, timeout=PATIENCE)
            except RevisionNotFoundError:
                continue
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                break
        return None

    def _lineage(self, commit: str | None) -> str | None:
        """Return the lineage in the repository's certificate; one that cannot be read is another model's."""
        path = self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit)
        try:
            values = read_json(Path(path), "a certificate")
        except HfCmimError:
            return None
        return str(values.get("lineage")) if isinstance(values, dict) else None

    # Download

    def fetch(self) -> Fetched:
        """Download a certificate and the files it names, nothing else, all of one commit.

        Nothing is downloaded that the certificate does not name, or that is larger on the Hub than certified.

        Raises:
            HfCmimError: no certificate there, one that cannot be read, no room on the disk, or an error of the Hub.
        """
        with explained(self.repo_id, "download from"), patient_client():
            info = self.api.model_info(self.repo_id, revision=self.branch, files_metadata=True, timeout=PATIENCE)
            commit = str(info.sha)
            sizes = {each.rfilename: each.size for each in info.siblings or ()}
            self._check_size(CERTIFICATE_NAME, sizes.get(CERTIFICATE_NAME))
            path = Path(self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit))
            certificate = Certificate.read(path.parent)
            faults = tuple(listing_faults(certificate, sizes))
            if not faults:
                check_room(path.parent, sum(record.size for record in certificate.files.values()))
                documents = {CARD_NAME, SIGNATURE_NAME, PAGE_NAME}.intersection(sizes)
                for name in sorted(documents):
                    self._check_size(name, sizes[name])
                for name in sorted({*certificate.files, *documents}):
                    self.api.hf_hub_download(self.repo_id, name, revision=commit)
        return Fetched(path.parent, commit, tuple(sorted(sizes)), faults)

    def _check_size(self, name: str, size: int | None) -> None:
        if size is not None and size > MOST_BYTES:
            raise HfCmimError(
                f"{name} in {self.repo_id} has {size:,} bytes, more than the {MOST_BYTES:,} that such a file may have:"
                " it was not downloaded. Ask its owner for the original."
            )

"""A repository on the Hub: upload of a certified model in one commit, download of the files in a certificate."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitInfo, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but listed for no checker

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.download import Fetched, check_room, listing_faults
from hf_cmim.hub.files import BOUND_TO_CERTIFICATE, CARD_NAME, EVAL_RESULTS_NAME, PAGE_NAME, is_weights, listed
from hf_cmim.hub.hub_errors import PATIENCE, explained, patient_client
from hf_cmim.hub.loading import check_loads_alone
from hf_cmim.hub.upload import check_is_certified, planned_upload, prepare, stale_paths, unknown_paths
from hf_cmim.plain_data import read_json
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import MOST_BYTES


@dataclass(frozen=True)
class _Remote:
    """Present state of a repository: newest commit, hashes of the weights by name, lineage, and all paths."""

    commit: str | None
    weights: dict[str, str]
    lineage: str | None
    paths: tuple[str, ...]


@final
class Repository:
    """A repository of models on the Hub.

    Args:
        repo_id: name of the repository as user/name.
        token: access token; None for that of the logged-in user.
        branch: branch to write to or read from; None for the main branch.
        api: client of the Hub; None for a new one.

    Raises:
        HfCmimError: an invalid name.
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

        Only the files that `planned_upload` names leave this machine. A missing repository is created.

        Args:
            folder: folder of a certified model.
            private: True to make a new repository private; None for the account's default.
            force: True to overwrite a different model.
            message: message of the commit.

        Returns:
            Description of the commit by the Hub's client.

        Raises:
            HfCmimError: a certificate that does not fit the files, files that cannot be loaded, another model in the
                repository, or an error of the Hub. Nothing is published then.
        """
        folder = Path(folder)
        # Everything that needs no Hub is checked before the first request.
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

        The same commit removes files of an earlier version that a loader might prefer. After the upload and before
        the commit, which makes the files visible, every file is compared with the certificate once more.

        Args:
            folder: folder of a certified model.
            force: True to overwrite a different model and to remove files of unknown kinds.
            message: message of the commit.

        Returns:
            Description of the commit by the Hub's client.

        Raises:
            HfCmimError: the same errors as in `push`.
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
                # The Hub refuses the commit (412) if somebody else committed since `check_not_another` looked.
                parent_commit=remote.commit,
            )

    def check_not_another(self, certificate: Certificate | None, *, force: bool) -> _Remote:
        """Raise an `HfCmimError` if the repository holds weights of another model, or files of an unknown kind.

        Args:
            certificate: certificate of the model to upload; None before there is one.
            force: True to allow both.

        Returns:
            Present state of the repository.
        """
        remote = self._remote()
        hashes = {} if certificate is None else {name: record.sha256 for name, record in certificate.files.items()}
        is_same = all(hashes.get(name) == sha256 for name, sha256 in remote.weights.items())
        is_earlier = certificate is not None and certificate.lineage == remote.lineage
        if not (force or is_same or is_earlier):
            raise HfCmimError(
                f"{self.repo_id} already holds another model ({', '.join(remote.weights)}): everyone who uses it would"
                " get yours from now on. Choose another name, or overwrite it with --force (hub_overwrite=True in a"
                " trainer); its earlier commits remain."
            )
        if not force and (unknown := unknown_paths(remote.paths)):
            raise HfCmimError(
                f"{self.repo_id} holds files of an unknown kind: {listed(unknown)}. A loader may use them instead of"
                " certified files, and hf-cmim verify would refuse the repository. Remove them, or let --force remove"
                " them (hub_overwrite=True in a trainer); its earlier commits remain."
            )
        return remote

    def _remote(self) -> _Remote:
        with explained(self.repo_id, "read"), patient_client():
            info = self._newest()
            if info is None:
                return _Remote(None, {}, None, ())
            files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
            # Only large files have a sha256 on the Hub. A small file's blob id is a hash of another kind, which never
            # equals ours: such weights count as another model unless the lineage says otherwise.
            weights = {
                name: file.lfs.sha256 if file.lfs is not None else str(file.blob_id)
                for name, file in files.items()
                if is_weights(name)
            }
            lineage = self._lineage(info.sha) if CERTIFICATE_NAME in files and weights else None
            return _Remote(info.sha, weights, lineage, tuple(files))

    def _newest(self) -> ModelInfo | None:
        """Return the branch's newest commit, or that of the main branch, from which a new branch would start."""
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
        """Return the lineage in the repository's certificate, or None if it cannot be read."""
        path = self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit)
        try:
            values = read_json(Path(path), "a certificate")
        except HfCmimError:
            return None
        return str(values.get("lineage")) if isinstance(values, dict) else None

    # Download

    def fetch(self) -> Fetched:
        """Download a certificate, the files that it names, and their documents, all from one commit.

        If the listing differs from the certificate in a name or a size, only the certificate is downloaded.

        Raises:
            HfCmimError: a missing or unreadable certificate, a full disk, or an error of the Hub.
        """
        with explained(self.repo_id, "download from"), patient_client():
            info = self.api.model_info(self.repo_id, revision=self.branch, files_metadata=True, timeout=PATIENCE)
            commit = str(info.sha)
            sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
            self._check_size(CERTIFICATE_NAME, sizes.get(CERTIFICATE_NAME))
            path = Path(self.api.hf_hub_download(self.repo_id, CERTIFICATE_NAME, revision=commit))
            certificate = Certificate.read(path.parent)
            faults = tuple(listing_faults(certificate, sizes))
            if not faults:
                check_room(path.parent, sum(record.size for record in certificate.files.values()))
                documents = {*BOUND_TO_CERTIFICATE, CARD_NAME, EVAL_RESULTS_NAME, PAGE_NAME}.intersection(sizes)
                for name in sorted(documents):
                    self._check_size(name, sizes[name])
                for name in sorted({*certificate.files, *documents}):
                    self.api.hf_hub_download(self.repo_id, name, revision=commit)
        return Fetched(path.parent, commit, tuple(sorted(sizes)), faults)

    def _check_size(self, name: str, size: int | None) -> None:
        if size is not None and size > MOST_BYTES:
            raise HfCmimError(
                f"{name} in {self.repo_id} has {size:,} bytes, more than the limit of {MOST_BYTES:,} for such a file:"
                " it was not downloaded. Ask the owner of the repository for the original."
            )

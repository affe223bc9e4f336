"""Base class of our trainers for published models: certificate, card, upload."""

import copy
import re
import shutil
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate, Evaluation, Training
from hf_cmim.hub.certify import certify
from hf_cmim.hub.files import BOUND_TO_CERTIFICATE, CARD_NAME, EVAL_RESULTS_NAME, LICENSE_NAME
from hf_cmim.hub.hub_errors import explained
from hf_cmim.hub.loading import check_loads_alone, loading_fault
from hf_cmim.hub.model_card import write_card
from hf_cmim.hub.processor_files import files_of_processor
from hf_cmim.hub.transfer import Repository
from hf_cmim.hub.uncertified_card import (
    UncertifiedModel,
    lineage_of,
    published_lineage,
    write_uncertified_card,
)
from hf_cmim.hub.upload import planned_upload
from hf_cmim.private_paths import public_path, public_text
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.trainers.shared.publication import (
    Publication,
    auto_model_name,
    is_adapter,
    model_files,
    publication_of,
    rehearsed_files,
)
from hf_cmim.trainers.shared.publishing_config import PublishingConfig

logger = logging.get_logger(__name__)

CHECKPOINT = re.compile(r"checkpoint-\d+")


class PublishingTrainer(Trainer):
    """Abstract `Trainer` that saves each model with a certificate, and pushes model, certificate and card.

    All other files in `output_dir` are never uploaded: training arguments, optimizer states, centroids, results. A
    `hub_token` in the settings is written to no file.
    """

    args: PublishingConfig
    # Trainer's own annotation allows only None.
    push_in_progress: Any
    # Files of a rehearsed push; set while Trainer's constructor runs.
    _rehearsed: frozenset[str] | None = None
    # Reason why the saved model gets no certificate; "" if it gets one, None before the first save.
    _obstacle: str | None = None

    @abstractmethod
    def training_record(self) -> Training:
        """Return the record of the training that made the weights."""

    def evaluation_record(self) -> Evaluation | None:
        """Return the last evaluation, if it measured the current weights."""
        return None

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as `Trainer` does, with a certificate unless the folder is a checkpoint.

        A model that cannot be certified is saved without one, with one warning.
        """
        folder = Path(str(output_dir if output_dir is not None else self.args.output_dir))
        super().save_model(str(folder), _internal_call=True)
        if self.args.should_save and not CHECKPOINT.fullmatch(folder.name):
            try:
                self._certify(folder, self.training_record())
            except HfCmimError as error:
                logger.warning(f"The model in {folder} was saved, but has no certificate: {error}")
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir if output_dir is not None else self.args.output_dir))
        with self.without_token(), _unchanged(folder / CARD_NAME if self.args.should_save else None):
            super()._save(output_dir, state_dict)

    @contextmanager
    def without_token(self) -> Iterator[None]:
        """Remove the Hub's token from the settings while they are written to a file."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            yield
        finally:
            self.args.hub_token = token

    def args_without_paths(self) -> PublishingConfig:
        """Return a copy of the settings with the paths of this machine shortened; resuming does not read it."""
        args = copy.copy(self.args)
        for field in fields(args):
            value = getattr(args, field.name)
            # Not isinstance: a strategy of the Hub is an Enum of texts.
            if type(value) is str:
                setattr(args, field.name, public_text(value))
        # A text may end a path at a space.
        args.output_dir = public_path(str(self.args.output_dir))
        return args

    @property
    def publication(self) -> Publication:
        """Way to publish this trainer's model."""
        return publication_of(self._saved_model())

    def _saved_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _saved_processor(self) -> Any:
        """Return the processor or tokenizer that `Trainer` saves beside the model, or None."""
        return self.processing_class or getattr(self.data_collator, "tokenizer", None)

    def _certify(self, folder: Path, training: Training) -> Certificate | None:
        """Write the certificate of a saved model, or return None if the model cannot have one."""
        processor_files = files_of_processor(self._saved_processor())
        if self._obstacle is None:
            self._obstacle = self.publication.reason or loading_fault(folder, model_files(folder, processor_files))
            if self._obstacle:
                logger.warning(f"The saved model gets no certificate. {self._obstacle}")
        if self._obstacle:
            # An older certificate in the folder belongs to other weights.
            for name in (CERTIFICATE_NAME, EVAL_RESULTS_NAME, *BOUND_TO_CERTIFICATE):
                (folder / name).unlink(missing_ok=True)
            return None
        return certify(folder, training=training, evaluation=self.evaluation_record(), processor_files=processor_files)

    # Publishing

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository before training, if there is none.

        First, model and processor are saved into an empty folder, to check that another user could load them.

        Args:
            token: token of the Hub; None for that of the settings, or of the login.
            private: visibility of a new repository; Trainer takes it from transformers 5.23 on.

        Raises:
            HfCmimError: a model that nobody could load, another model in the repository, no right to write, or no
                connection to the Hub.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        self._rehearsed = rehearsed_files(self._saved_model(), self._saved_processor(), self.publication)
        local_certificate = Certificate.read(folder) if (folder / CERTIFICATE_NAME).is_file() else None
        # Older versions of transformers do not take the argument at all.
        options = {} if private is None else {"private": private}
        with explained(self.args.hub_model_id or folder.name, "write to"):
            super().init_hf_repo(token=token, **options)
        repository = Repository(
            str(self.hub_model_id), token=token or self.args.hub_token, branch=self.args.hub_revision
        )
        # An uncertified model is recognised by the lineage in its card.
        lineage = lineage_of(folder / CARD_NAME)
        is_earlier = bool(lineage) and lineage == published_lineage(repository)
        repository.check_not_another(local_certificate, force=self.args.hub_overwrite or is_earlier)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        *ignored: Any,
        dataset: str | list[str] | None = None,
        **ignored_keywords: Any,
    ) -> None:
        """Certify the model in `output_dir` again and write its card; sections added by hand stay in the card.

        The card of a model that cannot be certified says so and why.

        Args:
            language: language code of the Hub.
            license: license identifier of the Hub.
            tags: further tags.
            model_name: user/name on the Hub; None for the repository of this trainer, or the folder's name.
            ignored: further arguments of `Trainer`; task and base model come from the certificate instead.
            dataset: Hub id of the training data; None for the data set's own name.
            ignored_keywords: further arguments of `Trainer`, by name.

        Raises:
            HfCmimError: no saved classifier in `output_dir`, or a card there that cannot be read.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        training = self.training_record()
        if dataset is not None:
            training = replace(training, dataset=public_path(dataset if isinstance(dataset, str) else dataset[0]))
        certificate = self._certify(folder, training)
        name = model_name or str(getattr(self, "hub_model_id", None) or "")
        metadata: Any = {"repo_id": name, "license": license, "language": language}
        metadata["tags"] = [tags] if isinstance(tags, str) else list(tags or ())
        if certificate is not None:
            write_card(folder, certificate, **metadata)
        else:
            model = self._uncertified(lineage_of(folder / CARD_NAME) or uuid.uuid4().hex, training)
            write_uncertified_card(folder, model, training, self.evaluation_record(), **metadata)

    def _uncertified(self, lineage: str, training: Training) -> UncertifiedModel:
        """Return the facts on the card of a model that cannot be certified."""
        model = self._saved_model()
        base = model.get_base_model() if is_adapter(model) else model
        return UncertifiedModel(
            reason=str(self._obstacle),
            library=self.publication.library,
            auto_model=auto_model_name(base),
            base_model=training.base_model,
            class_names=class_names_of(base) or (),
            lineage=lineage,
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **keywords: Any,
    ) -> Any:
        """Upload model, processor, certificate and card in one commit, as `Trainer.push_to_hub` does.

        Args:
            commit_message: message of the commit.
            blocking: True to return only after the upload.
            token: token of the Hub; None for that of the settings or of the login.
            revision: branch to write to.
            private: visibility of a new repository.
            keywords: keyword arguments of `create_model_card`.

        Returns:
            Commit, or a future of it.

        Raises:
            HfCmimError: another model in the repository, or an error of the Hub. Nothing is published then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if getattr(self, "hub_model_id", None) is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        # The commands on a card must name the repository.
        keywords.pop("model_name", None)
        self.create_model_card(**keywords)
        self._check_published(Path(str(self.args.output_dir)))
        self._finish_current_push()
        return self._upload(str(commit_message), token=token, revision=revision, blocking=blocking)

    def _published_files(self, folder: Path) -> list[str]:
        """Return the names of the files in a folder that are uploaded."""
        if not self._obstacle:
            return list(planned_upload(folder).files)
        names = {*(self._rehearsed or ()), CARD_NAME, LICENSE_NAME}
        return sorted(name for name in names if (folder / name).is_file())

    def _check_published(self, folder: Path) -> None:
        """Check that another user could load the files of the upload."""
        # The base model of an adapter is not among the files.
        kind = self.publication.kind
        if kind != "adapter":
            check_loads_alone(folder, self._published_files(folder), trust_remote_code=kind == "remote code")

    def _upload(self, message: str, *, token: str | None, revision: str | None, blocking: bool) -> Any:
        folder = Path(str(self.args.output_dir))
        api = HfApi(token=token or self.args.hub_token) if blocking else self._background_api
        if not self._obstacle:
            repository = Repository(str(self.hub_model_id), branch=revision or self.args.hub_revision, api=api)
            certified: Any = repository.commit if blocking else partial(api.run_as_future, repository.commit)
            return certified(folder, force=self.args.hub_overwrite, message=message)
        upload: Any = api.upload_folder
        with explained(str(self.hub_model_id), "upload to"):
            return upload(
                repo_id=str(self.hub_model_id),
                folder_path=folder,
                allow_patterns=self._published_files(folder),
                commit_message=message,
                revision=revision or self.args.hub_revision,
                run_as_future=not blocking,
            )

    @cached_property
    def _background_api(self) -> HfApi:
        """Client of all uploads during training: it runs one upload after the other."""
        return HfApi(token=self.args.hub_token)

    def _finish_current_push(self) -> None:
        """Wait for running uploads, and warn about those that failed."""
        # Trainer waits too, but never looks at the errors.
        super()._finish_current_push()
        if getattr(self, "push_in_progress", None) is None:
            return
        for job in self.push_in_progress.jobs:
            if error := job.exception():
                logger.warning(
                    f"An upload to {self.hub_model_id} failed while training went on: {error} Its files are still in"
                    " the output folder; push_to_hub() sends the model again."
                )
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the model of a checkpoint that was just written, unless an earlier upload is still running."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        is_running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_running and not self.args.hub_always_push:
            return
        earlier_jobs = self.push_in_progress.jobs if is_running else []
        if not is_running:
            self._finish_current_push()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder, checkpoint = Path(str(self.args.output_dir)), Path(checkpoint_folder)
        for name in {*model_files(checkpoint, self._rehearsed or ())} - {CARD_NAME}:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(checkpoint / name, folder / name)
        try:
            self.create_model_card()
        except HfCmimError as error:
            logger.warning(f"{checkpoint.name} was not pushed to {self.hub_model_id}, training goes on: {error}")
            return
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        jobs: Any = [self._upload(f"Training in progress, {when}", token=None, revision=None, blocking=False)]
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            is_last_only = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                self._background_api.upload_folder(
                    repo_id=str(self.hub_model_id),
                    folder_path=checkpoint_folder,
                    path_in_repo="last-checkpoint" if is_last_only else Path(checkpoint_folder).name,
                    commit_message=f"Training in progress, {when}, checkpoint",
                    revision=self.args.hub_revision,
                    run_as_future=True,
                )
            )
        self.push_in_progress = PushInProgress(cast(Any, [*earlier_jobs, *jobs]))


@contextmanager
def _unchanged(card: Path | None) -> Iterator[None]:
    """Restore a card, or its absence, after a save."""
    # At every save PEFT writes a card of placeholders, with the path of the base model.
    earlier = card.read_bytes() if card is not None and card.is_file() else None
    yield
    if card is not None and earlier is not None:
        card.write_bytes(earlier)
    elif card is not None:
        card.unlink(missing_ok=True)

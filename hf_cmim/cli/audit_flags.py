"""Flags of `hf-cmim audit`, and those that other commands share with it."""

import argparse
from dataclasses import dataclass

from hf_cmim.cli.flags import flag
from hf_cmim.cli.words import name_and_value


@dataclass(frozen=True)
class TeacherFlags:
    """Teachers of an audit."""

    teacher: str | None = flag("classifier to audit: a folder or Hub id, with its processor", metavar="PATH")
    twin: str | None = flag(
        "the same model trained with plain cross-entropy, the positive control: an audit that cannot distil it"
        " shows nothing",
        metavar="PATH",
    )
    control: list[tuple[str, str]] | None = flag(
        "another classifier to compare with (repeatable)", metavar="NAME=PATH", action="append", type=name_and_value
    )
    channel: list[str] | None = flag(
        "channel that changes the teacher's answers, with settings as JSON: rounded '{\"decimals\": 2}', top-k"
        " '{\"k\": 3}', argmax, sharpened, confidence-temperature, reverse-sigmoid, model-guard-w; fitted on"
        " the validation split: model-guard-s, linear-map '{\"weight\": 1.0}', class-answers; or PACKAGE.MODULE:CLASS."
        " Not for twin and controls",
        metavar="NAME",
        nargs="+",
    )
    defence: list[str] | None = flag(
        "channels to compare, each audited as one more teacher: the twin's weights (the teacher's without a twin)"
        " behind this channel, with the names and settings of --channel: argmax rounded:'{\"decimals\": 1}'",
        metavar="NAME[:JSON]",
        nargs="+",
        action="extend",
    )


@dataclass(frozen=True)
class StudentFlags:
    """One student."""

    student_config: str | None = flag(
        "transformers configuration (folder, Hub id or .json file) for students with random weights", metavar="PATH"
    )
    student: str | None = flag(
        "instead of --student-config: checkpoint from which every student starts, or PACKAGE.MODULE:FUNCTION that"
        " returns a new student",
        metavar="PATH",
    )


@dataclass(frozen=True)
class SeveralStudentsFlags:
    """Several students instead of one."""

    students: list[tuple[str, str]] | None = flag(
        "several students instead of one, each audited in OUTPUT_DIR/NAME, and a page that compares them:"
        " small=small.json same=TEACHER/config.json; a path that is no .json file is a --student",
        metavar="NAME=PATH",
        nargs="+",
        action="extend",
        type=name_and_value,
    )


@dataclass(frozen=True)
class SplitFlags:
    """A data set, its splits and columns."""

    dataset: str | None = flag(
        "Hub id or folder for datasets.load_dataset, or one parquet, csv, json or jsonl file", metavar="DATA"
    )
    dataset_config: str | None = flag("configuration of a data set that has several", metavar="NAME")
    train_split: str | None = flag("split to train on, or to ask about (train)", metavar="NAME")
    validation_split: str | None = flag("split on which settings are chosen", metavar="NAME")
    validation_share: float | None = flag(
        "instead of --validation-split: share of the train split to hold out, always the same rows (0.1)",
        metavar="SHARE",
        type=float,
    )
    test_split: str | None = flag("split to test on (test)", metavar="NAME")
    test_share: float | None = flag(
        "share of the remaining train rows to hold out for testing if the data have no test split",
        metavar="SHARE",
        type=float,
    )
    max_validation_samples: int | None = flag("largest number of samples to choose settings on", metavar="N", type=int)
    max_test_samples: int | None = flag("largest number of test samples", metavar="N", type=int)
    image_column: str | None = flag("column of images (the only one, or 'image')", metavar="NAME")
    text_column: str | None = flag("column of texts (the only one, or 'text')", metavar="NAME")
    audio_column: str | None = flag("column of sounds (the only one, or 'audio')", metavar="NAME")
    label_column: str | None = flag("column of labels (the only column of classes, or 'label')", metavar="NAME")


@dataclass(frozen=True)
class TransferFlags:
    """Rows of an audit's data."""

    max_transfer_samples: int | None = flag("largest number of samples to ask about", metavar="N", type=int)
    rest_as_test: bool | None = flag(
        "add the unused rows of the train split to the test set; no model may have been trained on them",
        action=argparse.BooleanOptionalAction,
    )


@dataclass(frozen=True)
class AttackerFlags:
    """Attackers by the samples that they have."""

    attacker: list[str] | None = flag(
        "attackers by the samples that they have, each with its own verdict. training: the train split, if the"
        " teacher was trained on it; own: the rows of --own-split; own-unlabelled: these without labels;"
        " out-of-domain: rows of another kind from --own-data, without labels; own:0.25: a quarter of them (the"
        " train split, of which nothing is known)",
        metavar="NAME[:SHARE]",
        nargs="+",
        action="extend",
    )
    own_data: str | None = flag(
        "data of an attacker with data of its own, with the columns of --dataset (--dataset)", metavar="DATA"
    )
    own_split: str | None = flag(
        "split of these data; no teacher was trained on it (train of --own-data)", metavar="NAME"
    )


@dataclass(frozen=True)
class PlanFlags:
    """The plan of an audit."""

    suite: str | None = flag("suite of attacks: standard-v2 or quick-v2 (standard-v2)", metavar="NAME")
    families: list[str] | None = flag("only these attacks of the suite and of --attack", metavar="NAME", nargs="+")
    attack: list[list[str]] | None = flag(
        "your own attack in addition to the suite: PACKAGE.MODULE:CLASS, then one JSON object for each setting to"
        " try (repeatable)",
        metavar="REFERENCE",
        nargs="+",
        action="append",
    )
    criterion: str | None = flag(
        "reference that a knockoff has to beat. teacher-free: every student trained without this teacher; paper:"
        " the student with label smoothing; no-leak: its own null; beyond-labels: every student trained without this"
        " teacher or only on its labels (teacher-free)",
        metavar="NAME",
    )
    margin_points: float | None = flag(
        "smallest gain that counts as distilling, in points of test accuracy (0.5)", metavar="POINTS", type=float
    )
    looks: list[int] | None = flag(
        "numbers of seeds per attack at which a verdict is tried (3 5 8 12 18 27 40); append more to continue an"
        " audit",
        metavar="N",
        nargs="+",
        type=int,
    )
    screening_seeds: int | None = flag("seeds of each setting in the screen (2)", metavar="N", type=int)
    final_seeds: int | None = flag(
        "further seeds of the strongest settings before one is chosen (4)", metavar="N", type=int
    )
    budget: str | None = flag(
        "time limit such as 1h, 2h30m or 45m: drops looks and attacks of a longer plan, and prints them",
        metavar="TIME",
    )
    null_families: int | None = flag(
        "families whose label-only nulls are tuned with every setting, strongest first (6)", metavar="N", type=int
    )
    diagnosed: int | None = flag(
        "number of attacks whose gain is accounted for, strongest first (3)", metavar="N", type=int
    )


@dataclass(frozen=True)
class ProcessFlags:
    """Processes of an audit."""

    processes: int | None = flag(
        "number of processes that share the students of the audit, each on one thread of the CPU; the report stays"
        " the same (1)",
        metavar="N",
        type=int,
    )


@dataclass(frozen=True)
class RunFlags(ProcessFlags):
    """Training and files of an audit."""

    training: list[tuple[str, str]] | None = flag(
        "settings of DistillationConfig for every student: learning_rate=1e-3 num_train_epochs=10 (in a file,"
        " training: {learning_rate: 1.0e-3})",
        name="--set",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
    )
    output_dir: str | None = flag("folder of students and report (outputs/audit)", metavar="DIR")
    quiet: bool | None = flag("show no progress bar and no lines of progress", action=argparse.BooleanOptionalAction)
    dry_run: bool | None = flag(
        "train two students for a few steps, print number of students, hours and reachable margin, and stop",
        action=argparse.BooleanOptionalAction,
    )


@dataclass(frozen=True)
class AuditFlags(
    TeacherFlags,
    StudentFlags,
    SeveralStudentsFlags,
    SplitFlags,
    TransferFlags,
    AttackerFlags,
    PlanFlags,
    RunFlags,
):
    """All flags of an audit, from the command line and a file."""


GROUPS = {
    "models": (TeacherFlags, StudentFlags, SeveralStudentsFlags),
    "data": (SplitFlags, TransferFlags, AttackerFlags),
    "plan": (PlanFlags,),
    "run": (RunFlags,),
}
"""Flags by their title in the help."""

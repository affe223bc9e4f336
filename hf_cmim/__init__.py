"""Harden classifiers against distillation, attack them, prove the result, publish it.

The public names. Each is imported when first used, so that `import hf_cmim` costs nothing: not even torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_cmim.attacks.base import Relative
    from hf_cmim.attacks.composition import Composition
    from hf_cmim.audit.audit import Audit
    from hf_cmim.audit.inputs import AuditData, AuditModels
    from hf_cmim.audit.plan import AuditPlan
    from hf_cmim.channels.class_answers import ClassAnswers
    from hf_cmim.cli.scripts import ObjectiveArguments, finish_training, run_script, script_arguments, train_and_save
    from hf_cmim.data.arguments import DataArguments
    from hf_cmim.errors import HfCmimError
    from hf_cmim.guarded_pipeline import guard, pipeline_answers
    from hf_cmim.hardening.bank import CentroidBank
    from hf_cmim.hardening.collapse import CollapseDetector
    from hf_cmim.hardening.loss import CMIMLoss
    from hf_cmim.hardening.spec import ObjectiveSpec
    from hf_cmim.measurement import Measurement, MeasurementAccumulator
    from hf_cmim.report import AuditReport
    from hf_cmim.trainers.defending.defense_config import DefenseConfig
    from hf_cmim.trainers.defending.defense_trainer import DefenseTrainer
    from hf_cmim.trainers.distillation.distillation_config import BlackBoxDistillationConfig, DistillationConfig
    from hf_cmim.trainers.distillation.distillation_trainer import BlackBoxDistillationTrainer, DistillationTrainer
    from hf_cmim.trainers.distillation.transfer_data import Fraction, KCenter, Repeatable, Unlabelled
    from hf_cmim.trainers.hardening.budget_report import Hardened
    from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer
    from hf_cmim.trainers.hardening.harden_within import harden_within
    from hf_cmim.trainers.shared.launch import check_launch

    __version__: str

__all__ = [
    "Audit",
    "AuditData",
    "AuditModels",
    "AuditPlan",
    "AuditReport",
    "BlackBoxDistillationConfig",
    "BlackBoxDistillationTrainer",
    "CMIMConfig",
    "CMIMLoss",
    "CMIMTrainer",
    "CentroidBank",
    "ClassAnswers",
    "CollapseDetector",
    "Composition",
    "DataArguments",
    "DefenseConfig",
    "DefenseTrainer",
    "DistillationConfig",
    "DistillationTrainer",
    "Fraction",
    "Hardened",
    "HfCmimError",
    "KCenter",
    "Measurement",
    "MeasurementAccumulator",
    "ObjectiveArguments",
    "ObjectiveSpec",
    "Relative",
    "Repeatable",
    "Unlabelled",
    "__version__",
    "check_launch",
    "finish_training",
    "guard",
    "harden_within",
    "pipeline_answers",
    "run_script",
    "script_arguments",
    "train_and_save",
]

_MODULES = {
    "Audit": "hf_cmim.audit.audit",
    "AuditData": "hf_cmim.audit.inputs",
    "AuditModels": "hf_cmim.audit.inputs",
    "AuditPlan": "hf_cmim.audit.plan",
    "AuditReport": "hf_cmim.report",
    "BlackBoxDistillationConfig": "hf_cmim.trainers.distillation.distillation_config",
    "BlackBoxDistillationTrainer": "hf_cmim.trainers.distillation.distillation_trainer",
    "CMIMConfig": "hf_cmim.trainers.hardening.cmim_config",
    "CMIMLoss": "hf_cmim.hardening.loss",
    "CMIMTrainer": "hf_cmim.trainers.hardening.cmim_trainer",
    "CentroidBank": "hf_cmim.hardening.bank",
    "ClassAnswers": "hf_cmim.channels.class_answers",
    "CollapseDetector": "hf_cmim.hardening.collapse",
    "Composition": "hf_cmim.attacks.composition",
    "DefenseConfig": "hf_cmim.trainers.defending.defense_config",
    "DefenseTrainer": "hf_cmim.trainers.defending.defense_trainer",
    "DistillationConfig": "hf_cmim.trainers.distillation.distillation_config",
    "DistillationTrainer": "hf_cmim.trainers.distillation.distillation_trainer",
    "Fraction": "hf_cmim.trainers.distillation.transfer_data",
    "Hardened": "hf_cmim.trainers.hardening.budget_report",
    "HfCmimError": "hf_cmim.errors",
    "KCenter": "hf_cmim.trainers.distillation.transfer_data",
    "Measurement": "hf_cmim.measurement",
    "MeasurementAccumulator": "hf_cmim.measurement",
    "ObjectiveSpec": "hf_cmim.hardening.spec",
    "Relative": "hf_cmim.attacks.base",
    "Repeatable": "hf_cmim.trainers.distillation.transfer_data",
    "Unlabelled": "hf_cmim.trainers.distillation.transfer_data",
    "check_launch": "hf_cmim.trainers.shared.launch",
    "harden_within": "hf_cmim.trainers.hardening.harden_within",
    "guard": "hf_cmim.guarded_pipeline",
    "pipeline_answers": "hf_cmim.guarded_pipeline",
    "DataArguments": "hf_cmim.data.arguments",
    "ObjectiveArguments": "hf_cmim.cli.scripts",
    "finish_training": "hf_cmim.cli.scripts",
    "run_script": "hf_cmim.cli.scripts",
    "script_arguments": "hf_cmim.cli.scripts",
    "train_and_save": "hf_cmim.cli.scripts",
}


def _load(name: str) -> object:
    """Import the public name and keep it, so that it is looked up once."""
    if name == "__version__":
        # The installed metadata, which setup.py wrote, is the only place that knows.
        value: object = import_module("importlib.metadata").version(__name__)
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker that saw it would accept any misspelt name
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""A small audit for `torchrun`, and for processes that are killed: writes FOLDER/audit.json and the world size.

torchrun --nproc_per_node 2 audit_job.py FOLDER '{}'
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))
import planted
import tiny

from hf_cmim import Composition, DistillationConfig, Relative
from hf_cmim.attacks.ctkd import CTKD
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.report import AuditReport

SUITE = Suite("two", (
    SuiteEntry("kd", Composition(KD(temperature=1.0))),
    SuiteEntry("kd", Composition(KD(temperature=Relative(0.5)))),
    SuiteEntry("ctkd", Composition(CTKD())),
))  # fmt: skip


def audit(folder: Path, looks: tuple[int, ...] = (2, 3), seed_of_data: int = 1) -> AuditReport:
    """A whole audit of a few seconds, self-distillation and diagnostic nulls included."""
    data = AuditData(planted.Samples(60, seed_of_data), planted.Samples(100, 3), planted.Samples(700, 2))
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=2, learning_rate=0.02, per_device_train_batch_size=20,
                        per_device_eval_batch_size=700, optim="adamw_torch")
    )  # fmt: skip
    plan = AuditPlan(suite=SUITE, screening_seeds=1, looks=looks, reference_multiple=1, null_families=1, diagnosed=1,
                     references=1, wave_size=4)  # fmt: skip
    teacher, twin = planted.PlantedTeacher(0.3), planted.PlantedTeacher(0.9)
    return Audit(AuditModels(teacher, lambda: planted.Student(8), twin), data, args, plan).run()


def without_circumstances(report: AuditReport) -> str:
    """What two runs of the same audit must agree on, to the last bit."""
    costs = replace(report.costs, seconds=0.0)
    return replace(report, date="", sittings=0, costs=costs, reproduction={}).to_json()


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    report = audit(folder, **settings)
    state = PartialState()
    if state.is_main_process:
        result = {"world_size": state.num_processes, "report": without_circumstances(report)}
        torch.save(result, folder / "result.pt")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main()

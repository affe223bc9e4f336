"""A distillation for `torchrun`: trains a student with the given attack and writes what came out.

torchrun --nproc_per_node 2 distillation_job.py FOLDER '{"attack": "Composition(KD(), CTKD())", "model": "vit", ...}'

With a list of attacks one student after the other is trained, and their weights are written.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from hf_cmim import Composition, attacks


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    build, data = getattr(tiny, settings.pop("model")), getattr(tiny, settings.pop("data"))(settings.pop("size"))
    asked = settings.pop("attack")
    students = {}
    for each in asked if isinstance(asked, list) else [asked]:
        attack = eval(each, vars(attacks) | {"Composition": Composition})
        trainer = tiny.distillation_trainer(build(1), data, folder, attack, build(5).eval(), **settings)
        trainer.train()
        students[each] = tiny.weights(trainer.model)
    metrics = trainer.evaluate(data)
    report = trainer.query_report()
    if trainer.is_world_process_zero():
        result = {
            "students": students,
            "weights": tiny.weights(trainer.model),
            "attack": dict(trainer.attack.state_dict()),
            "metrics": metrics,
            "queries": report["queries"],
            "correctness": trainer.correctness,
            "world_size": trainer.accelerator.num_processes,
        }
        torch.save(result, folder / "result.pt")
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can leave the other hanging at exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()

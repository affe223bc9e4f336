"""A training for `torchrun` in which the second process gets a batch without a valid label."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from hf_cmim.attacks import KD
from hf_cmim.teachers import ModelTeacher


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    kind, rows = settings.pop("kind"), torch.load(folder / "rows.pt")
    if kind == "hardening":
        trainer = tiny.cmim_trainer(tiny.token_bert(), rows, folder, **settings)
    else:
        trainer = tiny.distillation_trainer(
            tiny.token_bert(), rows, folder, KD(), ModelTeacher(tiny.token_bert(3).eval()), **settings
        )
    trainer.train()
    if trainer.is_world_process_zero():
        result = {"weights": tiny.weights(trainer.model), "steps": trainer.state.global_step}
        torch.save(result | {"world_size": trainer.accelerator.num_processes}, folder / "result.pt")
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can leave the other hanging at exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()

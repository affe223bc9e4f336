"""A training that a notebook would launch on several processes: `python notebook_job.py FOLDER KIND PORT`."""

import sys
from pathlib import Path

import torch
from accelerate import notebook_launcher

sys.path.insert(0, str(Path(__file__).parents[1]))


def train(folder: str, kind: str) -> None:
    import tiny  # a notebook imports where it trains: nothing may be initialised before the fork

    from hf_cmim.attacks import CrossEntropy

    changes = {"per_device_train_batch_size": 4}
    if kind == "hardening":
        trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(16), folder, **changes)
    else:
        trainer = tiny.distillation_trainer(tiny.vit(), tiny.images(16), folder, CrossEntropy(), **changes)
    trainer.train()
    if trainer.is_world_process_zero():
        result = {"weights": tiny.weights(trainer.model), "world_size": trainer.accelerator.num_processes}
        torch.save(result, Path(folder) / "result.pt")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    notebook_launcher(train, sys.argv[1:3], num_processes=2, use_port=sys.argv[3])

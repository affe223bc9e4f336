"""A training for `torchrun`: trains with the given settings and writes what came out to FOLDER/result.pt.

torchrun --nproc_per_node 2 distributed_job.py FOLDER '{"model": "vit", "data": "images", "size": 58, ...}'
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    build, data = getattr(tiny, settings.pop("model")), getattr(tiny, settings.pop("data"))(settings.pop("size"))
    resume = settings.pop("resume", None)
    trainer = tiny.cmim_trainer(build(), data, folder, **settings)
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate(data)
    if trainer.is_world_process_zero():
        result = {
            "weights": tiny.weights(trainer.model),
            "bank": trainer.bank.state_dict(),
            "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
            "metrics": metrics,
            "world_size": trainer.accelerator.num_processes,
        }
        torch.save(result, folder / "result.pt")
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can leave the other hanging at exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()

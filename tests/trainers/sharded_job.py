"""A training for `torchrun` whose weights FSDP2 shards; on CPU, where Accelerate itself would leave them whole."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from hf_cmim.attacks import KD
from hf_cmim.teachers import ModelTeacher

_initialise = AcceleratorState.__init__


def _initialise_sharded(self: AcceleratorState, *args: Any, **keywords: Any) -> None:
    """Do on CPU what Accelerate does on GPUs only, although torch can shard over gloo as well."""
    _initialise(self, *args, **keywords)
    if keywords.get("fsdp_plugin") is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, keywords["fsdp_plugin"]


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    kind = settings.pop("kind")
    if settings.get("fsdp"):
        AcceleratorState.__init__ = _initialise_sharded
    data, evaluation = tiny.images(32), tiny.images(20, seed=1)
    if kind == "hardening":
        trainer = tiny.cmim_trainer(tiny.vit(), data, folder, **settings)
    else:
        trainer = tiny.distillation_trainer(
            tiny.vit(), data, folder, KD(), ModelTeacher(tiny.vit(3).eval()), **settings
        )  # fmt: skip
    trainer.train()
    kinds = {type(value).__name__ for value in trainer.model.parameters()}
    weights = {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in trainer.model.state_dict().items()
    }
    metrics = trainer.evaluate(evaluation)  # its forward pass leaves some weights whole
    if trainer.is_world_process_zero():
        result = {"weights": weights, "metrics": metrics, "kinds": kinds}
        torch.save(result | {"world_size": trainer.accelerator.num_processes}, folder / "result.pt")
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can leave the other hanging at exit


if __name__ == "__main__":
    main()

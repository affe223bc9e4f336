"""A training in a process of its own, for tests that launch several of them or kill them.

    python run_job.py FOLDER '{"model": "vit", "data": "images", "size": 58, ...}'

Trains with the given settings, resuming if FOLDER holds a checkpoint, and writes weights, bank and logs to
FOLDER/result.pt. With "die_in_write": N the process kills itself in the middle of its N-th write of a training file.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import tiny
import torch
from transformers.trainer_utils import get_last_checkpoint


def die_in_write(number: int) -> None:
    """Leave half of the N-th file that is written through torch.save, save_file or json, then kill the process."""
    writes = 0

    def wrap(original, write_half):
        def save(content, path, *args, **kwargs):
            nonlocal writes
            writes += 1
            if writes < number:
                return original(content, path, *args, **kwargs)
            original(content, path, *args, **kwargs)
            write_half(Path(path))
            os.kill(os.getpid(), signal.SIGKILL)

        return save

    def halve(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    torch.save = wrap(torch.save, halve)
    import transformers.modeling_utils
    from transformers import TrainerState

    from hf_cmim.trainers import checkpoints, hardening_state

    transformers.modeling_utils.safe_save_file = wrap(transformers.modeling_utils.safe_save_file, halve)
    hardening_state.save_file = wrap(safetensors.torch.save_file, halve)
    TrainerState.save_to_json = wrap(TrainerState.save_to_json, halve)
    os.fsync = wrap(lambda file, path=None: None, lambda path: None) if False else os.fsync
    checkpoints.os.fsync = lambda descriptor: save_marker_fsync(descriptor)

    def save_marker_fsync(descriptor: int) -> None:
        """The marker is being written: its temporary file exists, its final name does not."""
        nonlocal writes
        writes += 1
        if writes >= number:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    if number := settings.pop("die_in_write", None):
        die_in_write(number)
    build = getattr(tiny, settings.pop("model", "vit"))
    data = getattr(tiny, settings.pop("data", "images"))(settings.pop("size", 60))
    trainer = tiny.cmim_trainer(build(**settings.pop("model_settings", {})), data, folder, **settings)
    resume = folder.is_dir() and get_last_checkpoint(str(folder)) is not None
    try:
        trainer.train(resume_from_checkpoint=resume or None)
    except ValueError as error:
        if "got none" not in str(error):
            raise
        trainer.train()  # the very first checkpoint was cut: start again
    if trainer.is_world_process_zero():
        buffer = io.BytesIO()
        torch.save(
            {
                "weights": tiny.weights(trainer.model),
                "bank": trainer.bank.state_dict(),
                "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
                "world_size": trainer.accelerator.num_processes,
                "measured": trainer.evaluate(data) if settings.get("per_device_eval_batch_size") else {},
            },
            buffer,
        )
        (folder / "result.pt").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()

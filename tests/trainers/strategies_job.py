"""Trainings that push by every strategy, in a process of its own: what came of them goes to FOLDER/seen.json."""

import json
import sys
from pathlib import Path

import tiny
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from peft import PeftModel
from trainers.adapters import image_adapter
from trainers.public_vit import PublicViT
from trainers.publishing_job import SETTINGS
from transformers import AutoModelForImageClassification

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig
from hf_cmim.attacks import KD
from hf_cmim.hub.verification import check_certificate
from hf_cmim.trainers.shared.checkpoints import find_fault

API = HfApi()
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
SAVES = {"save_strategy": "steps", "save_steps": 2, "hub_always_push": True, "hub_whole_checkpoints": True}


def names_of(repo_id):
    return sorted(set(API.list_repo_files(repo_id)) - {".gitattributes"})


def difference(first, second):
    pixels = torch.stack([row["pixel_values"] for row in tiny.images(8, 3)])
    with torch.no_grad():
        return float((first.eval()(pixels).logits - second.eval()(pixels).logits).abs().max())


def pushed(folder, kind, strategy):
    """Train, push, and load what is on the Hub as a stranger would."""
    repo_id = f"owner/{kind}-{strategy}"
    settings = {**SETTINGS, **SAVES, "push_to_hub": True, "hub_model_id": repo_id, "hub_strategy": strategy}
    args = CMIMConfig(str(folder / kind / strategy), **settings)
    model = tiny.vit() if kind == "model" else image_adapter()
    trainer = CMIMTrainer(model, args, train_dataset=tiny.images(32))
    trainer.train()
    before_the_end = names_of(repo_id)
    trainer.push_to_hub()
    copy = Path(snapshot_download(repo_id))
    checkpoints = sorted({name.split("/")[0] for name in names_of(repo_id) if "/" in name})
    if kind == "model":
        loaded = AutoModelForImageClassification.from_pretrained(copy)
        holds = all(each.holds for each in check_certificate(copy))
    else:
        loaded = PeftModel.from_pretrained(tiny.vit(), copy)
        holds = not (copy / "cmim_certificate.json").exists()
    return {
        "before the end": [name for name in before_the_end if "/" not in name],
        "files": [name for name in names_of(repo_id) if "/" not in name],
        "checkpoints": checkpoints,
        "faults": [find_fault(copy / name) for name in checkpoints],
        "difference": difference(loaded, trainer.model),
        "holds": holds,
        "card": ModelCard(str((copy / "README.md").read_text(encoding="utf-8"))).data.to_dict(),
    }


def resumed(folder):
    """Go on with an adapter that was pushed; begin another one under its name."""
    settings = {**SETTINGS, **SAVES, "push_to_hub": True, "hub_model_id": "owner/adapter-every_save"}
    args = CMIMConfig(str(folder / "adapter" / "every_save"), **settings | {"max_steps": 6}, hub_strategy="every_save")
    before = API.model_info("owner/adapter-every_save").sha
    trainer = CMIMTrainer(image_adapter(), args, train_dataset=tiny.images(32))
    trainer.train(resume_from_checkpoint=True)
    trainer.push_to_hub()
    seen = {"resumed": API.model_info("owner/adapter-every_save").sha != before}
    try:
        CMIMTrainer(image_adapter(), CMIMConfig(str(folder / "other"), **settings), train_dataset=tiny.images(8))
    except ValueError as error:
        seen["another"] = str(error)
    return seen


def with_code(folder):
    """Publish a model whose class comes with it, and an adapter that is a student."""
    PublicViT.register_for_auto_class("AutoModelForImageClassification")
    settings = {**SETTINGS, "push_to_hub": True}
    args = CMIMConfig(str(folder / "code"), **settings, hub_model_id="owner/code")
    trainer = CMIMTrainer(PublicViT(tiny.vit().config), args, train_dataset=tiny.images(32))
    trainer.train()
    trainer.push_to_hub()
    loaded = AutoModelForImageClassification.from_pretrained("owner/code", trust_remote_code=True)
    student = tiny.DistillationTrainer(
        image_adapter(), DistillationConfig(str(folder / "student"), **settings, hub_model_id="owner/student"),
        train_dataset=tiny.images(32), teacher=tiny.vit(1).eval(), attack=KD(),
    )  # fmt: skip
    student.train()
    student.push_to_hub()
    return {
        "code": names_of("owner/code"),
        "code difference": difference(loaded, trainer.model),
        "code card": ModelCard.load("owner/code").text,
        "student": names_of("owner/student"),
    }


def main(folder):
    pairs = [(kind, strategy) for kind in ("model", "adapter") for strategy in STRATEGIES]
    seen = {f"{kind} {strategy}": pushed(folder, kind, strategy) for kind, strategy in pairs}
    seen |= resumed(folder) | with_code(folder)
    (folder / "seen.json").write_text(json.dumps(seen, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

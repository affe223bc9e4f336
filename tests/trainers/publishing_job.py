"""Trainings that push, in a process of its own: what came of them goes to FOLDER/seen.json."""

import json
import sys
from pathlib import Path

import tiny
from huggingface_hub import HfApi, ModelCard, snapshot_download

from hf_cmim import CMIMConfig, CMIMTrainer
from hf_cmim.hub.verification import check_certificate
from hf_cmim.trainers.shared.checkpoints import find_fault

SETTINGS = {
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
API = HfApi()


def trainer_in(folder, **settings):
    """A trainer of four steps, in this process and in the tests'."""
    args = CMIMConfig(str(folder), **{**SETTINGS, **settings})
    return CMIMTrainer(tiny.vit(), args, train_dataset=tiny.images(32), eval_dataset=tiny.images(24))


def train(folder, name, **settings):
    trainer = trainer_in(folder, push_to_hub=True, hub_model_id=f"owner/{name}", **settings)
    trainer.train(resume_from_checkpoint=settings.get("resume_from_checkpoint"))
    return trainer


def names_of(name):
    return sorted(set(API.list_repo_files(f"owner/{name}")) - {".gitattributes"})


def main(folder):
    seen = {}
    trainer = train(folder / "pushed", "pushed", save_strategy="no")
    trainer.evaluate()
    trainer.push_to_hub(license="mit", tags="mine")
    card = ModelCard.load("owner/pushed")
    seen |= {"pushed": names_of("pushed"), "card": card.data.to_dict(), "text": card.text}

    every = {"save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "hub_strategy": "every_save"}
    train(folder / "every", "every", **every, hub_always_push=True)
    seen["every_save"] = names_of("every")
    seen["messages"] = len(API.list_repo_commits("owner/every"))
    seen["holds"] = all(each.holds for each in check_certificate(snapshot_download("owner/every")))
    train(folder / "every", "every", **every, max_steps=8, resume_from_checkpoint=True)
    seen["resumed"] = len(API.list_repo_commits("owner/every")) > seen["messages"]

    whole = {"hub_strategy": "checkpoint", "hub_whole_checkpoints": True, "save_steps": 4, "hub_token": "hf_owner"}
    train(folder / "whole", "whole", **whole)
    seen["whole"] = names_of("whole")
    seen["fault"] = find_fault(Path(snapshot_download("owner/whole")) / "last-checkpoint")
    files = [path for path in Path(snapshot_download("owner/whole")).rglob("*") if path.is_file()]
    seen["token_published"] = any(b"hf_owner" in path.read_bytes() for path in files)

    try:
        train(folder / "other", "pushed")
    except ValueError as error:
        seen["refused"] = str(error)
    before = API.model_info("owner/pushed").sha
    train(folder / "other", "pushed", hub_overwrite=True).push_to_hub()
    seen["overwritten"] = API.model_info("owner/pushed").sha != before
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

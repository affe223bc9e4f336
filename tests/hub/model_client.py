"""What users of transformers do with a Hub, in a process of its own: writes what came out to FOLDER/seen.json."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfFileSystem, ModelCard, constants, create_repo, get_session
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

CARD = """---
license: {license}
pipeline_tag: image-classification
---
# A card
"""


def tiny_vit(seed: int) -> ViTForImageClassification:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**shape, image_size=8, patch_size=4, num_labels=3))


def same_weights(model: torch.nn.Module, repo_id: str, **where: str) -> bool:
    loaded = AutoModelForImageClassification.from_pretrained(repo_id, **where).state_dict()
    return all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def ask_the_endpoint(request: Any) -> None:
    """Before 2.2 huggingface_hub validates cards at huggingface.co, whatever the endpoint is."""
    if request.url.host == "huggingface.co":
        request.url = type(request.url)(constants.ENDPOINT).join(request.url.raw_path.decode())
        request.headers["host"] = request.url.netloc.decode()


def cards() -> dict[str, object]:
    create_repo("owner/carded_by_client")
    ModelCard(CARD.format(license="mit")).push_to_hub("owner/carded_by_client")
    try:
        ModelCard(CARD.format(license="nonsense")).push_to_hub("owner/carded_by_client")
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    card = ModelCard.load("owner/carded_by_client")
    return {"license": card.data.license, "text": card.text.strip(), "refusal": refusal}


def models() -> dict[str, object]:
    first, second = tiny_vit(0), tiny_vit(1)
    first.push_to_hub("owner/vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).push_to_hub("owner/vit")
    second.push_to_hub("owner/vit", revision="other")
    answers = pipeline("image-classification", "owner/vit")(Image.new("RGB", (8, 8), "red"))
    return {
        "main": same_weights(first, "owner/vit"),
        "branch": same_weights(second, "owner/vit", revision="other"),
        "labels": sorted(answer["label"] for answer in answers),
        "listed": sorted(HfFileSystem().ls("owner/vit", detail=False)),
    }


def training(folder: Path) -> dict[str, object]:
    data = [{"pixel_values": torch.randn(3, 8, 8), "labels": index % 3} for index in range(8)]
    arguments = TrainingArguments(
        str(folder / "trained"), push_to_hub=True, hub_model_id="owner/trained", hub_strategy="checkpoint",
        max_steps=2, save_steps=2, report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(tiny_vit(2), arguments, train_dataset=data)
    trainer.train()
    trainer.push_to_hub()
    return {"trained": same_weights(trainer.model, "owner/trained")}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    hooks = get_session().event_hooks
    get_session().event_hooks = {**hooks, "request": [*hooks["request"], ask_the_endpoint]}
    seen = {"cards": cards(), "models": models(), "training": training(target)}
    (target / "seen.json").write_text(json.dumps(seen))

"""Draw docs/images/clusters.png: the answers of both models of `make demo` to test images, softened at T = 4.

make demo
python evidence/demo_pictures.py
"""

from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_cmim.plots import plot_clusters

ROOT = Path(__file__).parents[1]
MODELS = {"cross-entropy": "twin", "hardened": "share-32"}
IMAGES = 4_000


def main() -> None:
    """Ask both models, and draw."""
    rows = load_dataset(str(ROOT / "recipes/data"), split="test").select(range(IMAGES))
    logits = {}
    for name, folder in MODELS.items():
        path = ROOT / "outputs/demo" / folder
        processor = AutoImageProcessor.from_pretrained(path)
        model = AutoModelForImageClassification.from_pretrained(path).eval()
        with torch.no_grad():
            batches = [
                model(**processor([image.convert("RGB") for image in batch["image"]], return_tensors="pt")).logits
                for batch in rows.iter(batch_size=1_000)
            ]
        logits[name] = torch.cat(batches)
    labels = torch.tensor(rows["label"])
    figure = plot_clusters(logits, labels, temperatures=(4.0,), class_names=model.config.id2label)
    figure.set_size_inches(7, 2.9)  # one row of triangles
    figure.savefig(ROOT / "docs/images/clusters.png", dpi=160, bbox_inches="tight")


if __name__ == "__main__":
    main()

"""Measure how concentrated the outputs are where it matters: among classes that are hard to tell apart.

    python evidence/confusable_classes.py --data_dir ../shared/data/fashion_mnist --teachers outputs/leaks/teachers \
        --arms ce cmim 'cmim:{"cmi_form":"plain"}'

The within-class share of the logits' variance ("within/total") falls when samples of a class become alike, and also
when classes that nobody confuses are pushed further apart, which hides nothing. So it is given over all ten classes of
Fashion-MNIST and over five garments alone (T-shirt, pullover, dress, coat, shirt: their samples, their logits), with
the root mean square of all centred logits, and for the garments the mean margin of the right one over the next and the
mean standard deviation of a logit within a class. All of it on the 20,000 images that the teachers were trained on.
Teachers are those of evidence/audit_teachers.py fashion_mnist; missing ones are trained.
"""

import argparse
from pathlib import Path

import torch
import transformers
from audit_teachers import teacher
from hardening import fashion_mnist_samples
from torch import Tensor

from hf_cmim.functional import within_total_ratio

GARMENTS = torch.tensor([0, 2, 3, 4, 6])
TRAINING = slice(0, 20_000)


def row(logits: Tensor, labels: Tensor) -> list[float]:
    """Return accuracy in %, RMS, within/total of all; of the garments within/total, margin and spread in a class."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    chosen = torch.isin(labels, GARMENTS)
    garments, own = centred[chosen][:, GARMENTS], torch.searchsorted(GARMENTS, labels[chosen])
    right = garments.gather(1, own.unsqueeze(1))
    others = garments.scatter(1, own.unsqueeze(1), -torch.inf)
    spreads = torch.stack([garments[own == number].std(dim=0).mean() for number in range(len(GARMENTS))])
    return [
        100 * (logits.argmax(dim=1) == labels).double().mean().item(),
        centred.square().mean().sqrt().item(),
        within_total_ratio(logits, labels).item(),
        within_total_ratio(garments, own).item(),
        (right.squeeze(1) - others.amax(dim=1)).mean().item(),
        spreads.mean().item(),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--teachers", type=Path, default=Path("outputs/audit_fashion_mnist_1/teachers"))
    parser.add_argument("--arms", nargs="+", default=["ce", "cmim"], help="of evidence/hardening.py")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    samples = fashion_mnist_samples(options.data_dir)[0][TRAINING]
    images = torch.stack([torch.as_tensor(sample["pixel_values"]) for sample in samples])
    labels = torch.tensor([sample["labels"] for sample in samples])
    print("| teacher | accuracy, % | RMS | within/total | garments: within/total | margin | within a class |")
    print("|---" * 7 + "|")
    for arm in options.arms:
        model = teacher("fashion_mnist", arm, options.data_dir, options.teachers, options.seed)
        with torch.no_grad():
            logits = torch.cat([model(part)["logits"] for part in images.split(2_000)])
        print(f"| {arm} |", " | ".join(f"{number:.3g}" for number in row(logits, labels)), "|", flush=True)


if __name__ == "__main__":
    main()

"""Measure how much of a channel's change an attacker who knows the channel takes back.

    python evidence/recovery.py

Clean answers are drawn, 200 at a time, of 5 classes, of another kind than those that recovery learns from. The figure
is the mean KL(clean || answer) in nats: behind the channel, after `PartialBayes` (20,000 rows) and after
`Restoration` (1,000 steps). Means and extremes of the draws.
"""

import argparse

import torch
from torch import Tensor

from hf_cmim.attacks import PartialBayes, Restoration
from hf_cmim.channels import (
    AbstractChannel,
    ConfidenceTemperature,
    LinearMap,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounded,
    Sharpened,
)
from hf_cmim.functional import kl_divergence

CLASSES, ANSWERS = 5, 200


def answers(seed: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of 200 samples, most of them right, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (ANSWERS,), generator=generator)
    logits = 1.5 * torch.randn(ANSWERS, CLASSES, generator=generator)
    return (logits + 3 * torch.eye(CLASSES)[labels]).log_softmax(dim=-1), labels


def channels() -> dict[str, AbstractChannel]:
    """Return the channels that can be undone in part, by name, fitted to other answers where they are fitted."""
    held_out = answers(1000)
    return {
        "Sharpened(2.0)": Sharpened(2.0),
        "ConfidenceTemperature(3.0)": ConfidenceTemperature(3.0),
        "ReverseSigmoid(beta=0.3)": ReverseSigmoid(beta=0.3),
        "LinearMap.fit(weight=1.0)": LinearMap.fit(*held_out, weight=1.0),
        "Rounded(1)": Rounded(1),
        "ModelGuardW()": ModelGuardW(),
        "ModelGuardS.fit()": ModelGuardS.fit(held_out[0]),
    }


def distances(channel: AbstractChannel, seed: int) -> list[float]:
    """Return the mean divergences from the clean answers: behind the channel and after each recovery."""
    clean, labels = answers(seed)
    seen = channel(clean)
    recovered = [seen]
    for transform in (
        PartialBayes(perturbation=channel, samples=20_000, seed=seed),
        Restoration(perturbation=channel, seed=seed),
    ):
        transform.prepare(CLASSES)
        recovered.append(transform(seen, labels))
    return [kl_divergence(clean, answer).mean().item() for answer in recovered]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3, help="number of draws of answers (3)")
    draws = range(parser.parse_args().draws)
    print(f"{len(draws)} draws of {ANSWERS} answers of {CLASSES} classes")
    print("| channel | behind it | after PartialBayes | after Restoration |\n|---|---|---|---|")
    for name, channel in channels().items():
        columns = zip(*(distances(channel, seed) for seed in draws), strict=True)
        cells = [f"{sum(each) / len(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in columns]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

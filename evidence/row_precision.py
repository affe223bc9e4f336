"""Measure what centroid rows of half precision would do to the objective: why the bank keeps fp32.

    python evidence/row_precision.py

Outputs are drawn, classes of 20 samples around means that differ by 8 at the label, the closer together the better
hardened. Errors are against float64: of the CMI at the coldest and the hottest temperature, relative, and of the
gradient of the whole objective, the norm of the error over that of the gradient. Medians of the draws.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from hf_cmim.functional import class_centroids, kl_divergence, tempered_log_probs
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES

SAMPLES = 20
FLOOR = 1e-8
SPREADS = (0.1, 0.3, 1.0)
FORMS = {
    "fp32 logarithms": lambda probs: probs.log().float(),
    "fp16 logarithms": lambda probs: probs.log().half(),
    "bf16 logarithms": lambda probs: probs.log().bfloat16(),
    "bf16 probabilities": lambda probs: probs.bfloat16().double().log(),
}


def outputs(classes: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits whose standard deviation within a class is `spread`, and labels."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.3 * torch.randn(classes, classes, generator=generator, dtype=torch.float64)
    means.diagonal().add_(8)
    labels = torch.arange(classes).repeat_interleave(SAMPLES)
    noise = torch.randn(len(labels), classes, generator=generator, dtype=torch.float64)
    return means[labels] + spread * noise, labels


def objective(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the CMI at each temperature and the gradient of the default objective, in float64."""
    logits = logits.clone().requires_grad_()
    cmi = kl_divergence(tempered_log_probs(logits, DEFAULT_TEMPERATURES), rows.double()).mean(dim=1)
    factors = torch.tensor([max(1.0, t * t) for t in DEFAULT_TEMPERATURES], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((factors * cmi).mean(), logits)
    return cmi.detach(), gradient


def errors(classes: int, spread: float, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return the errors of each form, by name."""
    logits, labels = outputs(classes, spread, seed)
    probs = class_centroids(logits, labels, DEFAULT_TEMPERATURES).clamp_min(FLOOR)
    exact, exact_gradient = objective(logits, probs.log()[:, labels])
    found = {}
    for name, form in FORMS.items():
        cmi, gradient = objective(logits, form(probs)[:, labels])
        relative = ((cmi - exact) / exact).abs()
        error = (gradient - exact_gradient).norm() / exact_gradient.norm()
        found[name] = (relative[0].item(), relative[-1].item(), error.item())
    return found


def main() -> None:
    """Print a row for each spread and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    coldest, hottest = min(DEFAULT_TEMPERATURES), max(DEFAULT_TEMPERATURES)
    print(f"| spread in a class | rows | error of CMI at T = {coldest:g} | at T = {hottest:g} | of the gradient |")
    print("|---|---|---|---|---|")
    for spread in SPREADS:
        draws = [errors(options.classes, spread, seed) for seed in range(options.seeds)]
        for name in FORMS:
            cold, hot, gradient = np.median([draw[name] for draw in draws], axis=0)
            print(f"| {spread} | {name} | {cold:.1e} | {hot:.1e} | {gradient:.1e} |")
    made = f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    print(f"\n{options.classes} classes, n = {options.seeds} draws; {made}")


if __name__ == "__main__":
    main()

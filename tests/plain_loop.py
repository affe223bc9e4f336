"""A small classifier in a plain PyTorch loop, as the README has it."""

import torch

from hf_cmim import CentroidBank, CMIMLoss
from hf_cmim.trainers.hardening.ramp import ramped_weight


def trained_classifier(weight, logit_scale=0.0, *, forgets_pull=False, temperature_weighting="squared"):
    """Train on overlapping clusters; return the logits of all samples, and their labels."""
    torch.manual_seed(0)
    labels = torch.arange(240) % 4
    inputs = torch.randn(4, 10)[labels] + torch.randn(240, 10)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loss = CMIMLoss(temperature_weighting=temperature_weighting)
    bank = CentroidBank(4, loss.temperatures, 100, logit_scale=logit_scale, follows_label=loss.is_relative)
    for step in range(300):
        batch = torch.randperm(240)[:32]
        logits = model(inputs[batch])
        ramped = ramped_weight(weight, step / 300, warmup=0.2, ramp=0.3)
        known = {"previous_terms": bank.terms, "scaling": bank.scaling, "information": bank.label_information}
        components = loss(logits, labels[batch], bank.log_centroids, ramped, **known)
        optimizer.zero_grad()
        (components["ce"] + components["cmi"]).backward()
        optimizer.step()
        if forgets_pull:
            components["scale_sums"] = components["scale_sums"] * torch.tensor([0.0, 1.0, 1.0])
        bank.accumulate(logits, labels[batch], components)
        bank.step()
    return model(inputs).detach(), labels

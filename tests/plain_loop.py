"""A small classifier in a plain PyTorch loop, as the documentation has it."""

import torch

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.hardening.loss import ramped_weight


def trained_classifier(weight, form="plain", *, forgets_pull=False):
    """Train on overlapping clusters; return the logits of all samples, and their labels."""
    torch.manual_seed(0)
    labels = torch.arange(240) % 4
    inputs = torch.randn(4, 10)[labels] + torch.randn(240, 10)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    spec = ObjectiveSpec(form, window=100.0)
    loss, bank = CMIMLoss(spec), CentroidBank(4, spec)
    for step in range(300):
        batch = torch.randperm(240)[:32]
        logits = model(inputs[batch])
        ramped = ramped_weight(weight, step / 300, warmup=0.2, ramp=0.3)
        parts = loss(logits, labels[batch], bank.snapshot(), ramped)
        optimizer.zero_grad()
        (parts.ce + parts.cmi).backward()
        optimizer.step()
        if forgets_pull:
            parts = parts._replace(sums=parts.sums * torch.tensor([0.0, 1.0, 1.0]))
        bank.accumulate(logits, labels[batch], parts)
        bank.step()
    return model(inputs).detach(), labels

"""A model that ends in a softmax is noticed at its first batch, in both trainers and in an audit."""

import pytest
import tiny
import torch

from hf_cmim import Composition, DistillationConfig
from hf_cmim.attacks import KD, CrossEntropy
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.trainers.shared.validation import check_are_logits

MESSAGE = "returns probabilities, not logits: all 8 rows .* above 0.48.*Return the inputs of the model.s last softmax"


def answering_with(activation) -> torch.nn.Module:
    """A classifier whose forward ends in an activation."""
    model = tiny.vit()
    model.register_forward_hook(lambda _, __, outputs: outputs | {"logits": activation(outputs["logits"])})
    return model


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(dim=-1)


def test_hardening(tmp_path):
    """Catches a softmax of a softmax, with which no class can be likely."""
    trainer = tiny.cmim_trainer(answering_with(softmax), tiny.images(16), tmp_path)
    with pytest.raises(ValueError, match=MESSAGE):
        trainer.train()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision(precision):
    """Catches a tolerance below the rounding of a row's sum."""
    probs = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)).softmax(-1).to(precision)
    with pytest.raises(ValueError, match="all 64 rows"):
        check_are_logits(probs)


def test_distillation(tmp_path):
    """Catches a student that cannot follow its teacher."""
    trainer = tiny.distillation_trainer(answering_with(softmax), tiny.images(16), tmp_path, KD(), tiny.vit(3).eval())
    with pytest.raises(ValueError, match=MESSAGE):
        trainer.train()


def test_audit(tmp_path):
    """Catches an audit whose students are weak for a reason of their own."""
    pool = StudentPool(lambda: answering_with(softmax), DistillationConfig(**tiny.settings(tmp_path)), tiny.images(16))
    with pytest.raises(ValueError, match=MESSAGE):
        pool.run([PooledArm("ce", Composition(CrossEntropy()), None)], 0, tiny.images(8))


@pytest.mark.parametrize("outputs", [
    torch.tensor([[0.2, 0.8]]),  # one row sums to 1 by chance
    torch.tensor([[0.2, 0.8], [0.4, 0.7]]),
    torch.tensor([[0.2, 0.8], [-0.4, 1.4]]),
    torch.tensor([[0.2, 0.8], [0.4, 0.6]]).log(),
    torch.zeros(4, 3),
    torch.tensor([[-torch.inf, 1.0], [0.5, 0.5]]),
], ids=str)  # fmt: skip
def test_logits_pass(outputs):
    """Catches a guard against good models: log-probabilities are logits."""
    check_are_logits(outputs)

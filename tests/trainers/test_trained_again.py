"""A second `train()` of one trainer: the attack starts anew, the account of queries goes on."""

import pytest
import tiny

from hf_cmim import Composition, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import CTKD, DOT, KD, MLKD, SP, MarkovKD
from hf_cmim.teachers import ModelTeacher, TableTeacher


def trainer_of(attack, folder, teacher=None, **changes):
    return DistillationTrainer(
        None, DistillationConfig(**tiny.settings(folder, **changes)), train_dataset=tiny.images(32), attack=attack,
        teacher=teacher or tiny.vit(3).eval(), model_init=lambda: tiny.vit(1),
    )  # fmt: skip


@pytest.mark.parametrize("attack", [
    KD(), CTKD(curriculum=0.1), Composition(KD(), MarkovKD()), DOT(), MLKD(), SP(),
], ids=repr)  # fmt: skip
def test_the_second_training_equals_the_first(attack, tmp_path):
    """Catches an attack that goes on from the end of the last training, or whose parameters nobody trains."""
    trainer = trainer_of(attack, tmp_path, num_train_epochs=2, optim="adamw_torch", learning_rate=1e-2)
    ends = []
    for _ in range(2):
        trainer.train()
        attack_parameters = {name: value.detach().clone() for name, value in trainer.attack.named_parameters()}
        ends.append(tiny.weights(trainer.model) | attack_parameters)
    assert tiny.largest_difference(*ends) == 0


def test_its_parameters_are_trained_where_the_student_goes_on(tmp_path):
    """Catches an optimizer that keeps the parameters of the attack before."""
    trainer = tiny.distillation_trainer(
        tiny.vit(1), tiny.images(32), tmp_path, CTKD(curriculum=0.1), tiny.vit(3).eval(), optim="adamw_torch"
    )
    fresh = [value.detach().clone() for value in trainer.attack.parameters()]
    trainer.train()
    trainer.train()
    assert any(not tiny.torch.equal(*pair) for pair in zip(fresh, trainer.attack.parameters(), strict=True))


def test_each_training_of_a_live_teacher_is_paid(tmp_path):
    """Catches a budget that begins anew with each training, and a training that ends in its middle."""
    trainer = trainer_of(KD(), tmp_path, ModelTeacher(tiny.vit(3).eval()), query_budget=64)
    trainer.train()
    trainer.train()
    assert trainer.queries.ledger.num_paid == 64
    with pytest.raises(ValueError, match="Expected a budget that covers 32 queries.*got 0"):
        trainer.train()


def test_stored_answers_are_paid_once(tmp_path):
    """Catches a second training refused although every answer is there."""
    answers = tiny.torch.randn(32, tiny.NUM_LABELS).log_softmax(-1)
    names = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))
    trainer = trainer_of(KD(), tmp_path, TableTeacher(answers, class_names=names), query_budget=32)
    trainer.train()
    trainer.train()
    assert trainer.queries.ledger.num_paid == 32

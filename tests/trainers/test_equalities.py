"""The same training, however it is cut into batches; and plain Trainer, where the weight is 0."""

from typing import Any

import pytest
import tiny
import torch
from transformers import Trainer, TrainingArguments

# Its name until transformers 5.20.
CHECKPOINTING = (
    "activation_checkpointing"
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    else "gradient_checkpointing"
)
TASKS = {
    "image": (tiny.vit, tiny.images),
    "text": (tiny.bert, tiny.sentences),
    "tokens": (tiny.token_bert, tiny.tagged_sentences),
    "no-loss-arguments": (tiny.convnext, tiny.images),
}


def _logs(trainer: Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class TestWeightZeroIsPlainTrainer:
    """At weight 0 nothing of the hardening may reach the weights, through the code that runs at any weight."""

    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
    def test_bit_for_bit(self, task: str, optimizer: str, tmp_path):
        """Catches a loss that is scaled or summed otherwise than Trainer's, by as little as a rounding."""
        build, data = TASKS[task]
        changes = {"optim": optimizer, "max_grad_norm": 1.0, "num_train_epochs": 2, "weight_decay": 0.01}
        if optimizer == "adamw_torch":
            changes["learning_rate"] = 1e-3
        plain = tiny.plain_trainer(build(), data(60), tmp_path, **changes)
        hardened = tiny.cmim_trainer(build(), data(60), tmp_path, cmi_weight=0.0, **changes)
        plain.train()
        hardened.train()
        assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(hardened.model)) == 0
        assert hardened.bank is not None
        assert hardened.bank.terms.max() > 0, "the CMI was never computed: the code of weight 0 is another"

    @pytest.mark.parametrize("changes", [
        {"label_smoothing_factor": 0.1},
        {"gradient_accumulation_steps": 3},
        {CHECKPOINTING: True},
        {"bf16": True},
    ], ids=lambda changes: next(iter(changes)))  # fmt: skip
    def test_bit_for_bit_with_options(self, changes, tmp_path):
        """Catches options of Trainer that an overridden compute_loss loses (label smoothing is ignored by most)."""
        plain = tiny.plain_trainer(tiny.vit(), tiny.images(60), tmp_path, **changes)
        hardened = tiny.cmim_trainer(tiny.vit(), tiny.images(60), tmp_path, cmi_weight=0.0, **changes)
        plain.train()
        hardened.train()
        assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(hardened.model)) == 0

    def test_dropout_draws_the_same(self, tmp_path):
        """Catches a hardening that consumes random numbers."""
        plain = tiny.plain_trainer(tiny.vit(dropout=0.2), tiny.images(60), tmp_path)
        plain.train()  # the constructor sets the seed, so each is trained before the next is built
        hardened = tiny.cmim_trainer(tiny.vit(dropout=0.2), tiny.images(60), tmp_path, cmi_weight=0.0)
        hardened.train()
        assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(hardened.model)) == 0

    def test_a_weight_above_zero_changes_the_weights(self, tmp_path):
        """Shows that the equalities above can fail."""
        plain = tiny.plain_trainer(tiny.vit(), tiny.images(60), tmp_path)
        hardened = tiny.cmim_trainer(tiny.vit(), tiny.images(60), tmp_path, cmi_weight=1.0)
        plain.train()
        hardened.train()
        assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(hardened.model)) > 1e-4

    def test_plain_trainer_is_wrong_for_text_with_accumulation(self, tmp_path):
        """Names the case left out above: stock Trainer multiplies BERT's gradient by the accumulation steps."""
        steps = {}
        for accumulation, batch in ((1, 12), (3, 4)):
            trainer = tiny.plain_trainer(
                tiny.bert(), tiny.sentences(12), tmp_path,
                gradient_accumulation_steps=accumulation, per_device_train_batch_size=batch,
            )  # fmt: skip
            before = tiny.weights(trainer.model)
            trainer.train()
            steps[accumulation] = tiny.largest_difference(before, tiny.weights(trainer.model))
        assert steps[3] == pytest.approx(3 * steps[1], rel=0.05)


class TestSplitsOfABatch:
    """1 x 16 = 2 x 8 = 4 x 4, with a filled bank, weight above 0, a ragged end, unequal counts of ignored labels."""

    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("objective", [
        {"logit_scale": 0.5},  # near that of a model this young
        {"cmi_form": "plain"},
        {"logit_scale": 0.5, "cmi_correct_only": True, "cmi_weight": 4.0},
        # A model this young says so little at T = 16 that the rounding of its divergences is a thousandth of it.
        {"cmi_form": "share", "temperatures": [0.25, 1.0], "cmi_weight": 0.02, "cmi_warmup": 0.1},
    ], ids=str)  # fmt: skip
    def test_accumulation_changes_nothing(self, task: str, objective: dict[str, Any], tmp_path):
        """Catches means of means, gradients scaled by accumulation, and a bank that moves inside a step."""
        build, data = TASKS[task]
        results = {}
        for batch, accumulation in ((16, 1), (8, 2), (4, 4)):
            trainer = tiny.cmim_trainer(
                build(), data(58), tmp_path, num_train_epochs=3,
                # Cold enough for the weight to act on a model this young.
                **({"temperatures": [0.25, 1.0, 4.0, 16.0], "cmi_weight": 2.0} | objective),
                per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, centroid_window=30.0,
                learning_rate=0.02,  # small, so that roundings are not amplified from step to step
            )  # fmt: skip
            trainer.train()
            assert trainer.state.global_step == 12
            results[accumulation] = trainer
        reference = results.pop(1)
        masses = reference.bank.mass
        # So young a model never gets some of the classes right.
        filled = masses.max() if "cmi_correct_only" in objective else masses.min()
        assert filled > 5, "the bank is not filled"
        assert reference.state.log_history[-2]["cmi"] > 1e-4, "the weight never acted"
        # A share of next to nothing amplifies roundings; derived by each part's own terms it is off by 6e-5 and more.
        largest, relative = (3e-5, 3e-3) if objective.get("cmi_form") == "share" else (5e-6, 1e-4)
        for trainer in results.values():
            assert tiny.largest_difference(tiny.weights(reference.model), tiny.weights(trainer.model)) < largest
            # At T = .25 a rounding of the weights counts four times in a logit, and the terms are not below 1.
            theirs = trainer.bank.state_dict()
            for name, ours in reference.bank.state_dict().items():
                torch.testing.assert_close(theirs[name], ours, rtol=1e-4, atol=2e-5)
            for ours, theirs in zip(_logs(reference), _logs(trainer), strict=True):
                for name in ("loss", "ce", "cmi", "cmi_T1"):
                    # A divergence is rounded at about 1e-7, which T^2 = 256 raises to 3e-5.
                    assert theirs[name] == pytest.approx(ours[name], rel=relative, abs=3e-5), name

    def test_components_add_up_to_the_logged_loss(self, tmp_path):
        """Catches components scaled or averaged otherwise than the loss they explain."""
        trainer = tiny.cmim_trainer(
            tiny.token_bert(), tiny.tagged_sentences(60), tmp_path,
            per_device_train_batch_size=4, gradient_accumulation_steps=3, logging_steps=2,
        )  # fmt: skip
        trainer.train()
        assert _logs(trainer)
        for entry in _logs(trainer):
            assert entry["ce"] + entry["cmi"] == pytest.approx(entry["loss"], rel=1e-5)


def test_samples_classified_wrongly_are_left_out_of_the_loss_and_of_the_bank(tmp_path):
    """Catches a setting that reaches neither, or one of the two alone."""
    masses = []
    for correct_only in (False, True):
        trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(32), tmp_path, cmi_correct_only=correct_only)
        trainer.train()
        assert trainer.cmim_loss.spec.correct_only == correct_only
        assert trainer.bank.seen.sum() == 32
        masses.append(trainer.bank.mass.sum())
    assert 0 < masses[1] < 0.9 * masses[0]


def test_the_loss_of_a_step_sees_the_bank_of_the_step_before(tmp_path):
    """Catches a bank updated before the loss: in the first step there is no centroid, so the CMI must be 0."""
    trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(32), tmp_path, cmi_weight=1.0)
    trainer.train()
    first, second, *_ = _logs(trainer)
    assert first["cmi"] == 0
    assert second["cmi"] > 0


def test_custom_loss_and_class_weights_shape_the_cross_entropy(tmp_path):
    """Catches a compute_loss_func or class weights that are accepted and ignored."""

    def doubled(outputs, labels, num_items_in_batch=None):
        return 2 * torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    logs = {}
    for name, changes in {
        "plain": {},
        "custom": {"compute_loss_func": doubled},
        "weighted": {"class_weights": [2.0] * tiny.NUM_LABELS},
    }.items():
        trainer = tiny.cmim_trainer(
            tiny.vit(), tiny.images(8), tmp_path, eval_dataset=tiny.images(20, seed=1), **changes
        )
        trainer.train()
        logs[name] = trainer.state.log_history[0] | trainer.evaluate()
    for name in ("custom", "weighted"):
        assert logs[name]["ce"] == pytest.approx(2 * logs["plain"]["ce"], rel=1e-5)

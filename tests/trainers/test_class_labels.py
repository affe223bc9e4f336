"""Labels of every integer type give the same result; strings and fractions are refused before a step."""

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Value

from hf_cmim.attacks import KD, WKD, Averager, CrossEntropy
from hf_cmim.functional.divergence import summed_cross_entropy
from hf_cmim.functional.inputs import integer_labels
from hf_cmim.trainers.shared.class_labels import check_label_column

DATA, EVALUATION = tiny.images(32), tiny.images(16, seed=1)


def collating(dtype):
    def collate(samples):
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "labels": torch.tensor([sample["labels"] for sample in samples]).to(dtype),
        }

    return collate


def harden(folder, dtype, **changes):
    return tiny.cmim_trainer(
        tiny.vit(), DATA, folder, eval_dataset=EVALUATION, data_collator=collating(dtype), **changes
    )


def distil(attack):
    def build(folder, dtype, **changes):
        return tiny.distillation_trainer(
            tiny.vit(), DATA, folder, attack, tiny.vit(3).eval(), eval_dataset=EVALUATION,
            data_collator=collating(dtype), **changes,
        )  # fmt: skip

    return build


BUILDERS = {"harden": harden} | {repr(attack): distil(attack) for attack in (KD(), CrossEntropy(), Averager(), WKD())}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32], ids=str)
def test_any_integer_type_equals_int64(name, dtype, tmp_path):
    """Catches torch's refusal of int32 in a loss, after training."""
    results = []
    for each in (torch.int64, dtype):
        trainer = BUILDERS[name](tmp_path, each)
        trainer.train()
        metrics = {
            key: value for key, value in trainer.evaluate().items() if "second" not in key and "time" not in key
        }
        results.append((tiny.weights(trainer.model), metrics))
    assert tiny.largest_difference(results[0][0], results[1][0]) == 0
    assert results[0][1] == results[1][1]


def test_exact_centroids_of_small_labels(tmp_path):
    """Catches the pass over the data, which reads labels by itself."""
    banks = []
    for dtype in (torch.int64, torch.uint8):
        trainer = harden(tmp_path, dtype, centroids="epoch")
        trainer.train()
        banks.append(trainer.bank.state_dict())
    assert tiny.largest_difference(*banks) == 0


def test_156_in_uint8_is_a_label(tmp_path):
    """Catches -100 wrapped around: in uint8 it equals 156."""
    labels = torch.tensor([156, 3], dtype=torch.uint8)
    assert integer_labels(labels).tolist() == [156, 3]
    logits = torch.randn(2, 200)
    torch.testing.assert_close(summed_cross_entropy(logits, labels), summed_cross_entropy(logits, labels.long()))
    trainer = harden(tmp_path, torch.int64)
    assert trainer._get_num_items_in_batch([{"labels": labels}], torch.device("cpu")) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool], ids=str)
@pytest.mark.parametrize("name", BUILDERS)
def test_other_types_are_refused_before_a_step(name, dtype, tmp_path):
    """Catches a regression target taken for classes, and a raw error after the teacher was asked."""
    trainer = BUILDERS[name](tmp_path, dtype)
    with pytest.raises(ValueError, match=r"integer labels in .*got dtype torch\.(float|bool)"):
        trainer.train()
    assert trainer.state.global_step == 0
    if name != "harden":
        assert trainer.queries.ledger.num_asked == 0


STRINGS = [{"pixel_values": row["pixel_values"], "labels": "cat"} for row in DATA]
TABLE = Dataset.from_dict({"x": [0, 1], "label": ["cat", "dog"]})


@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluation"])
def test_strings_are_refused_at_construction(train, tmp_path):
    """Catches the collator's raw error."""
    data = {"train_dataset": STRINGS if train else DATA, "eval_dataset": DATA if train else {"held_out": STRINGS}}
    message = "labels.*train_dataset are strings" if train else "labels.*eval_dataset 'held_out' are strings"
    with pytest.raises(ValueError, match=message):
        tiny.cmim_trainer(tiny.vit(), data["train_dataset"], tmp_path, eval_dataset=data["eval_dataset"])
    with pytest.raises(ValueError, match=message):
        tiny.distillation_trainer(
            tiny.vit(), data["train_dataset"], tmp_path, KD(), tiny.vit(3).eval(), eval_dataset=data["eval_dataset"]
        )


def test_columns_are_judged_by_their_features():
    """Catches a data set of numbers refused, and strings in a data set whose samples are not loaded."""
    with pytest.raises(ValueError, match=r"class_encode_column\('label'\)"):
        check_label_column(TABLE, "train_dataset")
    check_label_column(TABLE.class_encode_column("label"), "train_dataset")
    check_label_column(TABLE.remove_columns("label"), "train_dataset")
    for feature in (Value("int32"), ClassLabel(names=["a", "b"])):
        features = Features({"labels": feature})
        check_label_column(Dataset.from_dict({"labels": [0, 1]}, features=features), "train_dataset")
    tokens = Dataset.from_dict({"labels": [[0, 1], [1, 0]]})
    check_label_column(tokens, "train_dataset")
    with pytest.raises(ValueError, match="are strings"):
        check_label_column(Dataset.from_dict({"labels": [["B-PER", "O"]]}), "train_dataset")
    check_label_column([{"labels": np.int32(3)}], "train_dataset")
    check_label_column(None, "eval_dataset")

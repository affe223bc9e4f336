"""A text model takes as many tokens as it is said to have room for, and not one more."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from hf_cmim.positions import usable_positions

SHAPE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
ROWS = 20


def text_model(kind, device="cpu", **settings):
    config = CONFIG_MAPPING[kind](**(SHAPE | settings), max_position_embeddings=ROWS)
    with torch.device(device):
        return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"pad_token_id": 0}),
        ("roberta", {"pad_token_id": 1}),
        ("roberta", {"pad_token_id": 0}),
        ("roberta-prelayernorm", {"pad_token_id": 1}),
        ("xlm-roberta", {"pad_token_id": 1}),
        ("xlm-roberta-xl", {"pad_token_id": 1}),
        ("camembert", {"pad_token_id": 1}),
        ("mpnet", {"pad_token_id": 1}),
        ("longformer", {"pad_token_id": 1, "attention_window": 4}),
        ("data2vec-text", {"pad_token_id": 1}),
        ("ibert", {"pad_token_id": 1}),
        ("lilt", {"pad_token_id": 1, "hidden_size": 24}),
        ("electra", {"pad_token_id": 0}),
        ("gpt2", {"pad_token_id": 0}),
        ("distilbert", {"pad_token_id": 0, "n_heads": 2, "dim": 16}),
    ],
)
def test_the_longest_text_fits_and_a_longer_one_does_not(kind, settings):
    """Catches RoBERTa's two rows that no token ever uses, a raw IndexError in the first long text."""
    model = text_model(kind, **settings)
    longest = usable_positions(model)
    assert longest is not None
    model(input_ids=torch.full((1, longest), 5), attention_mask=torch.ones(1, longest, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5), attention_mask=torch.ones(1, longest + 1, dtype=torch.long))
    assert usable_positions(text_model(kind, device="meta", **settings)) == longest


def test_a_model_without_a_limit_has_none():
    """Catches texts cut for a model with relative positions."""
    config = CONFIG_MAPPING["t5"](vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    assert usable_positions(AutoModelForSequenceClassification.from_config(config)) is None

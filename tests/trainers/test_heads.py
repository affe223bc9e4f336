"""Heads that do not classify are refused by what transformers says of them, in both trainers and in an audit."""

from collections.abc import Callable

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForAudioClassification,
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertModel,
    BertPreTrainedModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Wav2Vec2Config,
)

from hf_cmim import Composition, DistillationConfig
from hf_cmim.attacks import CrossEntropy
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.trainers.shared.heads import check_is_classifier

GPT2 = GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2, num_labels=4, pad_token_id=0)
BART = BartConfig(vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                  decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=4)  # fmt: skip
LLAMA = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                    num_labels=4, pad_token_id=0)  # fmt: skip
SEGFORMER = SegformerConfig(hidden_sizes=[8, 8], depths=[1, 1], num_encoder_blocks=2, num_attention_heads=[1, 2],
                            sr_ratios=[1, 1], strides=[4, 2], patch_sizes=[7, 3], decoder_hidden_size=8, num_labels=4,
                            mlp_ratios=[2, 2])  # fmt: skip
WAV2VEC2 = Wav2Vec2Config(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=4,
                          intermediate_size=16, conv_dim=[8], conv_stride=[4], conv_kernel=[4],
                          num_feat_extract_layers=1, num_conv_pos_embeddings=4,
                          num_conv_pos_embedding_groups=2)  # fmt: skip
BERT = tiny.bert().config


class OfOneToken(GPT2LMHeadModel):
    """A language model under a name of its own: it still shifts its labels."""


class Tagger(BertPreTrainedModel):
    """A classifier of your own on a base model of transformers."""

    def __init__(self, config):
        super().__init__(config)
        self.bert, self.head = BertModel(config), torch.nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"logits": self.head(self.bert(input_ids, attention_mask).pooler_output)}


def adapted() -> torch.nn.Module:
    return get_peft_model(GPT2LMHeadModel(GPT2), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))


REFUSED: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "causal": (lambda: GPT2LMHeadModel(GPT2), "got GPT2LMHeadModel, a model for causal language modelling.*shifts"),
    "causal of your own": (lambda: OfOneToken(GPT2), "got GPT2LMHeadModel, a model for causal"),
    "masked": (
        lambda: BertForMaskedLM(BERT),
        "a model for masked language modelling: .*vocabulary",
    ),
    "choices": (lambda: BertForMultipleChoice(BERT), "a model for multiple choice: .*choices of one sample"),
    "answers": (lambda: BertForQuestionAnswering(BERT), "a model for question answering: .*positions in the text"),
    "next sentence": (lambda: BertForNextSentencePrediction(BERT), "next sentence prediction: .*follow each other"),
    "seq2seq": (lambda: BartForConditionalGeneration(BART), "got BartForConditionalGeneration.*vocabulary"),
    "segmentation": (lambda: SegformerForSemanticSegmentation(SEGFORMER), "semantic segmentation: .*second dimension"),
    "adapter": (adapted, "got GPT2LMHeadModel, a model for causal"),
}
ACCEPTED: dict[str, Callable[[], torch.nn.Module]] = {
    "text": lambda: GPT2ForSequenceClassification(GPT2),
    "text, forward inherited": lambda: LlamaForSequenceClassification(LLAMA),
    "text, encoder and decoder": lambda: BartForSequenceClassification(BART),
    "tokens": lambda: GPT2ForTokenClassification(GPT2),
    "image": tiny.vit,
    "audio": lambda: AutoModelForAudioClassification.from_config(WAV2VEC2),
    "of your own, on a base": lambda: Tagger(BERT),
    "of your own": lambda: torch.nn.Linear(4, 4),
}


# PEFT still asks transformers for a name that is deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_both_trainers(case: str, tmp_path):
    """Catches a language model that learns to copy its input, and other heads that would learn nonsense."""
    build, message = REFUSED[case]
    for trainer in (
        lambda: tiny.cmim_trainer(build(), tiny.sentences(8), tmp_path / "run"),
        lambda: tiny.distillation_trainer(build(), tiny.sentences(8), tmp_path / "run", CrossEntropy()),
    ):
        with pytest.raises(ValueError, match=message):
            trainer()
    assert not (tmp_path / "run").exists()


def test_refused_by_an_audit(tmp_path):
    """Catches an audit whose students learn nothing that a classifier learns."""
    pool = StudentPool(lambda: GPT2LMHeadModel(GPT2), DistillationConfig(**tiny.settings(tmp_path)), tiny.sentences(8))
    with pytest.raises(ValueError, match="got GPT2LMHeadModel"):
        pool.run([PooledArm("ce", Composition(CrossEntropy()), None)], 0, tiny.sentences(8))


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str):
    """Catches a guard that goes by names, or that knows transformers' classes only."""
    check_is_classifier(ACCEPTED[case]())


@pytest.mark.parametrize(("build", "classes"), [
    (lambda: GPT2LMHeadModel(GPT2), "AutoModelForSequenceClassification or AutoModelForTokenClassification"),
    (lambda: SegformerForSemanticSegmentation(SEGFORMER), "AutoModelForImageClassification"),
])  # fmt: skip
def test_names_the_class_that_fits(build, classes):
    """Catches advice for another kind of model."""
    with pytest.raises(ValueError, match=f"Load it with {classes}\\."):
        check_is_classifier(build())

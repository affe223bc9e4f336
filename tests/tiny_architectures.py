"""A tiny model and a few samples for every classification architecture of transformers."""

from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, set_seed

from hf_cmim.tasks import AUDIO, IMAGE, TOKENS, Task

NUM_LABELS = 3
WIDTH, HEADS, LAYERS, VOCABULARY, LENGTH = 16, 2, 2, 64, 12
SIDE, PATCH = 32, 8

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "emb_dim", "d_embed", "hidden_dim",
         "decoder_hidden_size", "encoder_hidden_size", "rotary_dim_total", "model_dim", "n_embed"), WIDTH),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
         "num_decoder_layers", "num_encoder_layers"), LAYERS),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
         "decoder_attention_heads", "num_key_value_heads", "n_head_kv"), HEADS),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner", "d_inner",
         "dim_feedforward", "feed_forward_proj_dim", "ffn_hidden_size", "moe_intermediate_size",
         "shared_expert_intermediate_size"), 2 * WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"), 64),
    "vocab_size": VOCABULARY, "head_dim": WIDTH // HEADS, "d_kv": WIDTH // HEADS,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim", "index_head_dim", "linear_key_head_dim",
                     "linear_value_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim"), WIDTH // HEADS // 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "linear_num_value_heads", "linear_num_key_heads", "index_n_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    "out_hidden_size": WIDTH, "dff": 2 * WIDTH, "image_size": SIDE, "patch_size": PATCH, "num_channels": 3,
}  # fmt: skip
"""Values of settings, by the names that configurations give to the same thing."""

STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4}
SOUNDS = {
    "conv_dim": (8, 8), "conv_stride": (5, 5), "conv_kernel": (10, 5), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0,
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0},
    "axk1": {"head_dim": WIDTH // HEADS // 2},
    "deepseek_v3": {"head_dim": WIDTH // HEADS // 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gptj": {"rotary_dim": 4},
    "lilt": {"hidden_size": 24},
    "t5": {"decoder_start_token_id": 0},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention"] * LAYERS,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        },
    },
    "bros": {"hidden_size": 64},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8], "stage_in_channels": [8] * 4, "stage_mid_channels": [8] * 4,
        "stage_out_channels": [8] * 4, "hidden_sizes": [8] * 4, "stage_num_blocks": [1] * 4,
        "stage_numb_of_layers": [1] * 4,
    },
    "xmod": {"default_language": "en_XX"},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "nemotron": {"num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS},
    "hunyuan_v1_dense": {"head_dim": WIDTH // HEADS},
    "hunyuan_v1_moe": {"head_dim": WIDTH // HEADS},
    "ministral": {"head_dim": WIDTH // HEADS},
    "funnel": {"block_sizes": [1, 1], "num_hidden_layers": None},
    "xlnet": {"max_position_embeddings": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "zamba": {"layers_block_type": ["mamba", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8, "local_attn_chunk_length": 4,
                 "lsh_attn_chunk_length": 4, "attn_layers": ["local", "lsh"], "num_buckets": 2},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "markuplm": {"max_depth": 4, "xpath_unit_hidden_size": 4},
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4},
    "roc_bert": {"shape_vocab_size": 64, "shape_embed_dim": 8, "pronunciation_vocab_size": 64,
                 "pronunciation_embed_dim": 8},
    "perceiver": {"num_latents": 4, "d_latents": WIDTH, "num_self_attends_per_block": 1,
                  "num_self_attention_heads": 2, "num_cross_attention_heads": 1, "qk_channels": WIDTH,
                  "v_channels": WIDTH},
    "convnext": STAGES, "convnextv2": STAGES,
    "bit": STAGES | {"embedding_size": 8, "num_groups": 2},
    "regnet": {"embedding_size": 8, "groups_width": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "resnet": STAGES | {"embedding_size": 8},
    "cvt": {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "swin": SWIN, "swinv2": SWIN, "donut-swin": SWIN,
    "focalnet": {"embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "focal_levels": [1, 1],
                 "focal_windows": [3, 3]},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [SIDE, SIDE]},
    "levit": {"hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1],
              "key_dim": [8, 8, 8], "image_size": 64, "patch_size": 16},
    "mobilenet_v1": {"depth_multiplier": 0.25, "min_depth": 4},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "image_size": 64,
                  "patch_size": 2},
    "mobilevitv2": {"width_multiplier": 0.125, "image_size": 64, "patch_size": 2},
    "poolformer": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    "pvt": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1],
            "mlp_ratios": [2, 2, 2, 2]},
    "pvt_v2": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1],
               "mlp_ratios": [2, 2, 2, 2]},
    "segformer": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]},
    "swiftformer": {"embed_dims": [8, 8, 8, 16], "depths": [1, 1, 1, 1]},
    "textnet": {"hidden_sizes": [8, 8, 8, 8, 8], "stem_out_channels": 8},
    "pp_lcnet": {"scale": 0.25},
    **dict.fromkeys(("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2",
                     "wav2vec2-conformer", "wavlm"), SOUNDS),
    "wav2vec2-bert": {"mask_time_prob": 0.0, "classifier_proj_size": 8, "feature_projection_input_dim": 20},
    "whisper": {"max_source_positions": 20, "num_mel_bins": 8, "classifier_proj_size": 8},
    "audio-spectrogram-transformer": {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "time_stride": 8,
                                      "frequency_stride": 8},
}  # fmt: skip
"""What a configuration needs besides: lists of sizes, or None to leave a setting out that it refuses."""


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """Return a configuration of this type with every size that it knows made small."""
    return _shrunk(CONFIG_MAPPING[model_type], SPECIAL.get(model_type, {}) | changes)


def _shrunk(config_class: type[PreTrainedConfig], special: dict[str, Any]) -> PreTrainedConfig:
    default = config_class()
    settings = {name: value for name, value in SIZES.items() if _takes(default, name)} | {"num_labels": NUM_LABELS}
    for name, part in vars(default).items():
        if isinstance(part, PreTrainedConfig):
            settings[name] = _shrunk(type(part), SPECIAL.get(part.model_type, {})).to_dict()
    if getattr(default, "vocab_size", None) is not None:
        settings |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    settings |= special
    return config_class(**{name: value for name, value in settings.items() if value is not None})


def _takes(config: PreTrainedConfig, name: str) -> bool:
    computed = getattr(type(config), name, None)
    if isinstance(computed, property) and computed.fset is None:
        return False
    value = getattr(config, name, None)
    return isinstance(value, int) and not isinstance(value, bool)


def tiny_model(architecture: str, model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a new model of an architecture."""
    set_seed(seed)
    model: PreTrainedModel = getattr(transformers, architecture)(tiny_config(model_type, **changes))
    return model


def tiny_samples(task: Task, model: PreTrainedModel, size: int = 4) -> list[dict[str, Any]]:
    """Return labelled samples that a model takes."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(size):
        if task is AUDIO:
            row = _sound(model, generator)
        elif task is IMAGE and model.main_input_name != "input_ids":  # as ImageGPT's colours are
            row = _picture(model, generator)
        else:
            row = _text(model, generator)
        labels = torch.arange(number, number + LENGTH) % NUM_LABELS if task is TOKENS else number % NUM_LABELS
        rows.append(row | {"labels": labels})
    return rows


def _text(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=generator)
    ids[-1] = 2  # encoder-decoders classify by the last of their end tokens
    needs_boxes = model.config.model_type == "bros"
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | (
        {"bbox": torch.rand(LENGTH, 8, generator=generator)} if needs_boxes else {}
    )


def _picture(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    if model.config.model_type == "siglip2":  # patches of any shape of image
        patches = torch.randn(16, 3 * PATCH**2, generator=generator)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(16),
            "spatial_shapes": torch.tensor([4, 4]),
        }
    side = getattr(model.config, "image_size", SIDE)
    side = max(side) if isinstance(side, list | tuple) else side
    return {"pixel_values": torch.randn(getattr(model.config, "num_channels", 3), side, side, generator=generator)}


def _sound(model: PreTrainedModel, generator: torch.Generator) -> dict[str, torch.Tensor]:
    config = model.config
    shapes = {
        "whisper": (getattr(config, "num_mel_bins", 0), 40),
        "wav2vec2-bert": (20, getattr(config, "feature_projection_input_dim", 0)),
        "audio-spectrogram-transformer": (getattr(config, "max_length", 0), getattr(config, "num_mel_bins", 0)),
    }
    shape = shapes.get(config.model_type, (400,))
    return {model.main_input_name: torch.randn(*shape, generator=generator)}

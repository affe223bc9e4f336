"""Tiny PEFT models: LoRA on a text and on an image classifier, with the head trained in full."""

import tiny
from peft import LoraConfig, TaskType, get_peft_model

BASE = "owner/base"


def text_adapter(seed: int = 0, **shape):
    model = tiny.bert(seed, **shape)
    model.config._name_or_path = BASE
    settings = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
    return get_peft_model(model, settings)


def image_adapter(seed: int = 0, **shape):
    model = tiny.vit(seed, **shape)
    model.config._name_or_path = BASE
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    return get_peft_model(model, settings)

"""A network in ONNX as a black-box teacher: its session answers with NumPy arrays."""

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from hf_cmim.teachers import FunctionTeacher

NAMES = {"id2label": dict(enumerate("abcd")), "label2id": {name: number for number, name in enumerate("abcd")}}


@pytest.fixture(scope="module")
def weight() -> np.ndarray:
    """The class means that tiny.images are drawn around, the last class first."""
    means = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    return means.flatten(1).T.flip(1).numpy() / 16


@pytest.fixture(scope="module")
def session(weight) -> onnxruntime.InferenceSession:
    """A linear classifier of (N, 1, 8, 8) pixels."""
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "classifier", [pixels], [logits], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_student_learns_from_an_onnx_session(session, weight, tmp_path):
    """Catches a session that gets tensors, and classes that are compared by position instead of by name."""
    teacher = FunctionTeacher(
        lambda pixels: session.run(None, {"pixels": pixels})[0],
        input_name="pixel_values", class_names=["d", "c", "b", "a"], returns="logits",
    )  # fmt: skip
    pixels = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.from_numpy(pixels.flatten(1).numpy() @ weight).log_softmax(-1)
    assert torch.allclose(teacher({"pixel_values": pixels}), expected, atol=1e-5)
    trainer = tiny.distillation_trainer(
        tiny.vit(**NAMES), tiny.images(64), tmp_path, "kd", teacher, eval_dataset=tiny.images(64, 1),
        num_train_epochs=4, optim="adamw_torch", learning_rate=0.01, logging_steps=1000,
    )  # fmt: skip
    trainer.train()
    figures = trainer.evaluate()
    assert figures["eval_teacher_accuracy"] > 0.9
    assert figures["eval_agreement"] > 0.8

"""`hf-cmim harden`: images, texts and sounds, by a configuration or from a checkpoint."""

import io
import json

import numpy as np
import pytest
from datasets import Audio, Dataset, Features, Value
from scipy.io import wavfile
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification, Wav2Vec2FeatureExtractor

from hf_cmim.cli.main import main
from hf_cmim.hub.certificate import Certificate
from hf_cmim.trainers.hardening import harden_within as module
from hf_cmim.trainers.hardening.harden_within import Rung

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
QUICK = ["--no-quick-audit", "--accuracy-budget", "99", "--quiet", "--set", "num_train_epochs=1", "use_cpu=true"]


@pytest.fixture(autouse=True)
def one_rung(monkeypatch):
    monkeypatch.setattr(module, "LADDER", (Rung("share", 4.0, correct_only=True, from_twin=True),))


def test_images_from_a_configuration(data, student_config, tmp_path, capsys):
    """Catches a model without classes, without a processor, or without a certificate of its measurement."""
    words = ["--model", str(student_config), "--dataset", str(data), "--output-dir", str(tmp_path)]
    assert main(["harden", *words, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "cross-entropy twin: accuracy" in printed
    assert "chosen" in printed
    for name in ("twin", "share-4"):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert list(model.config.id2label.values()) == ["red", "green", "blue"]
        assert json.loads((tmp_path / name / "preprocessor_config.json").read_text())["size"]["height"] == 12
        evaluation = Certificate.read(tmp_path / name).evaluation
        assert evaluation.measurement.num_samples == 30
        assert main(["verify", str(tmp_path / name)]) == 0


def test_a_checkpoint_keeps_its_classes_and_its_processor(data, teacher, tmp_path):
    """Catches a trained head that is read in the order of the data."""
    words = ["--model", str(teacher), "--dataset", str(data), "--output-dir", str(tmp_path)]
    assert main(["harden", *words, *QUICK]) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "share-4")
    expected = AutoModelForImageClassification.from_pretrained(teacher)
    assert model.config.id2label == expected.config.id2label


def test_sounds(tmp_path):
    """Catches a task that only images and texts reach."""
    generator = np.random.default_rng(0)
    sounds, labels = [], []
    for number in range(60):
        file = io.BytesIO()
        wavfile.write(file, 8_000, (9_000 * generator.standard_normal(500 + number)).astype(np.int16))
        sounds.append({"bytes": file.getvalue(), "path": f"{number}.wav"})
        labels.append(("low", "high")[number % 2])
    features = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")})
    rows = Dataset.from_dict({"audio": sounds, "label": labels}, features=features)
    rows.cast_column("audio", Audio()).to_parquet(tmp_path / "all.parquet")
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path / "extractor")
    shape = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 4}
    shape |= {"num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2, "mask_time_prob": 0.0}
    (tmp_path / "model.json").write_text(json.dumps({"model_type": "wav2vec2", **SHAPE, **shape}))
    words = ["--model", str(tmp_path / "model.json"), "--processor", str(tmp_path / "extractor")]
    words += ["--dataset", str(tmp_path / "all.parquet"), "--output-dir", str(tmp_path / "out")]
    assert main(["harden", *words, *QUICK]) == 0
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out" / "share-4")
    assert set(model.config.id2label.values()) == {"low", "high"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing --model and --dataset"),
        (["--model", "m", "--dataset", "d", "--accuracy-budget", "-1"], "from 0 to less than 100, got -1"),
        (["--model", "no/model", "--dataset", "d"], "No configuration of a model for --model at 'no/model'"),
        (["--model", "none.json", "--dataset", "d"], "No configuration can be read from none.json"),
        (
            ["--model", "m.json", "--dataset", "d", "--set", "cmi_weight=3"],
            "chooses the objective by --accuracy-budget",
        ),
        (["--model", "m.json", "--dataset", "d", "--set", "learning=3"], "settings of CMIMConfig after --set"),
        (["--model", "m.json", "--dataset", "d", "--rest-as-test"], "Unknown flag '--rest-as-test'"),
    ],
)
def test_what_cannot_be_hardened_is_refused(words, message, capsys):
    """Catches an error after hours of training, or a flag that is not read."""
    assert main(["harden", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "Expected the model_type of a transformers model"),
        ({"model_type": "vit", "image_size": "big"}, "Field 'image_size' with value 'big'"),
        ({"model_type": "vit", "image_size": [8, 8, 3]}, "as one number or as height and width, got [8, 8, 3]"),
    ],
)
def test_a_configuration_that_makes_no_model_is_named(settings, message, data, tmp_path, capsys):
    """Catches a traceback of transformers, which does not name the file."""
    path = tmp_path / "model.json"
    path.write_text(json.dumps(settings))
    assert main(["harden", "--model", str(path), "--dataset", str(data)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert str(path) in printed


def test_a_student_that_cannot_read_the_data_is_refused_before_training(data, student_config, tmp_path, capsys):
    """Catches an audit that stops at its first student, hours after the models were trained."""
    (tmp_path / "student.json").write_text(json.dumps({"model_type": "bert", **SHAPE}))
    words = [
        "--model",
        str(student_config),
        "--dataset",
        str(data),
        "--student-config",
        str(tmp_path / "student.json"),
    ]
    assert main(["harden", *words, *QUICK[1:], "--output-dir", str(tmp_path / "models")]) == 2
    assert "student" in capsys.readouterr().err
    assert not list(tmp_path.glob("models/*/*"))


def test_texts_from_a_configuration_need_a_tokenizer(tmp_path, capsys):
    """Catches a tokenizer made up for a configuration."""
    lines = "\n".join(f"text {number},{number % 2}" for number in range(40))
    (tmp_path / "all.csv").write_text(f"text,label\n{lines}\n")
    (tmp_path / "model.json").write_text(json.dumps({"model_type": "bert", **SHAPE}))
    assert main(["harden", "--model", str(tmp_path / "model.json"), "--dataset", str(tmp_path / "all.csv")]) == 2
    assert "Expected --processor with a tokenizer" in capsys.readouterr().err

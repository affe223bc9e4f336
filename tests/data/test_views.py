"""How models see samples."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from scipy.io import wavfile
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    ASTFeatureExtractor,
    AutoImageProcessor,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.sounds import read_sound
from hf_cmim.data.views import View, kind_of, kind_of_type
from hf_cmim.errors import HfCmimError

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "red", "green", "blue", "sky"]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """A folder with an image processor."""
    folder = tmp_path_factory.mktemp("processor")
    ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.3] * 3, image_std=[0.2] * 3).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    pictures = [PILImage.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)) for _ in range(20)]
    features = Features({"image": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    labels = generator.integers(0, 3, 20).tolist()
    return Dataset.from_dict({"image": pictures, "label": labels}, features=features)


@pytest.fixture(scope="module")
def tokenizer():
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


# Processors


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "{}", '{"image_processor_type": 5}', '{"size": "big"}'])
def test_a_broken_processor_is_refused_with_its_reason(text, processor, tmp_path):
    """Catches a traceback of transformers, which names no file and no remedy."""
    settings = json.loads((processor / "preprocessor_config.json").read_text(encoding="utf-8"))
    broken = json.dumps(settings | json.loads(text)) if text.startswith('{"') else text
    (tmp_path / "preprocessor_config.json").write_text(broken, encoding="utf-8")
    with pytest.raises(
        HfCmimError, match=r"an image processor .*none that transformers can read \(.+\).*Save the pro"
    ):
        View.of(str(tmp_path), "image")


# Kinds


@pytest.mark.parametrize(
    ("name", "task"), [("VideoMAEForVideoClassification", "video"), ("BertForTokenClassification", "token")]
)
def test_tasks_that_need_python_are_refused(name, task):
    """Catches samples shown to a processor of another kind."""
    module = type(name, (torch.nn.Module,), {"forward": lambda self, input_values: None})()
    with pytest.raises(ValueError, match=rf"got {name} \({task}-classification\).*hf_cmim\.Audit"):
        kind_of(module)
    with pytest.raises(ValueError, match=r"Expected a classifier of images, texts or sounds, got Linear"):
        kind_of(torch.nn.Linear(2, 2))


def test_kinds_of_classifiers():
    """Catches sounds shown to a tokenizer, because the name of their classifier ends like that of texts."""
    assert kind_of(ViTForImageClassification(ViTConfig(**SHAPE, image_size=8, patch_size=4))) == "image"
    assert kind_of(BertForSequenceClassification(BertConfig(**SHAPE, vocab_size=9))) == "text"
    with torch.device("meta"):
        convolutions = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
        sounds = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SHAPE, **convolutions))
    assert kind_of(sounds) == "audio"


def test_a_type_of_models_has_one_kind_or_is_refused():
    """Catches a type with classifiers of no sample that can be prepared."""
    assert [kind_of_type(name) for name in ("vit", "bert", "wav2vec2")] == ["image", "text", "audio"]
    with pytest.raises(ValueError, match=r"got 'videomae' with none"):
        kind_of_type("videomae")


# Images and texts


def test_view_is_the_processors_own_on_rgb(processor, rows):
    """Grey images as they come would have one channel, and another processor other statistics."""
    view = View.of(str(processor), "image")
    grey = [PILImage.effect_noise((9, 7), 40.0), rows[0]["image"]]
    prepared = view.batch(view.prepare(grey))
    expected = AutoImageProcessor.from_pretrained(processor)(
        [each.convert("RGB") for each in grey], return_tensors="pt"
    )
    assert prepared.keys() == {"pixel_values"}
    assert torch.equal(prepared["pixel_values"], expected["pixel_values"])
    assert prepared["pixel_values"].shape == (2, 3, 12, 12)


def test_texts_are_cut_and_padded(tokenizer, tmp_path):
    """A longer text than a model has positions for would stop the audit at some batch."""
    tokenizer.save_pretrained(tmp_path)
    view = View.of(str(tmp_path), "text").limited_to(3)
    batch = view.batch(view.prepare(["red sky red sky", "blue"]))
    assert batch["input_ids"].tolist() == [[2, 5, 2], [4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert View.of(str(tmp_path), "text").processor.model_max_length == 512
    assert view.limited_to(7) is view


def test_model_without_its_processor_is_refused(tmp_path):
    """Statistics made up for it would spoil its answers."""
    with pytest.raises(ValueError, match=r"Expected an image processor \(preprocessor_config.json\).*save_pretrained"):
        View.of(str(tmp_path), "image")
    with pytest.raises(ValueError, match="Expected a tokenizer beside the model"):
        View.of(str(tmp_path / "none"), "text")
    with pytest.raises(ValueError, match="Expected a feature extractor"):
        View.of(str(tmp_path / "none"), "audio")


@pytest.mark.parametrize("room", [0, 10**9])
def test_samples_are_the_same_kept_and_prepared_anew(room, processor, rows):
    """Samples of one row under another's label, or a view under the other's name."""
    small = View(ViTImageProcessorPil(size={"height": 8, "width": 8}), "image")
    views = {"student": small, "teacher": View.of(str(processor), "image")}
    numbers = {0: 2, 1: 0, 2: 1}
    samples = PreparedSamples(rows, ("image", "label"), numbers, views, room=room)
    assert (samples._kept is None) == (room == 0)
    assert len(samples) == 20
    for position, sample in zip((7, 3, 7), samples.__getitems__([7, 3, 7]), strict=True):
        row = rows[position]
        assert sample["labels"] == numbers[row["label"]]
        for name, view in views.items():
            expected = view.prepare([row["image"]])[0]["pixel_values"]
            assert torch.equal(sample[name]["pixel_values"], expected)
    assert torch.equal(samples[-1]["student"]["pixel_values"], samples[19]["student"]["pixel_values"])


def test_samples_that_do_not_fit_are_not_kept(processor, rows):
    """A data set larger than the memory would end the audit while it is prepared."""
    size = 3 * 12 * 12 * 4 + 64  # fp32 pixels, and room for the label
    views = {"student": View.of(str(processor), "image")}
    for room, is_kept in ((20 * size, True), (20 * size - 1, False)):
        samples = PreparedSamples(rows, ("image", "label"), {0: 0, 1: 1, 2: 2}, views, room=room)
        assert (samples._kept is not None) == is_kept


def test_text_samples_are_kept_as_lists_of_different_lengths(tokenizer, tmp_path):
    """Texts padded when they are prepared would be padded to the longest of all."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["red", "red sky blue"], "label": [1, 0]}, features=features)
    samples = PreparedSamples(rows, ("text", "label"), {0: 1, 1: 0}, {"student": View(tokenizer, "text")}, room=10**6)
    assert [sample["labels"] for sample in samples.__getitems__([0, 1])] == [0, 1]
    assert samples[0]["student"]["input_ids"] == [2]
    assert samples[1]["student"]["input_ids"] == [2, 5, 4]


def test_texts_without_a_token_and_other_than_texts_are_refused(tokenizer):
    """Catches a raw error of the tokenizer or of the model at some batch."""
    view = View(tokenizer, "text")
    rows = Dataset.from_dict({"text": ["red", "  "], "label": [0, 1]})
    with pytest.raises(ValueError, match=r"1 texts in column 'text' are empty.*filter"):
        PreparedSamples(rows, ("text", "label"), {0: 0, 1: 1}, {"student": view}, room=10**6)
    with pytest.raises(ValueError, match="Expected texts, got 7, a int.*--text-column"):
        view.prepare(["red", 7])


# Sounds


def wave(folder, name, values, rate=8_000):
    wavfile.write(folder / name, rate, values)
    return {"bytes": (folder / name).read_bytes(), "path": name}


def test_sounds_are_read_in_one_range_and_one_channel(tmp_path):
    """Catches integers of another range, unsigned bytes around 128, and a second channel read as more time."""
    half = {
        "int16": np.full((100, 2), 2**14, dtype=np.int16),
        "int32": np.full(100, 2**30, dtype=np.int32),
        "uint8": np.full(100, 192, dtype=np.uint8),
        "float": np.full(100, 0.5, dtype=np.float32),
    }
    for name, values in half.items():
        sound = read_sound(wave(tmp_path, f"{name}.wav", values), 8_000)
        assert sound.dtype == np.float32
        np.testing.assert_array_equal(sound, np.full(100, 0.5, dtype=np.float32))
    assert len(read_sound(wave(tmp_path, "long.wav", np.zeros(31 * 8_000, dtype=np.int16)), 8_000)) == 30 * 8_000


def test_sounds_of_another_rate_keep_their_pitch(tmp_path):
    """Catches a rate that is ignored: a tone of 440 Hz would be one of 220."""
    times = np.arange(8_000) / 8_000
    sound = read_sound(wave(tmp_path, "tone.wav", np.sin(2 * np.pi * 440 * times).astype(np.float32)), 16_000)
    assert len(sound) == 16_000
    assert np.abs(np.fft.rfft(sound)).argmax() == 440  # one second, so that bins are hertz


def test_sounds_that_are_no_wav_files_are_refused(tmp_path):
    """Catches a raw error of the reader that does not name the file."""
    with pytest.raises(ValueError, match=r"The sound a.mp3 cannot be read as a WAV file.*ffmpeg"):
        read_sound({"bytes": b"ID3 and noise", "path": "a.mp3"}, 8_000)
    with pytest.raises(ValueError, match=r"sound empty.wav is empty"):
        read_sound(wave(tmp_path, "empty.wav", np.zeros(0, dtype=np.int16)), 8_000)


def test_sounds_of_different_lengths_are_padded_by_their_extractor(tmp_path):
    """Catches sounds cut to the shortest, and a mask that is lost."""
    view = View(Wav2Vec2FeatureExtractor(sampling_rate=8_000, do_normalize=False, return_attention_mask=True), "audio")
    short, long = (wave(tmp_path, f"{size}.wav", np.full(size, 2**14, dtype=np.int16)) for size in (50, 80))
    batch = view.batch(view.prepare([short, long]))
    assert batch["input_values"].tolist() == [[0.5] * 50 + [0.0] * 30, [0.5] * 80]
    assert batch["attention_mask"].sum(dim=1).tolist() == [50, 80]


def test_spectrograms_are_the_extractors_own(tmp_path):
    """Catches a second dimension taken for time."""
    extractor = ASTFeatureExtractor(sampling_rate=8_000, num_mel_bins=16, max_length=20)
    view = View(extractor, "audio")
    sounds = [wave(tmp_path, f"{size}.wav", np.arange(size, dtype=np.int16)) for size in (500, 800)]
    batch = view.batch(view.prepare(sounds))
    assert batch["input_values"].shape == (2, 20, 16)
    expected = extractor(read_sound(sounds[1], 8_000), sampling_rate=8_000, return_tensors="pt")["input_values"][0]
    assert torch.equal(batch["input_values"][1], expected)

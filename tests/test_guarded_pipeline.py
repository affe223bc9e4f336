"""Guarded pipelines: real tiny pipelines whose scores come from the channel, whatever is asked of them."""

import copy

import numpy as np
import pytest
import tiny
import tiny_architectures
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    Pipeline,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from hf_cmim import ClassAnswers, HfCmimError, guard, pipeline_answers
from hf_cmim.channels import Argmax, Rounded, Sharpened

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
TASKS = ["image-classification", "text-classification", "audio-classification"]
GENERATOR = np.random.default_rng(0)
SAMPLES = {
    "image-classification": [
        Image.fromarray(GENERATOR.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(12)
    ],
    "text-classification": [" ".join(GENERATOR.choice(WORDS[5:], 3 + number % 4)) for number in range(12)],
    "audio-classification": [GENERATOR.normal(size=400).astype(np.float32) for _ in range(12)],
}


def telling(classifier):
    """Answers far from uniform, of several classes: logits with mean 0 and standard deviation 3."""
    classifier.model.eval()
    outputs = [classifier.forward(classifier.preprocess(sample))["logits"] for sample in SAMPLES[classifier.task]]
    mean, spread = torch.cat(outputs).mean(0), torch.cat(outputs).std(0)
    head = classifier.model.classifier
    with torch.no_grad():
        head.bias.sub_(mean).mul_(3 / spread)
        head.weight.mul_(3 / spread[:, None])
    return classifier


def tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    words = tokenizer(tmp_path_factory.mktemp("words"))
    sounds = tiny_architectures.tiny_model("Wav2Vec2ForSequenceClassification", "wav2vec2")
    built = [
        pipeline("image-classification", tiny.vit(3, num_channels=3), image_processor=processor),
        pipeline("text-classification", tiny.bert(3), tokenizer=words),
        pipeline("audio-classification", sounds, feature_extractor=Wav2Vec2FeatureExtractor()),
    ]
    return {classifier.task: telling(classifier) for classifier in built}


def channel_for(classifier, sharpness=0.0):
    num_classes = classifier.model.config.num_labels
    table = torch.full((num_classes, num_classes), 0.4 / num_classes) + 0.6 * torch.eye(num_classes)
    table[:, 0] += 1e-3 * torch.arange(num_classes)
    return ClassAnswers(table / table.sum(-1, keepdim=True), sharpness)


def rows_of(results, classifier):
    """Scores in the order of the classes, `(N, C)`."""
    names = [classifier.model.config.id2label[number] for number in range(classifier.model.config.num_labels)]
    return torch.tensor([[{each["label"]: each["score"] for each in row}[name] for name in names] for row in results])


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_the_channels(task, pipelines):
    """Catches scores that pass unchanged, and a table that is read in another order of classes."""
    classifier, samples = pipelines[task], SAMPLES[task]
    channel = channel_for(classifier)
    own = rows_of(classifier(samples, top_k=classifier.model.config.num_labels), classifier)
    given = rows_of(guard(classifier, channel)(samples, top_k=classifier.model.config.num_labels), classifier)
    assert torch.allclose(given, channel.probs[own.argmax(-1)], atol=1e-6)
    assert len(own.unique(dim=0)) == len(samples)
    assert 1 < len(own.argmax(-1).unique()) == len(given.unique(dim=0)), "the test needs several predicted classes"


OPTIONS = [
    {},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 1000},
    {"top_k": None},
    {"function_to_apply": "none", "top_k": 1000},
    {"function_to_apply": "sigmoid", "top_k": 1000},
    {"function_to_apply": "softmax", "top_k": 1000},
    {"function_to_apply": "none", "top_k": 1000, "batch_size": 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("task", TASKS)
def test_no_option_shows_more_than_the_prediction(task, options, pipelines):
    """Catches an option that goes around the channel: answers with one label must be the same to the last bit."""
    classifier, samples = pipelines[task], SAMPLES[task]
    answers = guard(classifier, channel_for(classifier))(samples, **options)
    tops = [classifier(sample, top_k=1)[0]["label"] for sample in samples]
    by_label = {}
    for top, answer in zip(tops, answers, strict=True):
        assert (answer[0] if isinstance(answer, list) else answer)["label"] == top
        assert by_label.setdefault(top, answer) == answer
    own = classifier(samples, **options)
    assert len({repr(answer) for answer in own}) == len(samples), "the same option shows every sample's own scores"


@pytest.mark.parametrize("task", TASKS)
def test_single_samples_and_streams_are_answered_alike(task, pipelines):
    """Catches a way to ask that goes around the channel: one by one, a generator, the steps of a pipeline."""
    classifier, samples = pipelines[task], SAMPLES[task]
    guarded = guard(classifier, channel_for(classifier))
    together = guarded(samples, top_k=2)
    assert [guarded(sample, top_k=2) for sample in samples] == together
    assert list(guarded((sample for sample in samples), top_k=2)) == together
    outputs = guarded.forward(guarded.preprocess(samples[0]))
    assert list(outputs) == ["logits"]
    assert (outputs["logits"][0] == channel_for(classifier).log_probs).all(-1).any()


@pytest.mark.parametrize("task", TASKS)
def test_the_pipeline_itself_stays_as_it_is(task, pipelines):
    """Catches a guard on the shared model, which would also change what is trained, measured or saved with it."""
    classifier, samples = pipelines[task], SAMPLES[task]
    before = classifier(samples, top_k=3)
    guarded = guard(classifier, channel_for(classifier))
    assert isinstance(guarded, type(classifier))
    assert isinstance(guarded, Pipeline)
    assert classifier(samples, top_k=3) == before
    assert guarded(samples, top_k=3) != before
    assert copy.deepcopy(guarded)(samples, top_k=3) == guarded(samples, top_k=3)


def test_options_of_the_constructor_show_no_more(pipelines):
    """Catches settings that a pipeline was built with, and that the guard forgets."""
    text = pipelines["text-classification"]
    raw = pipeline("text-classification", text.model, tokenizer=text.tokenizer, top_k=None, function_to_apply="none")
    channel = channel_for(raw)
    scores = rows_of(guard(raw, channel)(SAMPLES["text-classification"]), raw)
    assert torch.allclose(scores, channel.log_probs[rows_of(raw(SAMPLES["text-classification"]), raw).argmax(-1)])


def test_hidden_states_are_not_passed_on(pipelines):
    """Catches outputs beside the logits, from which an attacker could read more than from scores."""
    text = pipelines["text-classification"]
    model = copy.deepcopy(text.model)
    model.config.output_hidden_states = True
    open_pipeline = pipeline("text-classification", model, tokenizer=text.tokenizer)
    inputs = open_pipeline.preprocess("a b")
    assert "hidden_states" in open_pipeline.forward(dict(inputs))
    assert list(guard(open_pipeline, channel_for(open_pipeline)).forward(dict(inputs))) == ["logits"]


def test_any_channel_can_guard_and_guards_add_up(pipelines):
    """Catches a guard that knows only class answers, and a second guard that replaces the first."""
    classifier, samples = pipelines["image-classification"], SAMPLES["image-classification"]
    own = pipeline_answers(classifier, samples)
    for channel in (Rounded(1), Argmax(), Sharpened(0.5)):
        given = rows_of(guard(classifier, channel)(samples), classifier)
        assert torch.allclose(given, channel(own).exp(), atol=1e-6)
    both = guard(guard(classifier, Sharpened(0.2)), Rounded(1))
    assert torch.allclose(rows_of(both(samples), classifier), Rounded(1)(Sharpened(0.2)(own)).exp(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_guarded(dtype, pipelines):
    """Catches a table that is read in half precision: its rows would no longer sum to 1."""
    classifier = pipelines["image-classification"]
    model = copy.deepcopy(classifier.model).to(dtype)
    half = pipeline("image-classification", model, image_processor=classifier.image_processor)
    channel = channel_for(half)
    scores = rows_of(guard(half, channel)(SAMPLES["image-classification"]), half)
    assert torch.allclose(scores, channel.probs[scores.argmax(-1)], atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_answers_of_a_pipeline_are_those_of_its_model(task, batch_size, pipelines):
    """Catches a sample that is asked twice or left out, and scores that are recorded after rounding or sorting."""
    classifier, samples = pipelines[task], SAMPLES[task]
    num_classes = classifier.model.config.num_labels
    expected = rows_of(classifier(samples, top_k=num_classes), classifier)
    answers = pipeline_answers(classifier, samples, batch_size=batch_size)
    assert torch.allclose(answers.exp(), expected, atol=1e-3)
    assert answers.dtype == torch.float32
    with pytest.raises(HfCmimError, match="at least one sample"):
        pipeline_answers(classifier, [])


def test_a_pipeline_is_fitted_saved_and_served(pipelines, tmp_path):
    """Catches parts that do not fit together: the whole way of a service."""
    classifier, samples = pipelines["image-classification"], SAMPLES["image-classification"]
    labels = torch.arange(len(samples)) % tiny.NUM_LABELS
    ClassAnswers.fit(pipeline_answers(classifier, samples), labels).save(tmp_path / "answers.safetensors")
    service = guard(classifier, ClassAnswers.load(tmp_path / "answers.safetensors"))
    tops = [row[0]["label"] for row in classifier(samples)]
    assert [row[0]["label"] for row in service(samples)] == tops


# What is refused


def test_token_classification_is_refused_with_the_reason(tmp_path):
    """Catches words whose score is a mean over pieces: it tells more than the word's label."""
    tokens = pipeline("token-classification", tiny.token_bert().eval(), tokenizer=tokenizer(tmp_path))
    with pytest.raises(HfCmimError, match=r"merges the scores of a word's pieces.*label of each word"):
        guard(tokens, Argmax())


def test_other_pipelines_are_refused(pipelines, tmp_path):
    """Catches a pipeline whose scores come from elsewhere than from logits."""
    model = tiny.bert().base_model.eval()
    features = pipeline("feature-extraction", model, tokenizer=tokenizer(tmp_path))
    with pytest.raises(HfCmimError, match="got feature-extraction: where its scores come from"):
        guard(features, Argmax())
    with pytest.raises(HfCmimError, match="got function"):
        guard(lambda inputs: inputs, Argmax())
    with pytest.raises(HfCmimError, match="Expected a channel, got function"):
        guard(pipelines["text-classification"], lambda log_probs: log_probs)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_labels": 1}, "num_labels=1"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"problem_type": "regression"}, "regression"),
    ],
)
def test_heads_without_one_label_are_refused(settings, named, tmp_path):
    """Catches sigmoids and numbers that are read as a distribution."""
    classifier = pipeline("text-classification", tiny.bert(**settings).eval(), tokenizer=tokenizer(tmp_path))
    with pytest.raises(HfCmimError, match=named):
        guard(classifier, Argmax())


def test_a_table_for_other_classes_is_refused_at_once(pipelines):
    """Catches a mismatch that shows only at the first request."""
    with pytest.raises(HfCmimError, match=r"2 classes.*got 4"):
        guard(pipelines["text-classification"], ClassAnswers(torch.eye(2)))

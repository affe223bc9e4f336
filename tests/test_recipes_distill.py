"""recipes/distill.py as users start it: small data and teachers made here, no network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Value
from safetensors.torch import load_file, save_file
from test_recipes import BIN, COLOURS, ROOT, load_recipe, picture, results_of, start
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

from hf_cmim import ClassAnswers, DataArguments, HfCmimError
from hf_cmim.attacks import ATTACKS
from hf_cmim.data.prepared import batch_of_rows
from hf_cmim.teachers import ModelTeacher

pytestmark = pytest.mark.slow

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NAMES = {"id2label": dict(enumerate(COLOURS)), "label2id": {name: number for number, name in enumerate(COLOURS)}}
SMALL = [
    "--smoke",
    "--seed",
    "3",
    "--disable_tqdm",
    "true",
    "--use_cpu",
    "--dataloader_pin_memory",
    "false",
    "--report_to",
    "none",
]


@pytest.fixture(scope="module")
def distill():
    return load_recipe("distill")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """One offline machine with an empty cache, as far as the recipe can see."""
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path_factory.mktemp("hf_home"))}
    return ours | {"PYTHONPATH": str(ROOT), "COVERAGE_PROCESS_START": "", "PATH": str(BIN)}


def write_data(folder: Path, kind: str, train_shift: int = 0) -> Path:
    """70 training rows, whose labels may be shifted by some classes, and 43 test rows."""
    generator = np.random.default_rng(0)
    words = np.array(["the", "a", "of", "sun", "sea", "tree", "light", "dark", "old"])
    feature = Image() if kind == "image" else Value("string")
    features = Features({kind: feature, "label": ClassLabel(names=list(COLOURS))})
    folder.mkdir(exist_ok=True)
    for split, size, shift in (("train", 70, train_shift), ("test", 43, 0)):
        labels = generator.integers(0, 3, size).tolist()
        texts = [" ".join([*generator.choice(words, generator.integers(2, 9)), COLOURS[each]]) for each in labels]
        values = [picture(each, generator) for each in labels] if kind == "image" else texts
        rows = {kind: values, "label": [(each + shift) % 3 for each in labels]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {kind: write_data(folder / kind, kind) for kind in ("image", "text")}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """Untrained classifiers with a loud head: what they answer differs from sample to sample, which is all we need."""
    tokenizer = load_recipe("text_classification").train_tokenizer(["the sun of a sea", "red green blue tree"], 300)
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    set_seed(0)
    models = {
        "image": ViTForImageClassification(ViTConfig(**SHAPE, image_size=12, patch_size=4, **NAMES)),
        "text": BertForSequenceClassification(
            BertConfig(**SHAPE, vocab_size=len(tokenizer), max_position_embeddings=12, pad_token_id=0, **NAMES)
        ),
    }
    folders = {}
    for kind, model in models.items():
        torch.nn.init.normal_(model.classifier.weight, std=3.0)
        folders[kind] = tmp_path_factory.mktemp("teacher") / kind
        model.save_pretrained(folders[kind])
        (processor if kind == "image" else tokenizer).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def students(tmp_path_factory) -> dict[str, Path]:
    """Configurations of students by kind; "small image" has an image processor of its own, for 8 pixels."""
    folder = tmp_path_factory.mktemp("students")
    paths = {}
    for kind, settings in (("image", {"model_type": "vit", "patch_size": 4}), ("text", {"model_type": "bert"})):
        paths[kind] = folder / f"{kind}.json"
        paths[kind].write_text(json.dumps(settings | SHAPE))
    paths["small image"] = folder / "small"
    ViTConfig(**SHAPE, image_size=8, patch_size=4).save_pretrained(paths["small image"])
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(paths["small image"])
    return paths


def reordered(folder: Path, target: Path, order: list[int]) -> Path:
    """The same classifier with its classes in another order."""
    target.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: tensors[name][order].clone() for name in ("classifier.weight", "classifier.bias")}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    names = [config["id2label"][str(number)] for number in order]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture
def run(distill, data, students, monkeypatch, tmp_path):
    """Run the recipe in this process, by default with a new small student, and return its results."""

    def main(*words, folder=tmp_path / "student"):
        flags = [*words, "--output_dir", folder, *SMALL]
        if not {"--student_name_or_path", "--student_config"} & set(flags):
            flags += ["--student_config", students["text" if data["text"] in words else "image"]]
        monkeypatch.setattr(sys, "argv", ["distill.py", *map(str, flags)])
        distill.main()
        return json.loads((folder / "results.json").read_text())

    return main


def reloaded_log_probs(kind: str, folder: Path, rows: Dataset) -> torch.Tensor:
    """Log-probabilities by plain transformers classes, in the order of COLOURS."""
    if kind == "image":
        model, processor = (
            AutoModelForImageClassification.from_pretrained(folder),
            AutoImageProcessor.from_pretrained(folder),
        )
        inputs = processor(list(rows["image"]), return_tensors="pt")
    else:
        model, processor = (
            AutoModelForSequenceClassification.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        inputs = processor(list(rows["text"]), return_tensors="pt", padding=True, truncation=True, max_length=12)
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    return logits[:, [model.config.label2id[name] for name in COLOURS]].log_softmax(dim=-1)


# What the report says


@pytest.mark.parametrize(
    ("kind", "flags", "attack"),
    [
        ("image", ["--attack", "kd"], "Composition(KD(temperature=4.0, ce_weight=0.1, "),
        (
            "text",
            ["--attack", 'dkd:{"beta":2.0,"temperature":{"relative":1.5}}', "averager"],
            "Composition(DKD(temperature=Relative(factor=1.5), alpha=1.0, beta=2.0, ",
        ),
    ],
)
def test_report_is_about_the_saved_student_and_its_teacher(
    kind, flags, attack, data, teachers, students, environment, tmp_path
):
    """A student saved otherwise than measured, a teacher that sees the student's view, or another attack than named.

    The image student sees 8 pixels where its teacher sees 12, with another normalisation.
    """
    flags = ["--teacher", teachers[kind], "--dataset_name", data[kind], "--output_dir", tmp_path, *flags, *SMALL]
    flags += ["--student_config", students["text" if kind == "text" else "small image"]]
    process = start(environment, "distill", *flags)
    results = results_of(process, tmp_path)
    rows = Dataset.from_parquet(str(data[kind] / "test.parquet"))
    student, teacher = (reloaded_log_probs(kind, folder, rows) for folder in (tmp_path, teachers[kind]))
    right = student.argmax(dim=-1) == torch.tensor(rows["label"])
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1).mean().item()
    assert divergence > 0.05  # else any student would do
    test = results["test"]
    assert test["test_accuracy"] == pytest.approx(right.double().mean().item())
    assert test["test_teacher_kl"] == pytest.approx(divergence, abs=1e-5)
    same = student.argmax(dim=-1) == teacher.argmax(dim=-1)
    assert test["test_agreement"] == pytest.approx(same.double().mean().item())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.get("image_size") == (None if kind == "text" else 8)
    assert results["attack"].startswith(attack)
    assert ("Averager(" in results["attack"]) == (kind == "text")
    assert results["teacher"]["fingerprint"] == ModelTeacher(teachers[kind]).fingerprint()
    assert results["teacher"]["name_or_path"] == str(teachers[kind])
    assert (results["seed"], results["n"], results["num_processes"]) == (3, {"train": 63, "test": 43}, 1)
    # A survey and two epochs of 63 answers are paid; 7 validation samples twice and 43 test samples are asked as well.
    paid = {"image": 2 * 63, "text": 3 * 63}[kind]
    assert (results["queries"]["paid"], results["queries"]["asked"]) == (paid, paid + 2 * 7 + 43)
    assert {"hf_cmim", "torch", "transformers", "datasets"} <= set(results["versions"])
    assert results["device"]
    assert results["date"]
    assert f"queries paid              {paid}" in process.stdout
    assert f"test agreement            {test['test_agreement']:.4f}" in process.stdout


def test_two_processes_attack_together(data, teachers, students, environment, tmp_path):
    """Workers that each train their own student would report a world of 1, or each pay for all answers."""
    launcher = [BIN / "torchrun", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    flags = ["--teacher", teachers["text"], "--dataset_name", data["text"], "--output_dir", tmp_path / "two", *SMALL]
    flags += ["--cache_folder", tmp_path / "answers", "--student_config", students["text"]]
    results = results_of(start(environment, "distill", *flags, launcher=launcher), tmp_path / "two")
    assert results["num_processes"] == 2
    assert results["queries"]["paid"] == 63
    assert results["queries"]["asked"] == 63 + 63  # one batch, looked at twice, and by one process alone
    assert results["train"]["epoch"] == 4  # 4 steps of 2 x 32 samples
    student, teacher = (
        reloaded_log_probs("text", folder, Dataset.from_parquet(str(data["text"] / "test.parquet")))
        for folder in (tmp_path / "two", teachers["text"])
    )
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1).mean().item()
    assert results["test"]["test_teacher_kl"] == pytest.approx(divergence, abs=1e-5)


# What is asked


def test_answers_are_asked_once_and_kept(run, data, teachers, students, tmp_path):
    """A cache that is ignored, asked again, or asked about the student's view; a report about the table it makes."""
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"], "--per_device_eval_batch_size", "16"]
    flags += ["--student_config", students["small image"]]
    live = run(*flags, folder=tmp_path / "live")
    cached = [*flags, "--cache_folder", tmp_path / "answers"]
    first, second = (run(*cached, folder=tmp_path / name) for name in ("first", "second"))
    assert first["queries"]["paid"] == 63
    assert first["queries"]["asked"] == 63 + 2 * 16  # two batches looked at twice; the test set is another account
    assert second["queries"]["paid"] == 63
    assert second["queries"]["asked"] == 0
    for results in (first, second):
        assert results["test"]["test_teacher_kl"] == pytest.approx(live["test"]["test_teacher_kl"], abs=1e-6)
        assert results["teacher"]["fingerprint"] == live["teacher"]["fingerprint"]
    with pytest.raises(ValueError, match="another output channel"):
        run(*cached, "--channel", 'rounded:{"decimals": 2}', folder=tmp_path / "other")


def test_budget_stops_a_cache_before_anything_is_asked(run, data, teachers, tmp_path):
    """Half of the answers would be paid for, and the run refused then."""
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"], "--query_budget", "40"]
    with pytest.raises(ValueError, match="Expected a budget that covers 63 queries"):
        run(*flags, "--cache_folder", tmp_path / "answers")
    assert not (tmp_path / "answers").exists()
    results = run(*flags, "--cache_folder", tmp_path / "answers", "--transfer_fraction", "0.5")
    assert results["queries"]["paid"] == results["n"]["train"] == 32
    assert results["queries"]["samples"] == [[0, 31]]


def test_unlabelled_student_never_sees_a_label(run, data, teachers, tmp_path):
    """True labels that reach the loss by another way would make another student of wrong ones."""
    wrong = write_data(tmp_path / "wrong", "image", train_shift=1)
    losses = {}
    for name, folder in (("right", data["image"]), ("wrong", wrong)):
        for mode in ([], ["--unlabelled"]):
            flags = ["--teacher", teachers["image"], "--dataset_name", folder, "--attack", "dkd", *mode]
            losses[name, bool(mode)] = run(*flags, folder=tmp_path / f"{name}{len(mode)}")["test"]["test_loss"]
    assert losses["right", True] == losses["wrong", True]
    assert losses["right", False] != losses["wrong", False]  # the labels do matter where they are seen


@pytest.mark.parametrize("kind", ["image", "text"])
def test_order_of_the_teachers_classes_does_not_matter(kind, run, data, teachers, tmp_path):
    """Answers taken by their position would teach the wrong classes."""
    other = reordered(teachers[kind], tmp_path / "reordered", [2, 0, 1])
    flags = ["--dataset_name", data[kind]]
    first = run(*flags, "--teacher", teachers[kind], folder=tmp_path / "first")
    second = run(*flags, "--teacher", other, folder=tmp_path / "second")
    assert first["test"]["test_teacher_kl"] == pytest.approx(second["test"]["test_teacher_kl"], abs=1e-6)
    assert first["test"]["test_loss"] == pytest.approx(second["test"]["test_loss"], abs=1e-6)


def test_other_class_names_are_refused_before_anything_is_asked(run, data, teachers, tmp_path):
    """Classes would be paired by chance, after the answers were paid for."""
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"], "--cache_folder", tmp_path / "answers"]
    with pytest.raises(ValueError, match="Only the teacher has 'cyan'"):
        run(*flags, "--class_names", "red", "green", "cyan")
    assert not (tmp_path / "answers").exists()


def test_channel_stands_between_teacher_and_student(run, data, teachers):
    """A channel that were built and not used would leave answers as they are."""
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"], "--attack", "label-only"]
    results = run(*flags, "--channel", 'top-k:{"k": 1}')
    assert results["teacher"]["channel"] == "TopK(k=1, renormalized=False)"
    assert results["teacher"]["hides_classes"] is True
    with pytest.raises(ValueError, match="hides some"):
        run(*flags[:-1], "dkd", "--channel", "argmax")


def test_class_answers_are_fitted_as_by_the_audit(run, data, teachers):
    """Class answers fitted to nothing, or with classes in another order, would be another channel."""
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"], "--attack", "kd"]
    results = run(*flags, "--channel", "class-answers")
    teacher = ModelTeacher(teachers["image"])
    rows = DataArguments(dataset_name=str(data["image"]), smoke=True).open("image").validation
    inputs = AutoImageProcessor.from_pretrained(teachers["image"])(list(rows["image"]), return_tensors="pt")
    expected = ModelTeacher(
        teacher.model, channel=ClassAnswers.fit(teacher(dict(inputs)), torch.tensor(rows["label"]))
    )
    assert results["teacher"]["fingerprint"] == expected.fingerprint()
    assert results["teacher"]["channel"].startswith("ClassAnswers")


# The student


def test_checkpoint_goes_on_where_it_was(run, data, teachers, tmp_path):
    """A student begun anew, a head read in another order, or its view taken for another than the teacher's.

    Shifted views are refused where the two see different inputs; here both prepare images alike.
    """
    flags = ["--teacher", teachers["image"], "--dataset_name", data["image"]]
    before = run(*flags, folder=tmp_path / "before")
    other = reordered(tmp_path / "before", tmp_path / "reordered", [1, 2, 0])
    flags += ["--learning_rate", "0", "--attack", "kd", "shifted-views"]
    for student in (tmp_path / "before", other):
        after = run(*flags, "--student_name_or_path", student, folder=tmp_path / f"after_{student.name}")
        for name in ("test_loss", "test_accuracy", "test_teacher_kl"):
            assert after["test"][name] == pytest.approx(before["test"][name], abs=1e-6)
    assert after["queries"]["paid"] == 4 * 63


def test_student_with_a_tokenizer_of_its_own_is_asked_in_its_own_tokens(run, data, teachers, tmp_path):
    """Tokens of the student would mean other words to the teacher."""
    texts = ["blue light on the old tree", "dark sea, green sun, red"]
    tokenizer = load_recipe("text_classification").train_tokenizer(texts, 290)
    set_seed(1)
    shape = SHAPE | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    BertForSequenceClassification(BertConfig(**shape, **NAMES)).save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    rows = Dataset.from_parquet(str(data["text"] / "test.parquet"))
    assert (
        tokenizer(list(rows["text"]))["input_ids"]
        != (AutoTokenizer.from_pretrained(teachers["text"])(list(rows["text"]))["input_ids"])
    )
    flags = ["--teacher", teachers["text"], "--dataset_name", data["text"], "--max_length", "12"]
    results = run(*flags, "--student_name_or_path", tmp_path / "checkpoint")
    student, teacher = (reloaded_log_probs("text", each, rows) for each in (tmp_path / "student", teachers["text"]))
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1).mean().item()
    assert results["test"]["test_teacher_kl"] == pytest.approx(divergence, abs=1e-5)


def test_arm_without_a_teacher_runs_from_a_checkpoint(run, data, teachers):
    """An arm to compare with would need a teacher that it never asks."""
    flags = ["--dataset_name", data["text"], "--attack", "label-smoothing", "--student_name_or_path", teachers["text"]]
    results = run(*flags)
    assert results["teacher"] is None
    assert results["queries"]["paid"] == results["queries"]["asked"] == 0
    assert "test_agreement" not in results["test"]


@pytest.mark.parametrize("extra", [[], ["--cache_folder"]])
def test_resumed_run_equals_the_uninterrupted_one(extra, run, data, teachers, tmp_path):
    """A survey, an account or a cache that began anew in the middle would train another student, or pay twice."""
    extra = [*extra, *[tmp_path / "answers"] * len(extra)]
    flags = ["--teacher", teachers["text"], "--dataset_name", data["text"], "--attack", "kd", "averager", *extra]
    flags += ["--save_total_limit", "2"]
    straight = run(*flags, folder=tmp_path / "straight")
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    resumed = run(*flags, "--resume_from_checkpoint", checkpoint, folder=tmp_path / "resumed")
    names = ("test_loss", "test_accuracy", "test_agreement", "test_teacher_kl")
    assert {name: resumed["test"][name] for name in names} == {name: straight["test"][name] for name in names}
    assert resumed["queries"]["paid"] == straight["queries"]["paid"]
    assert not (tmp_path / "resumed" / "checkpoint-2").exists()  # it did not train from the start


# Arguments


def test_attacks_are_listed(environment):
    """A part that is missing from the list would not be found; nothing else may be needed to see it."""
    process = start(environment, "distill", "--list-attacks")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(ATTACKS)
    entry = lines[2 * list(ATTACKS).index("kd") :][:2]
    assert "Knowledge distillation" in entry[0]
    assert entry[1].strip() == "temperature=4.0, ce_weight=0.1, kd_weight=0.9"


REFUSALS = [
    (["--attack", "averagr"], r"Unknown --attack 'averagr'.*Did you mean averager"),
    (["--attack", 'kd:{"heat": 2}'], r"unexpected keyword argument 'heat'"),
    (["--attack", 'kd:{"heat": 2}'], r"settings .*temperature: .*ce_weight"),
    (["--attack", "kd:{temperature:2}"], r"in single quotes"),
    (["--attack", 'kd:{"temperature": -1}'], r"Expected a temperature above 0"),
    (["--attack", 'kd:{"temperature": {"relative": 0}}'], r"Expected a factor above 0"),
    (["--attack", "kd:[2]"], r"--attack 'kd:\[2\]' has settings that cannot be used"),
    (["--attack", "kd"], r"Give --teacher"),
    (["--attack", "label-smoothing"], r"Give --teacher.*--student_name_or_path"),
    (["--attack", "cross-entropy", "--student_name_or_path", "s", "--unlabelled"], r"with true labels"),
    (["--attack", "cross-entropy", "--teacher", "t", "--unlabelled"], r"with true labels"),
    (["--attack", "cross-entropy", "--student_name_or_path", "s", "--cache_folder", "c"], r"Give --teacher"),
    (["--teacher", "t", "--attack", "kd", "mixup-queries", "--cache_folder", "c"], r"--cache_folder.*MixupQueries"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSALS)
def test_what_cannot_run_is_refused_with_a_hint(flags, message, distill):
    """Another attack than was meant would run, or the refusal would come after answers were paid for."""
    with pytest.raises(HfCmimError, match=message):
        distill.parse_arguments(flags)


def test_two_losses_are_refused(distill):
    """One of them would be dropped in silence."""
    with pytest.raises(ValueError, match="Expected at most one Attack"):
        distill.parse_arguments(["--teacher", "t", "--attack", "kd", "dkd"])


def test_unknown_channel_is_refused(run, data, teachers):
    """A misspelt channel would leave the answers as they are."""
    with pytest.raises(HfCmimError, match=r"Unknown channel 'topk'.*Did you mean top-k"):
        run("--teacher", teachers["image"], "--dataset_name", data["image"], "--channel", 'topk:{"k": 2}')


def test_settings_reach_parts_inside_parts(distill):
    """A nested attack, channel or relative temperature would stay text, and fail far from here or not at all."""
    words = ['logit-standardization:{"base": {"mlkd": {"temperatures": [1.5, 2.0]}}}']
    words += ['partial-bayes:{"perturbation": {"reverse-sigmoid": {"beta": 0.5}}}']
    *_, attack = distill.parse_arguments(["--teacher", "t", "--attack", *words])
    assert "LogitStandardization(base=MLKD(temperatures=(1.5, 2.0), " in repr(attack)
    within = 'mlkd:{"temperatures": [1.5, {"relative": 2.0}]}'
    *_, relative = distill.parse_arguments(["--teacher", "t", "--attack", within])
    assert "MLKD(temperatures=(1.5, Relative(factor=2.0)), " in repr(relative)
    assert "PartialBayes(perturbation=ReverseSigmoid(beta=0.5, gamma=0.2), " in repr(attack)


def test_config_parses_and_flags_override_it(distill, tmp_path):
    """A file that won over flags, or an attack in it that were read letter by letter, would be another experiment."""
    path = ROOT / "recipes/configs/distill_fashion_mnist.yaml"
    _, recipe, args, attack = distill.parse_arguments([str(path)])
    assert (recipe.teacher, args.learning_rate) == ("outputs/fashion_mnist", 2e-3)
    assert repr(attack).startswith("Composition(KD(")
    *_, args, attack = distill.parse_arguments([str(path), "--attack", 'dkd:{"beta": 3.0}', "dot", "--seed", "5"])
    assert "beta=3.0" in repr(attack)
    assert "DOT(" in repr(attack)
    assert args.seed == 5
    parts = {"attack": ['nkd:{"gamma": 2.5}', "markov-kd"], "teacher": "t"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(parts))
    *_, attack = distill.parse_arguments([str(tmp_path / "run.yaml")])
    assert "gamma=2.5" in repr(attack)
    assert "MarkovKD(" in repr(attack)
    (tmp_path / "run.yaml").write_text("attacks_of_mine: kd\n")
    with pytest.raises(HfCmimError, match="attacks_of_mine"):
        distill.parse_arguments([str(tmp_path / "run.yaml")])


def test_checkpoint_is_not_trained_at_the_rate_of_a_new_student(distill):
    """A rate that suits random weights would destroy pretrained ones; one that was asked for must stand."""
    flags = ["--teacher", "t"]
    checkpoint = [*flags, "--student_name_or_path", "some/checkpoint"]
    assert distill.parse_arguments(flags)[-2].learning_rate == distill.DEFAULTS["learning_rate"]
    assert distill.parse_arguments(checkpoint)[-2].learning_rate == distill.FINE_TUNING["learning_rate"]
    assert distill.parse_arguments([*checkpoint, "--learning_rate", "0.5"])[-2].learning_rate == 0.5


# Data


def test_single_file_is_split_in_three_disjoint_and_fixed_parts(tmp_path):
    """A test share that overlapped training, or moved with the seed, would flatter the student."""
    rows = Dataset.from_dict({"text": [f"text {number}" for number in range(100)], "label": [0, 1] * 50})
    rows.to_json(tmp_path / "all.jsonl")
    source = DataArguments(dataset_name=str(tmp_path / "all.jsonl"), max_eval_samples=7)
    opened = [source.open("text") for _ in range(2)]
    first, second = ([list(part["text"]) for part in (rows.train, rows.validation, rows.test)] for rows in opened)
    assert first == second
    assert list(map(len, first)) == [81, 7, 7]
    assert len({text for texts in first for text in texts}) == 81 + 7 + 7


def test_texts_are_cut_to_what_the_teacher_can_read(distill, data, teachers):
    """A longer text than the teacher has positions for would stop the run at some batch."""
    recipe = distill.RecipeArguments(teacher=str(teachers["text"]), max_length=100)
    opened = DataArguments(dataset_name=str(data["text"])).open("text")
    _, view = distill.open_teacher(recipe, opened, "text", "cpu")
    rows = [{"text": "the sun " * 50, "label": 0}, {"text": "sea", "label": 2}]
    batch = batch_of_rows(rows, ("text", "label"), {0: 1, 2: 0}, view)
    assert batch["input_ids"].shape == (2, 12)
    assert batch["labels"].tolist() == [1, 0]

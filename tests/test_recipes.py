"""The recipes as users start them: real launchers, small data made here, no network."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from hanging import HANGING
from PIL import Image as PILImage
from torch.nn.functional import cross_entropy
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from hf_cmim import DataArguments, HfCmimError
from hf_cmim.data import arguments
from hf_cmim.data.prepared import prepared_when_read

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COLOURS = ("red", "green", "blue")
RECIPES = ("vit_cifar", "text_classification")
# A model so small that starting Python takes longer than training it; the checkpoint of step 2 ends the first epoch.
SMALL = ["--hidden_size", "16", "--num_hidden_layers", "2", "--num_attention_heads", "2", "--disable_tqdm", "true"]
SMALL += ["--smoke", "--save_total_limit", "2", "--seed", "3"]
OWN = {
    "vit_cifar": ["--image_size", "12", "--patch_size", "4"],
    "text_classification": ["--vocabulary_size", "300", "--max_length", "16"],
}


def load_recipe(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vit_cifar():
    return load_recipe("vit_cifar")


@pytest.fixture(scope="module")
def text_classification():
    return load_recipe("text_classification")


def picture(label: int, generator: np.random.Generator) -> PILImage.Image:
    pixels = generator.integers(0, 120, size=(12, 12, 3), dtype=np.uint8)
    pixels[..., label] += 120
    return PILImage.fromarray(pixels)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A data set folder for each recipe: train.parquet with 70 rows and test.parquet with 43."""
    generator = np.random.default_rng(0)
    words = np.array(["the", "a", "of", "sun", "sea", "tree", "red", "green", "blue", "light", "dark", "old"])
    made = {}
    for name in RECIPES:
        made[name] = tmp_path_factory.mktemp(name)
        for split, size in (("train", 70), ("test", 43)):
            labels = generator.integers(0, 3, size).tolist()
            images = [picture(label, generator) for label in labels]
            texts = [" ".join([*generator.choice(words, generator.integers(2, 9)), COLOURS[each]]) for each in labels]
            column, values, feature = (
                ("image", images, Image()) if name == "vit_cifar" else ("text", texts, Value("string"))
            )
            features = Features({column: feature, "label": ClassLabel(names=list(COLOURS))})
            rows = Dataset.from_dict({column: values, "label": labels}, features=features)
            rows.to_parquet(made[name] / f"{split}.parquet")
    return made


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """One offline machine with an empty cache, as far as the recipes can see."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path_factory.mktemp("hf_home"))}
    return kept | ours | {"PYTHONPATH": str(ROOT), "COVERAGE_PROCESS_START": ""}


def start(environment, recipe, *flags, launcher=(sys.executable,)):
    command = [*launcher, ROOT / "recipes" / f"{recipe}.py", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(list(map(str, command)), env=environment, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=HANGING)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # workers outlive a launcher that is killed alone
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def results_of(process, folder: Path) -> dict:
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def smoke_runs(folders, environment, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Each recipe run once, with the folder it wrote and its results."""
    done = {}
    for name in RECIPES:
        folder = tmp_path_factory.mktemp("smoke") / name
        process = start(environment, name, "--dataset_name", folders[name], "--output_dir", folder, *SMALL, *OWN[name])
        done[name] = folder, results_of(process, folder)
    return done


def reloaded_log_probs(name: str, folder: Path, rows: Dataset) -> torch.Tensor:
    """Log-probabilities by plain transformers classes, as someone who downloads the model would compute them."""
    if name == "vit_cifar":
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
        inputs = processor(list(rows["text"]), return_tensors="pt", padding=True, truncation=True, max_length=16)
    with torch.no_grad():
        return model.eval()(**inputs).logits.log_softmax(dim=-1)


# One process


@pytest.mark.parametrize("name", RECIPES)
def test_saved_model_is_the_one_that_was_measured(name, smoke_runs, folders):
    """A recipe that saves another model than it tested, or prepares inputs otherwise than its saved processor does."""
    folder, results = smoke_runs[name]
    rows = Dataset.from_parquet(str(folders[name] / "test.parquet"))
    log_probs = reloaded_log_probs(name, folder, rows)
    labels = torch.tensor(rows["label"])
    assert results["test"]["test_nll"] == pytest.approx(cross_entropy(log_probs, labels).item(), abs=1e-5)
    assert results["test"]["test_accuracy"] == pytest.approx(
        (log_probs.argmax(dim=-1) == labels).float().mean().item()
    )
    names = json.loads((folder / "config.json").read_text())["id2label"]
    assert [names[str(number)] for number in range(3)] == list(COLOURS)


@pytest.mark.parametrize("name", RECIPES)
def test_results_say_what_was_run(name, smoke_runs):
    """A report without the number of samples, the seed, the versions or the device could not be compared with any."""
    folder, results = smoke_runs[name]
    assert results["n"] == {"train": 63, "validation": 7, "test": 43}
    assert (results["objective"], results["seed"], results["num_processes"]) == ("cmim", 3, 1)
    assert results["measurement"]["num_samples"] == 43
    assert {"torch", "transformers", "datasets"} <= set(results["versions"])
    assert results["device"]
    assert results["date"]
    assert results["train"]["epoch"] == 2  # 4 steps of 32 samples, or the 31 that are left
    assert (folder / "cmi_curve.png").stat().st_size > 1000


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_run_equals_the_uninterrupted_one(name, smoke_runs, folders, environment, tmp_path):
    """A tokenizer or an augmentation that comes out otherwise the second time would train another model.

    From the end of an epoch, where recipes save: inside one, a batch that was fetched ahead is augmented anew.
    """
    folder, straight = smoke_runs[name]
    flags = ["--output_dir", tmp_path / "resumed", "--resume_from_checkpoint", folder / "checkpoint-2"]
    process = start(environment, name, "--dataset_name", folders[name], *SMALL, *OWN[name], *flags)
    resumed = results_of(process, tmp_path / "resumed")
    assert resumed["measurement"] == straight["measurement"]
    assert not (tmp_path / "resumed" / "checkpoint-2").exists()  # it did not train from the start


def test_checkpoint_is_hardened_further_with_its_own_processor(smoke_runs, folders, environment, tmp_path):
    """A recipe that builds a new model, or new image statistics, although a checkpoint was named."""
    trained, before = smoke_runs["vit_cifar"]
    flags = [
        "--dataset_name",
        folders["vit_cifar"],
        "--model_name_or_path",
        trained,
        "--output_dir",
        tmp_path / "more",
    ]
    # Training with rate 0 changes no weight; the flags' shape must be ignored in favour of the checkpoint's.
    process = start(environment, "vit_cifar", *flags, "--smoke", "--learning_rate", "0", "--objective", "ls")
    after = results_of(process, tmp_path / "more")
    assert after["test"]["test_nll"] == pytest.approx(before["test"]["test_nll"], abs=1e-6)
    assert after["objective"] == "ls"


# Several processes


def test_two_processes_work_together(folders, environment, tmp_path):
    """Workers that each train their own model would report a world of 1."""
    launcher = [BIN / "torchrun", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    flags = ["--dataset_name", folders["text_classification"], "--output_dir", tmp_path / "two", "--use_cpu"]
    process = start(environment, "text_classification", *flags, *SMALL, *OWN["text_classification"], launcher=launcher)
    results = results_of(process, tmp_path / "two")
    assert results["num_processes"] == 2
    assert results["measurement"]["num_samples"] == 43  # 22 + 21: the sample repeated to fill a batch is not counted
    assert results["train"]["epoch"] == 4  # 4 steps of 2 x 32 samples


ACCELERATE_CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_processes: 2
num_machines: 1
mixed_precision: 'no'
"""


@pytest.mark.parametrize("launcher", ["accelerate flags", "accelerate config file", "torchrun without --use_cpu"])
def test_launch_that_would_train_otherwise_than_asked_is_refused(launcher, environment, tmp_path):
    """One process instead of two, or two that overwrite each other, would go unnoticed."""
    (tmp_path / "config.yaml").write_text(ACCELERATE_CONFIG)
    commands = {
        "accelerate flags": [BIN / "accelerate", "launch", "--cpu", "--num_processes", "2"],
        "accelerate config file": [BIN / "accelerate", "launch", "--config_file", tmp_path / "config.yaml"],
        "torchrun without --use_cpu": [
            BIN / "torchrun", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        ],
    }  # fmt: skip
    environment = environment | {"CUDA_VISIBLE_DEVICES": ""}  # with GPUs the third launch is the right one
    process = start(environment, "vit_cifar", "--output_dir", tmp_path / "never", launcher=commands[launcher])
    assert process.returncode != 0
    assert "Expected 2 processes" in process.stderr
    assert "torchrun --nproc_per_node N script.py --use_cpu" in process.stderr
    assert not (tmp_path / "never").exists()


# The Hub


@pytest.mark.parametrize("name", RECIPES)
def test_unreachable_hub_stops_the_recipe_at_once(name, environment, tmp_path):
    """The Hub's clients try again for 24 to 70 seconds, and then do not say how to go on without it."""
    online = {key: value for key, value in environment.items() if key != "HF_HUB_OFFLINE"}
    began = time.perf_counter()
    start(environment, name, "--help")
    imports = time.perf_counter() - began
    process = start(online | {"HF_ENDPOINT": "http://127.0.0.1:9"}, name, "--output_dir", tmp_path / "never")
    assert time.perf_counter() - began - imports < imports + 10
    assert process.returncode != 0
    assert "cannot be reached" in process.stderr
    assert "HF_HUB_OFFLINE=1" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "never").exists()


def test_local_data_need_no_hub(folders, monkeypatch):
    """A probe that came before looking at the disk would stop every run without a network."""
    monkeypatch.setattr(arguments.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(arguments.socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    assert len(DataArguments(dataset_name=str(folders["vit_cifar"])).open("image").test) == 43


# Arguments


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vit_cifar", "cifar100"),
        ("vit_cifar", "fashion_mnist"),
        ("text_classification", "wordnet_offline"),
        ("text_classification", "text_pretrained"),
    ],
)
def test_every_config_parses(name, config, request):
    """A key that was renamed in the code would be found by the user."""
    recipe_module = request.getfixturevalue(name)
    _, objective, _, args = recipe_module.parse_arguments([str(ROOT / "recipes" / "configs" / f"{config}.yaml")])
    assert objective.objective == "cmim"
    assert isinstance(args.learning_rate, float)
    assert {path.stem for path in (ROOT / "recipes/configs").iterdir()} == {
        "cifar100", "fashion_mnist", "wordnet_offline", "text_pretrained",
        "audit_fashion_mnist",  # test_recipes_audit.py
        "distill_fashion_mnist",  # test_recipes_distill.py
        "student_image", "student_text", "student_fashion_mnist",
        "compare_defences", "compare_defences_audit",  # test_recipes_compare.py
        "demo", "demo_model",  # test_demo.py
    }  # fmt: skip


def test_default_run_is_the_cifar100_config(vit_cifar):
    """The file that users copy would drift from what the recipe does without arguments."""
    *plain, plain_args = vit_cifar.parse_arguments([])
    *recipe, args = vit_cifar.parse_arguments([str(ROOT / "recipes/configs/cifar100.yaml")])
    assert recipe == plain
    assert recipe[0].label_column == "fine_label"
    assert args.to_dict() == plain_args.to_dict()


def test_flags_override_the_file_which_overrides_the_defaults(vit_cifar, tmp_path):
    """A file that won over flags, or was ignored beside them, would run another experiment than was typed."""
    (tmp_path / "run.yaml").write_text("learning_rate: 7e-4\nobjective: ls\nhidden_size: 48\naugment: crop\n")
    words = [str(tmp_path / "run.yaml"), "--hidden_size", "96", "--seed", "5"]
    _, objective, recipe, args = vit_cifar.parse_arguments(words)
    assert args.learning_rate == 7e-4  # YAML 1.1 reads 7e-4 as text
    assert (objective.objective, recipe.hidden_size, recipe.augment, args.seed) == ("ls", 96, "crop", 5)
    assert args.weight_decay == vit_cifar.DEFAULTS["weight_decay"]


def test_unknown_setting_in_a_file_is_refused(vit_cifar, tmp_path):
    """A misspelt key would be dropped in silence."""
    (tmp_path / "run.yaml").write_text("learning_rat: 0.1\n")
    with pytest.raises(HfCmimError, match="Unknown setting 'learning_rat'.*learning_rate"):
        vit_cifar.parse_arguments([str(tmp_path / "run.yaml")])


@pytest.mark.parametrize("name", RECIPES)
def test_checkpoint_is_not_trained_at_the_rate_of_a_new_model(name, request, tmp_path):
    """A rate that suits random weights would destroy pretrained ones; one that was asked for must stand."""
    parse_arguments = request.getfixturevalue(name).parse_arguments
    rate = request.getfixturevalue(name).FINE_TUNING["learning_rate"]
    (tmp_path / "run.yaml").write_text("model_name_or_path: some/checkpoint\n")
    assert parse_arguments([])[-1].learning_rate > 10 * rate
    assert parse_arguments(["--model_name_or_path", "some/checkpoint"])[-1].learning_rate == rate
    assert parse_arguments([str(tmp_path / "run.yaml")])[-1].learning_rate == rate
    assert parse_arguments([str(tmp_path / "run.yaml"), "--learning_rate", "0.5"])[-1].learning_rate == 0.5
    (tmp_path / "run.yaml").write_text("model_name_or_path: some/checkpoint\nlearning_rate: 0.25\n")
    assert parse_arguments([str(tmp_path / "run.yaml")])[-1].learning_rate == 0.25


@pytest.mark.parametrize(
    ("flags", "weight", "smoothing"),
    [
        (["--objective", "ce"], 0.0, 0.0),
        (["--objective", "ls"], 0.0, 0.1),
        (["--objective", "ls", "--label_smoothing_factor", "0.3"], 0.0, 0.3),
        (["--objective", "cmim", "--cmi_weight", "2"], 2.0, 0.0),
        (["--objective", "cmim", "--label_smoothing_factor", "0.2"], 1.0, 0.2),
    ],
)
@pytest.mark.parametrize("name", RECIPES)
def test_objective_sets_weight_and_smoothing(name, flags, weight, smoothing, request):
    """A baseline trained with the CMI's weight left on would be no baseline."""
    *_, args = request.getfixturevalue(name).parse_arguments(flags)
    assert (args.cmi_weight, args.label_smoothing_factor) == (weight, smoothing)


@pytest.mark.parametrize(
    "flags",
    [["--objective", "ce", "--label_smoothing_factor", "0.1"], ["--objective", "cmim", "--cmi_weight", "0"]],
)
@pytest.mark.parametrize("name", RECIPES)
def test_contradicting_objective_is_refused(name, flags, request):
    """Results would carry the name of another objective than was trained."""
    with pytest.raises(HfCmimError, match=f"--objective {flags[1]} with {flags[2]}"):
        request.getfixturevalue(name).parse_arguments(flags)


# Data


def test_columns_are_inferred_or_asked_for(vit_cifar, tmp_path, monkeypatch):
    """With two label columns the first would be trained on, whatever was meant."""
    labels = ClassLabel(names=list(COLOURS))
    features = Features({"img": Image(), "fine": labels, "coarse": labels})
    pictures = [picture(0, np.random.default_rng(0))] * 20
    rows = Dataset.from_dict({"img": pictures, "fine": [0, 1] * 10, "coarse": [2, 1] * 10}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    flags = ["vit_cifar.py", "--dataset_name", str(tmp_path), "--output_dir", str(tmp_path / "never"), "--use_cpu"]
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(HfCmimError, match=r"\['fine', 'coarse'\].*--label-column"):
        vit_cifar.main()
    monkeypatch.setattr(sys, "argv", [*flags, "--label_column", "middle"])
    with pytest.raises(HfCmimError, match=r"among \['img', 'fine', 'coarse'\], got middle"):
        vit_cifar.main()
    assert not (tmp_path / "never").exists()


def test_single_file_is_split_in_three_disjoint_and_fixed_parts(tmp_path):
    """A test share that overlapped training, or moved with the seed, would flatter the model."""
    rows = Dataset.from_dict({"text": [f"text {number}" for number in range(100)], "label": [0, 1] * 50})
    rows.to_parquet(tmp_path / "all.parquet")
    data = DataArguments(dataset_name=str(tmp_path / "all.parquet"), max_eval_samples=7)
    opened = [data.open("text") for _ in range(2)]
    texts = [[list(part["text"]) for part in (rows.train, rows.validation, rows.test)] for rows in opened]
    assert texts[0] == texts[1]
    assert list(map(len, texts[0])) == [81, 7, 7]
    every = [text for values in texts[0] for text in values]
    assert len(set(every)) == len(every)


def test_missing_split_is_named(folders):
    """A misspelt split would fall back on another one."""
    data = DataArguments(dataset_name=str(folders["text_classification"]), test_split="validate")
    with pytest.raises(HfCmimError, match=r"no split 'validate' for --test-split, only \['train', 'test'\]"):
        data.open("text")


def test_folder_of_grey_images_opens(vit_cifar, tmp_path):
    """Grey images would reach a model of three channels as one."""
    for split in ("train", "test"):
        for label in COLOURS:
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(4):
                PILImage.new("L", (9, 12), 60 * number).save(tmp_path / split / label / f"{number}.png")
    rows = DataArguments(dataset_name=str(tmp_path)).open("image")
    names = list(rows.classes.values())
    _, view = vit_cifar.build_model(vit_cifar.RecipeArguments(image_size=8), names)
    numbers, change = {0: 2, 1: 1, 2: 0}, partial(vit_cifar.augmented, flip=True)
    inputs = prepared_when_read(rows.test, ("image", "label"), numbers, view, change)[:5]
    assert torch.stack(inputs["pixel_values"]).shape == (5, 3, 8, 8)
    assert names == sorted(COLOURS)
    assert inputs["labels"] == [2 - label for label in rows.test[:5]["label"]]


@pytest.mark.parametrize("kind", ["strings", "numbers", "names"])
def test_texts_may_have_labels_of_any_kind(kind, tmp_path):
    """Labels stored as text would be refused, or numbered in another order than the names in the model."""
    names = ["red", "blue", "green"] * 20
    labels = {"strings": names, "numbers": [5, 7, 9] * 20, "names": [0, 1, 2] * 20}[kind]
    feature = {"strings": Value("string"), "numbers": Value("int64"), "names": ClassLabel(names=names[:3])}[kind]
    features = Features({"text": Value("string"), "label": feature})
    rows = {"text": [f"text {number}" for number in range(60)], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "all.parquet")
    opened = DataArguments(dataset_name=str(tmp_path / "all.parquet")).open("text")
    expected = {"strings": ["blue", "green", "red"], "numbers": ["5", "7", "9"], "names": names[:3]}[kind]
    assert list(opened.classes.values()) == expected
    for row in opened.test:
        position = int(row["text"].split()[1]) % 3
        assert opened.classes[row["label"]] == (["5", "7", "9"] if kind == "numbers" else names)[position]


def test_augmentation_is_drawn_by_torch_and_keeps_the_size(vit_cifar):
    """An augmentation that draws elsewhere would not resume; one that always or never mirrors is none."""
    image = picture(1, np.random.default_rng(0))
    torch.manual_seed(0)
    first = [np.asarray(vit_cifar.augmented(image, flip=True)) for _ in range(40)]
    torch.manual_seed(0)
    second = [np.asarray(vit_cifar.augmented(image, flip=True)) for _ in range(40)]
    assert np.array_equal(first, second)
    assert first[0].shape == (12, 12, 3)
    # The unshifted image and its mirror image both occur among many draws.
    torch.manual_seed(0)
    many = {vit_cifar.augmented(image, flip=True).tobytes() for _ in range(400)}
    pixels = np.asarray(image)
    assert {pixels.tobytes(), pixels[:, ::-1].tobytes()} <= many
    torch.manual_seed(0)
    assert pixels[:, ::-1].tobytes() not in {vit_cifar.augmented(image, flip=False).tobytes() for _ in range(400)}


def test_tokenizer_is_the_same_every_time(text_classification):
    """WordPiece's trainer breaks ties by the order of a hash map: two processes would disagree on the tokens."""
    texts = ["Wel come to the Tok en izers libr ary.", "another line of quite different words", "naïve façade 日本"]
    first, *others = (text_classification.train_tokenizer(texts, 320) for _ in range(12))
    assert all(each.get_vocab() == first.get_vocab() for each in others)
    encoded = first("Tok en izers")["input_ids"]
    assert first.decode(encoded, skip_special_tokens=True).split() == ["tok", "en", "izers"]
    assert (encoded[0], encoded[-1]) == (first.cls_token_id, first.sep_token_id)

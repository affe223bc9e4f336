"""README and documentation: their code runs, their links lead somewhere, their quotes are in the package."""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from robustness_toolbox import PyTorchClassifier, load_art_recipe
from sklearn.linear_model import LogisticRegression
from transformers import ViTImageProcessorPil, pipeline

from hf_cmim import AuditPlan
from hf_cmim.attacks import ATTACKS
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import SUITES, Suite, SuiteEntry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NEEDS_THE_HUB = "<!-- needs the Hub -->\n"
RUN = ["README.md", "docs/get-started.md", "docs/choose-a-setting.md", "docs/read-an-audit.md", "docs/attacks.md",
       "docs/defences.md", "docs/publish-and-verify.md"]  # fmt: skip
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESPONSIBLE_USE.md", "recipes/README.md")]
PAGES += sorted(DOCS.rglob("*.md"))
NAMES = {"id2label": dict(enumerate("abcd")), "label2id": {name: number for number, name in enumerate("abcd")}}
BLOCK = re.compile(r"(<!-- needs the Hub -->\n)?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def blocks(text: str, *, of_the_hub: bool) -> list[str]:
    return [code for mark, code in BLOCK.findall(text) if bool(mark) is of_the_hub]


def shortened(code: str) -> str:
    """Train for two steps instead of epochs, audit with one attack."""
    code = re.sub(r"num_train_epochs=\d+", "max_steps=2, use_cpu=True", code)
    return re.sub(r"AuditPlan\(.*\)", "tiny_plan", code)


def build_student() -> torch.nn.Module:
    return tiny.vit(seed=int(torch.initial_seed()) % 1000, **NAMES)


class Mergeable:
    """A stand-in for a model with an adapter."""

    def merge_and_unload(self) -> torch.nn.Module:
        return build_student()


class Session:
    """A stand-in for a session of onnxruntime, which answers with a list of arrays."""

    def run(self, names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [feeds["pixels"].reshape(len(feeds["pixels"]), -1)[:, :4]]


def stand_ins(page: str) -> dict[str, Any]:
    """What the reader of a page has already: models, data, and on some pages folders with trained models."""
    parts = {"train_dataset": 0, "validation_dataset": 1, "transfer_set": 2, "validation_set": 3, "test_set": 4}
    values: dict[str, Any] = {name: tiny.images(48, seed) for name, seed in parts.items()}
    if page in ("docs/read-an-audit.md", "docs/defences.md"):
        for seed, folder in enumerate(("outputs/cmim", "outputs/ce")):
            tiny.vit(seed, **NAMES).save_pretrained(folder)
        suite = Suite("one", (SuiteEntry("kd", Composition(KD())),))
        values["tiny_plan"] = AuditPlan(suite=suite, looks=(2,), screening_seeds=1, final_seeds=0, references=0,
                                        null_families=0, diagnosed=0)  # fmt: skip
    if page == "docs/choose-a-setting.md":
        exec("from hf_cmim import CMIMConfig", values)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 255, (24, 8, 8, 3), dtype=torch.uint8, generator=generator)
        values["held_out_images"] = [Image.fromarray(image.numpy()) for image in pixels]
        values["held_out_labels"] = [number % 4 for number in range(24)]
        processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        eye = tiny.vit(num_channels=3, **NAMES).eval()
        values["classifier"] = pipeline("image-classification", eye, image_processor=processor)
    if page == "docs/attacks.md":
        rows = torch.stack([row["pixel_values"].flatten() for row in values["transfer_set"]])
        values["pipeline"] = LogisticRegression().fit(rows, ["abcd"[row["labels"]] for row in values["transfer_set"]])
        values["session"] = Session()
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        values["victim"] = PyTorchClassifier(linear, torch.nn.CrossEntropyLoss(), (1, 8, 8), 4)
        values["images"] = rows.reshape(-1, 1, 8, 8).numpy()
    model = Mergeable() if page == "docs/publish-and-verify.md" else tiny.vit(**NAMES)
    return values | {"model": model, "student": tiny.vit(1, **NAMES), "build_student": build_student}


@pytest.mark.parametrize("page", RUN)
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # no accelerator here
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Catches a name, an argument or an order of steps that no longer works, page by page from top to bottom."""
    monkeypatch.chdir(tmp_path)
    code = blocks((ROOT / page).read_text(encoding="utf-8"), of_the_hub=False)
    assert code
    values = stand_ins(page)
    load_art_recipe(monkeypatch)
    for block in code:
        exec(compile(shortened(block), page, "exec"), values)
    if page == "docs/attacks.md":
        assert values["stolen"].predict(values["images"]).shape == (48, 4)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_needs_the_hub_compiles_and_imports(page):
    """Catches a misspelt import or argument where nothing can be run."""
    for code in blocks(page.read_text(encoding="utf-8"), of_the_hub=True):
        assert unknown_arguments(code) == []


def unknown_arguments(code: str) -> list[str]:
    """Import what the code imports; return keywords that its calls of our classes do not take."""
    import hf_cmim

    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    ours = [(call, getattr(hf_cmim, call.func.id)) for call in calls if call.func.id in hf_cmim.__all__]
    unknown = []
    for call, kind in ours:
        parameters = set(kind.__init__.__code__.co_varnames) | {"train_dataset", "eval_dataset", "data_collator"}
        parameters |= {"processing_class", "args", "model"}
        unknown += [word.arg for word in call.keywords if word.arg not in parameters]
    return unknown


def test_a_planted_argument_is_seen():
    """Twin: an argument that CMIMConfig does not have."""
    assert unknown_arguments("CMIMConfig(cmi_weight=1, cmi_wait=2)") == ["cmi_wait"]


def headings(text: str) -> set[str]:
    """Return the anchors of a page, as GitHub and mkdocs make them for our headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Yield relative links to files or headings that are not there."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target, anchor in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file = page if not target else (page.parent / target).resolve()
        if not file.exists() or (anchor and anchor not in headings(file.read_text(encoding="utf-8"))):
            yield f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Catches a page or a heading that was renamed; `make docs` sees only the pages inside docs/."""
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("link", ["[a](docs/nothing.md)", "[a](docs/design.md#no-such-heading)", "[a](#nothing)"])
def test_a_planted_broken_link_is_seen(link):
    """Twin: a missing file, a missing heading, a missing heading of the page itself."""
    assert len(list(broken_links(ROOT / "README.md", link))) == 1


@pytest.fixture(scope="module")
def texts_of_the_package() -> list[str]:
    """Every string of the package, f-strings in the pieces between their values."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "hf_cmim").rglob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_messages_of_the_troubleshooting_page_are_in_the_package(texts_of_the_package):
    """Catches a message that was reworded: nobody would find it on the page."""
    quoted = re.findall(r"^\| `([^`]+)`", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) >= 20
    assert [quote for quote in quoted if not any(quote in text for text in texts_of_the_package)] == []


def test_sentences_of_a_report_are_in_the_package(texts_of_the_package):
    """Catches a sentence of a verdict that was reworded; numbers and `...` stand for values."""
    page = (DOCS / "read-an-audit.md").read_text(encoding="utf-8")
    pieces = [
        piece.strip(" ,.[]")
        for sentence in re.findall(r"^> (.+)$", page, re.MULTILINE)
        for piece in re.split(r"\.\.\.|[-+]?\d[\d.]*(?: points| seeds| %)?", sentence)
    ]
    assert len(pieces) >= 30
    assert [piece for piece in pieces if not any(piece in text for text in texts_of_the_package)] == []


@pytest.fixture(scope="module")
def attack_page() -> Callable[[str], str]:
    spec = importlib.util.spec_from_file_location("generate_attacks", DOCS / "generate_attacks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attack_page


@pytest.mark.parametrize("name", ATTACKS)
def test_the_page_of_an_attack_is_whole(name, attack_page):
    """Catches a docstring without its strength, and a source, settings or suite that the generator loses."""
    text = attack_page(name)
    strength = re.search(r"## When is it strong\?\n\n(.+)\n\n## Where does it come from\?", text)
    assert strength
    assert strength[1].endswith(".")
    assert f"`hf_cmim.attacks.{ATTACKS[name].__name__}`" in text
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    assert [setting for setting, _ in rows] == list(inspect.signature(ATTACKS[name]).parameters)
    assert all(meaning for _, meaning in rows)
    for suite in SUITES.values():
        assert (f"`{suite.name}`:\n" in text) or name not in suite.families


def test_readme_and_contributing_stay_short():
    """Catches a README that becomes a laboratory notebook again."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split()) <= 1000

"""The user's own commands, from a data set on the Hub to a verified model on the Hub."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TINY = ["--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--disable_tqdm", "true"]
QUICK = ["--max_steps", "12", "--use_cpu", "--push_to_hub", *TINY]
IMAGES = ["--image_size", "16", "--patch_size", "8", "--dataloader_num_workers", "0"]
TEXTS = ["--vocabulary_size", "300", "--max_length", "16"]
CLASSIFY = {
    "images": """
from transformers import pipeline
from PIL import Image
answers = pipeline("image-classification", model="owner/{name}")(Image.new("RGB", (32, 32)))
""",
    "texts": """
from transformers import pipeline
answers = pipeline("text-classification", model="owner/{name}", top_k=5)("12 3 market")
""",
}
STUDENTS = {
    "images": {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
               "intermediate_size": 8, "patch_size": 8},
    "texts": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
              "intermediate_size": 8, "max_position_embeddings": 32},
}  # fmt: skip


class Shell:
    """Runs commands in the environment of a user, and remembers what they took."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder

    def __call__(self, *words, status=0, **changes):
        started = time.perf_counter()
        done = subprocess.run(
            [*map(str, words)], env=self.environment | changes, cwd=self.folder, capture_output=True, text=True
        )
        print(f"{time.perf_counter() - started:6.1f} s  {' '.join(map(str, words))[:90]}")
        assert status is None or done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def owner(hub, tmp_path):
    return Shell(hub.environment(home=tmp_path / "owner"), tmp_path)


@pytest.fixture
def stranger(hub, tmp_path):
    """Somebody else, with an empty cache and no token."""
    return Shell(hub.environment(None, home=tmp_path / "stranger"), tmp_path)


def push_data(hub, kind, tmp_path):
    token = {"images": "hf_uoft-cs", "texts": "hf_fancyzhx"}[kind]
    Shell(hub.environment(token, home=tmp_path / "publisher"), tmp_path)(
        sys.executable, ROOT / "tests/hub/push_data.py", kind, PYTHONPATH=str(ROOT / "tests")
    )


def classified(shell, kind, name):
    """What plain transformers answers, in a process that cannot import hf_cmim."""
    code = f"import sys; sys.modules['hf_cmim'] = None\n{CLASSIFY[kind].format(name=name)}\nprint(len(answers))"
    return shell(sys.executable, "-c", code)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_train_push_classify_audit_verify(hub, owner, stranger, kind, tmp_path):
    """Catches a recipe, a card, a certificate or an audit that works on this machine only."""
    push_data(hub, kind, tmp_path)
    recipe, own = {"images": ("vit_cifar", IMAGES), "texts": ("text_classification", TEXTS)}[kind]
    data = {"images": ["uoft-cs/cifar100", "--label-column", "fine_label"], "texts": ["fancyzhx/ag_news"]}[kind]
    model = f"hardened-{kind}"
    owner(BIN / "accelerate", "launch", ROOT / "recipes" / f"{recipe}.py", *QUICK, *own, "--output_dir", model)

    assert classified(stranger, kind, model)
    said = stranger(BIN / "hf-cmim", "verify", f"owner/{model}", "--remeasure", "--dataset", *data)
    assert "Everything that was checked holds.\n" in said
    assert "accuracy again" in said
    stranger(BIN / "hf", "download", f"owner/{model}", "README.md", "--local-dir", "card")
    assert "**It was not audited**" in (tmp_path / "card" / "README.md").read_text(encoding="utf-8")

    (tmp_path / "student.json").write_text(json.dumps(STUDENTS[kind]), encoding="utf-8")
    settings = ["--dataset", *data, "--student-config", "student.json", "--max-transfer-samples", "96"]
    settings += ["--max-validation-samples", "50"]
    plan = ["--suite", "quick-v2", "--looks", "3", "--screening-seeds", "1", "--margin-points", "2"]
    plan += ["--null-families", "1", "--diagnosed", "0", "--set", "num_train_epochs=1", "use_cpu=true"]
    audited = owner(BIN / "hf-cmim", "audit", "--teacher", f"owner/{model}", *settings, *plan, "--output-dir", "audit")
    assert "Written: audit/audit.json" in audited

    owner(BIN / "hf-cmim", "certify", model, "--audit", "audit")
    planned = owner(BIN / "hf-cmim", "push", model, f"owner/{model}", "--dry-run")
    assert "stays here:" in planned
    assert "training_args.bin" in planned
    owner(BIN / "hf-cmim", "push", model, f"owner/{model}")
    checks = ["--remeasure", "--spot-check", "2"]
    said = stranger(BIN / "hf-cmim", "verify", f"owner/{model}", *settings, *checks, status=None)
    assert said.count("  trained again: ") == 2, said
    assert "FAILS  audit" not in said
    assert "FAILS  files" not in said
    report = f"from hf_cmim import AuditReport; print(AuditReport.from_hub('owner/{model}').scope.suite)"
    assert "quick-v2" in stranger(sys.executable, "-c", report)

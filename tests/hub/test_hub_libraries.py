"""The genuine libraries and commands against the test Hub, each in a process of its own with an empty cache."""

import json
import subprocess
import sys
from pathlib import Path

from hanging import HANGING

FOLDER = Path(__file__).parent


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGING)


def seen_by(script: str, hub, tmp_path) -> dict:
    environment = hub.environment(home=tmp_path / "home")
    finished = run([sys.executable, str(FOLDER / script), str(tmp_path)], environment)
    assert finished.returncode == 0, finished.stderr
    return json.loads((tmp_path / "seen.json").read_text())


def test_transformers(hub, tmp_path):
    """Catches answers that satisfy only direct calls: models, cards and whole trainings must go up and come down."""
    seen = seen_by("model_client.py", hub, tmp_path)
    assert (seen["cards"]["license"], seen["cards"]["text"]) == ("mit", "# A card")
    assert '"license" must be one of' in seen["cards"]["refusal"]
    assert seen["models"] == {
        "main": True,
        "branch": True,
        "labels": ["LABEL_0", "LABEL_1", "LABEL_2"],
        "listed": [
            f"owner/vit/{name}"
            for name in (".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json")
        ],
    }
    assert seen["training"] == {"trained": True}


def test_datasets(hub, tmp_path):
    """Catches parquet files that arrive changed, and streams that are not answered in ranges."""
    seen = seen_by("data_client.py", hub, tmp_path)
    assert seen == {
        "names": ["cat", "dog"],
        "rows": {"train": 4, "test": 2},
        "labels": [0, 1, 0, 1],
        "loaded": [True] * 4,
        "streamed": [True] * 4,
    }
    statuses = {request.status for request in hub.requests() if "/owner/pictures/resolve/" in request.path}
    assert 206 in statuses


def test_command_downloads(hub, hub_api, tmp_path):
    """Catches what the `hf` command asks beyond the library, and an environment that does not reach this Hub."""
    api = hub_api(hub)
    api.create_repo("owner/for_command", private=True)
    api.upload_file(path_or_fileobj=b"kept", path_in_repo="a/b.txt", repo_id="owner/for_command")
    command = [str(Path(sys.executable).with_name("hf")), "download", "owner/for_command", "--local-dir"]
    finished = run([*command, str(tmp_path / "down")], hub.environment(home=tmp_path / "home"))
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "down" / "a" / "b.txt").read_bytes() == b"kept"
    stranger = run([*command, str(tmp_path / "none")], hub.environment(None, home=tmp_path / "anonymous"))
    assert stranger.returncode != 0
    assert "not found" in stranger.stderr.lower()

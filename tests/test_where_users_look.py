"""hf_cmim where people meet it: beside TRL, as `hf cmim`, and as a skill that a coding agent reads."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from forked import ended, start
from hanging import HANGING

import hf_cmim
from hf_cmim.attacks import KD
from hf_cmim.cli.main import COMMANDS, main

BIN = Path(sys.executable).parent
SKILL = Path(hf_cmim.__file__).parent / ".agents/skills/hf-cmim/SKILL.md"


def distil_beside_trl(folder: Path) -> None:
    from trl import DistillationConfig, DistillationTrainer

    from hf_cmim import BlackBoxDistillationConfig, BlackBoxDistillationTrainer

    assert not issubclass(BlackBoxDistillationTrainer, DistillationTrainer)
    assert not issubclass(BlackBoxDistillationConfig, DistillationConfig)
    assert BlackBoxDistillationTrainer is hf_cmim.DistillationTrainer
    assert BlackBoxDistillationConfig is hf_cmim.DistillationConfig
    args = BlackBoxDistillationConfig(**tiny.settings(folder))
    trainer = BlackBoxDistillationTrainer(
        model=tiny.vit(1), args=args, attack=KD(), teacher=tiny.vit(5).eval(), train_dataset=tiny.images(8)
    )
    assert trainer.train().global_step > 0


def test_trainers_of_both_libraries_in_one_script(tmp_path):
    """Catches an alias of another class, a TRL that does not load beside ours, and what it changes in Trainer."""
    said = tmp_path / "said.txt"
    assert ended(start(distil_beside_trl, tmp_path / "student", output=said)) == [0], said.read_text()


def test_the_command_works_as_an_extension_of_hf(tmp_path):
    """Catches a script that is not called `hf-cmim`, the name by which `hf cmim` finds it."""
    folder = tmp_path / ".local/share/hf/extensions/hf-cmim"
    folder.mkdir(parents=True)
    # What `hf extensions install OWNER/hf-cmim` writes after it has installed the package.
    manifest = {
        "owner": "owner", "repo": "hf-cmim", "repo_id": "owner/hf-cmim", "short_name": "cmim", "type": "python",
        "executable_path": str(BIN / "hf-cmim"), "installed_at": "2026-11-30T00:00:00+00:00", "description": None,
        "commit_sha": None,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    environment = os.environ | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [BIN / "hf", "cmim", "attacks", "kd"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hinton" in done.stdout


class TestSkill:
    def test_head_is_what_agents_look_for(self):
        """Catches a skill that no agent lists: its name must be that of its folder, its description short."""
        _, head, body = SKILL.read_text(encoding="utf-8").split("---\n", 2)
        fields = yaml.safe_load(head)
        assert set(fields) == {"name", "description"}
        assert fields["name"] == SKILL.parent.name == "hf-cmim"
        assert re.fullmatch(r"[a-z0-9-]{1,64}", fields["name"])
        assert 0 < len(fields["description"]) <= 1024
        assert len(body.splitlines()) < 500

    def test_commands_exist(self, capsys):
        """Catches a command or a flag that was renamed."""
        words = re.findall(r"^hf-cmim (.+?)(?:\s+#.*)?$", SKILL.read_text(encoding="utf-8"), re.M)
        assert len(words) == 5
        for line in words:
            command, *rest = shlex.split(line)
            assert command in COMMANDS
            with pytest.raises(SystemExit):
                main([command, "--help"])
            flags = capsys.readouterr().out
            assert [word for word in rest if word.startswith("--") and word not in flags] == []

    def test_names_exist(self):
        """Catches a class that was renamed."""
        for module, names in re.findall(r"^from (hf_cmim\S*) import (.+)$", SKILL.read_text(encoding="utf-8"), re.M):
            for name in names.split(", "):
                assert hasattr(sys.modules[module], name)

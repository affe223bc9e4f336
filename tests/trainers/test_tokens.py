"""The Hub's token in settings: in no text that a program prints or writes."""

from dataclasses import dataclass, fields

import pytest

from hf_cmim import CMIMConfig, DefenseConfig, DistillationConfig

TOKEN = "hf_secretsecret"


@dataclass
class OwnConfig(CMIMConfig):
    """Settings of a user's own trainer."""

    own: int = 0


@pytest.mark.parametrize("config", [CMIMConfig, DefenseConfig, DistillationConfig, OwnConfig])
def test_no_text_of_the_settings_shows_the_token(tmp_path, config):
    """Catches a token in a notebook's output, a log or a tracker: a dataclass's repr shows every field."""
    args = config(str(tmp_path), hub_token=TOKEN)
    texts = {
        "repr": repr(args), "str": str(args), "dictionary": str(args.to_dict()), "JSON": args.to_json_string(),
        "logged": str(args.to_sanitized_dict()),
    }  # fmt: skip
    assert [name for name, text in texts.items() if TOKEN in text] == []
    assert args.hub_token == TOKEN
    shown = {field.name for field in fields(config)} - {"hub_token", "_n_gpu"}
    assert [name for name in shown if f"{name}=" not in repr(args)] == []

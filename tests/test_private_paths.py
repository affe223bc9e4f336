"""Paths of this machine in what is published: shortened everywhere alike, and nothing else touched."""

import json
from dataclasses import dataclass

import pytest

from hf_cmim.private_paths import public_command, public_path, public_record, public_text


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory in a home folder that is called by its user's name."""
    home = tmp_path / "home" / "jane.doe"
    folder = home / "secret-project"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(folder)
    return folder


PATHS = [
    ("{here}/outputs/cmim", "outputs/cmim"),
    ("{here}", "."),
    ("{here}/", "."),
    ("{home}", "…"),
    ("{home}/other/glosses", "…/glosses"),
    ("{home}/../john.roe/glosses", "…/glosses"),
    ("~/other/glosses", "…/glosses"),
    ("~", "…"),
    ("../other/glosses", "…/glosses"),
    ("../..", "…"),
    ("outputs/cmim", "outputs/cmim"),
    ("owner/name", "owner/name"),
    ("bert-base-uncased", "bert-base-uncased"),
    ("", ""),
    ("/home/john.roe", "…"),
    ("/Users/John Roe/data/my glosses", "…/my glosses"),
    ("/scratch/john.roe/glosses", "…/glosses"),
    ("file:///home/john.roe/glosses", "…/glosses"),
    (r"C:\Users\John Roe\data\glosses", "…/glosses"),
    ("c:/Users/john/glosses", "…/glosses"),
    (r"C:\Users\john", "…"),
    (r"\\server\share\john\glosses", "…/glosses"),
]


@pytest.mark.parametrize(("given", "shown"), PATHS)
def test_a_path_names_no_user_and_no_project(project, given, shown):
    """Catches a home folder or a project's name in a card, and a Hub id that is taken for a path."""
    assert public_path(given.format(here=project, home=project.parent)) == shown
    assert public_path(shown) == shown


TEXTS = [
    ("no rows in {here}/data/a.csv.", "no rows in data/a.csv."),
    ("'{home}/x/a.csv' and {home}/x/b.csv", "'…/a.csv' and …/b.csv"),
    ("model=/home/john.roe/m, 3", "model=…/m, 3"),
    ("csv:/home/john.roe/a.csv", "csv:…/a.csv"),
    ("see ~/notes/a.txt", "see …/a.txt"),
    (r"open C:\Users\John Roe\thesis\a.csv now", "open …/a.csv now"),
    (json.dumps(r"C:\Users\john\thesis\a.csv"), '"…/a.csv"'),
    (r"open \\server\share\john\a.csv now", "open …/a.csv now"),
]


@pytest.mark.parametrize(("given", "shown"), TEXTS)
def test_paths_in_a_text_are_shortened(project, given, shown):
    """Catches the path in the middle of a sentence or a command."""
    text = public_text(given.format(here=project, home=project.parent))
    assert text == shown
    assert public_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/owner/name/tree/main", "12 /s", "a/b and/or c", "1/2", "owner/name", "/m/01g317",
        "CMI_T / T^2", "AC/DC", "w(t) reduce_T[f(T) CMI_T]", "T: 4", "10:30", "</s>", "//", "/", "~ 3 %",
        "C:4", "train: 3 / 4 / 5", "…/glosses", "hf://datasets/owner/name/file.csv", "a ../ b",
    ],
)  # fmt: skip
def test_what_is_no_path_stays(project, text):
    """Catches units, ids, addresses and class names that look like paths."""
    assert public_text(text) == text


def test_a_working_directory_above_the_home_folder_hides_nothing_less(project, monkeypatch):
    """Catches `home/jane.doe/...` as a path relative to / or /home."""
    for folder in (project.parents[2], project.parents[1], project.parent, "/"):
        monkeypatch.chdir(folder)
        assert public_path(project / "model") == "…/model"


def test_names_with_spaces_are_hidden_in_commands_and_texts(tmp_path, monkeypatch):
    """Catches half of "Jane Doe"."""
    home = tmp_path / "Users" / "Jane Doe"
    (home / "secret project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "secret project")
    said = public_text(f"{home}/secret project/data/a.csv, {home}/b.csv and {home} end")
    assert said == "data/a.csv, …/b.csv and … end"
    words = [f"{home}/venv/bin/hf-cmim", "audit", f"--dataset={home}/secret project/my data", f"{home}/x y", "T=4"]
    assert public_command(words) == "hf-cmim audit '--dataset=my data' '…/x y' T=4"


def test_a_record_is_cleaned_to_its_leaves(project):
    """Catches a path in a nested setting, and a value that is changed on the way."""

    @dataclass(frozen=True)
    class Record:
        path: str
        values: tuple[float, ...]
        settings: dict

    record = Record(f"{project}/m", (1.0, 2.5), {"a": [f"{project.parent}/x/y", None, True], "b": {"c": "/home/j/z"}})
    assert public_record(record) == Record("m", (1.0, 2.5), {"a": ["…/y", None, True], "b": {"c": "…/z"}})

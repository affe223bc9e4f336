"""The flag --students: the same audit for several students, each with a verdict of its own."""

import argparse
from pathlib import Path

from hf_cmim.cli.audit_setup import OUTPUT_DIR
from hf_cmim.errors import HfCmimError


def options_of_students(options: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Return the options of each student's audit by its name; "" names the only one.

    The audits of several students are in folders of their names, inside --output-dir.

    Raises:
        HfCmimError: another flag that names a student, one student alone, or a name that is given twice or cannot be
            the name of a folder.
    """
    students = options.students or []
    if not students:
        return {"": options}
    other = [flag for flag in ("student", "student_config") if getattr(options, flag) is not None]
    if other:
        raise HfCmimError(
            f"Expected either --students or --{other[0].replace('_', '-')}, got both: one would be ignored. Remove"
            " one."
        )
    names = [name for name, _ in students]
    if len(names) == 1:
        raise HfCmimError(
            f"Expected several --students, got {names[0]!r} alone: there is nothing to compare. Give a second one, or"
            " use --student-config."
        )
    for name in names:
        if names.count(name) > 1:
            raise HfCmimError(f"Two students are named {name!r}: one audit would overwrite the other. Rename one.")
        if Path(name).name != name or name in (".", ".."):
            raise HfCmimError(
                f"Expected a student's name that can be a folder's name, got {name!r}: the audit is written there. Use"
                " letters, digits, - and _."
            )
    folder = Path(options.output_dir or OUTPUT_DIR)
    return {name: _with_student(options, path, folder / name) for name, path in students}


def _with_student(options: argparse.Namespace, path: str, folder: Path) -> argparse.Namespace:
    """Return the options with one student: a .json file is a configuration, everything else a --student."""
    flag = "student_config" if Path(path).suffix == ".json" else "student"
    return argparse.Namespace(**{**vars(options), flag: path, "output_dir": str(folder)})

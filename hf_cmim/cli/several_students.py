"""The flag --students: the same audit for several students, each with a verdict of its own."""

from dataclasses import replace
from pathlib import Path

from hf_cmim.cli.audit_flags import AuditFlags
from hf_cmim.cli.audit_setup import OUTPUT_DIR
from hf_cmim.errors import HfCmimError


def flags_of_students(flags: AuditFlags) -> dict[str, AuditFlags]:
    """Return the flags of each student's audit by its name; "" names the only one.

    The audits of several students are in folders of their names, inside --output-dir.

    Raises:
        HfCmimError: another flag that names a student, one student alone, or a name that is given twice or cannot be
            the name of a folder.
    """
    students = flags.students or []
    if not students:
        return {"": flags}
    other = [flag for flag in ("student", "student_config") if getattr(flags, flag) is not None]
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
    folder = Path(flags.output_dir or OUTPUT_DIR)
    return {name: _with_student(flags, path, folder / name) for name, path in students}


def _with_student(flags: AuditFlags, path: str, folder: Path) -> AuditFlags:
    """Return the flags with one student: a .json file is a configuration, everything else a --student."""
    if Path(path).suffix == ".json":
        return replace(flags, student_config=path, output_dir=str(folder))
    return replace(flags, student=path, output_dir=str(folder))

"""What the Hub demands of a README's metadata, as far as a model card of ours can break it."""

import re
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
REPOSITORY_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
# The identifiers of the Hub's documentation, "Licenses"; read 2026, the Hub adds to them now and then.
LICENSES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research",
    "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
}  # fmt: skip


def metadata(readme: str) -> dict[str, Any] | None:
    """Return the metadata of a README, None where it has none; raise `yaml.YAMLError` for what is no YAML mapping."""
    block = FRONT_MATTER.match(readme)
    if block is None:
        return None
    values = yaml.safe_load(block[1])
    if values is not None and not isinstance(values, dict):
        raise yaml.YAMLError("the metadata is not a mapping")
    return values or None


def faults(readme: str) -> tuple[list[str], list[str]]:
    """Return the errors, for which the Hub refuses a README, and the warnings, with which it accepts one."""
    try:
        values = metadata(readme)
    except yaml.YAMLError as error:
        return [f"Invalid YAML in the metadata: {error}"], []
    if values is None:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = []
    licenses = values.get("license")
    for name in licenses if isinstance(licenses, list) else [licenses]:
        if name is not None and name not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}], got {name!r}')
    for key in ("tags", "datasets"):
        if key in values and not _is_list_of_text(values[key]):
            errors.append(f'"{key}" must be an array of strings, got {values[key]!r}')
    for key in ("base_model", "datasets"):
        named = values.get(key)
        for name in named if isinstance(named, list) else [named]:
            if name is not None and not (isinstance(name, str) and REPOSITORY_ID.fullmatch(name)):
                errors.append(f'"{key}" with value {name!r} is not valid. Use an id from the Hub')
    for key in ("pipeline_tag", "library_name"):
        if key in values and not isinstance(values[key], str):
            errors.append(f'"{key}" must be a string, got {values[key]!r}')
    if "model-index" in values:
        errors.extend(_index_errors(values["model-index"]))
    return errors, []


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for number, model in enumerate(index):
        place = f"model-index[{number}]"
        errors.extend(_missing(model, place, "name"))
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            errors.append(f'"{place}.results" must be an array')
            continue
        for result_number, result in enumerate(results):
            errors.extend(_result_errors(result, f"{place}.results[{result_number}]"))
    return errors


def _result_errors(result: Any, place: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{place}" must be an object']
    errors = _missing(result.get("task"), f"{place}.task", "type")
    errors += _missing(result.get("dataset"), f"{place}.dataset", "type", "name")
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return [*errors, f'"{place}.metrics" must be an array with at least one metric']
    for number, metric in enumerate(metrics):
        errors += _missing(metric, f"{place}.metrics[{number}]", "type")
        if not isinstance(metric, dict) or metric.get("value") is None:
            errors.append(f'"{place}.metrics[{number}].value" is required')
    return errors


def _missing(value: Any, place: str, *keys: str) -> list[str]:
    """Name the keys that are not text."""
    given = value if isinstance(value, dict) else {}
    return [f'"{place}.{key}" is required and a string' for key in keys if not isinstance(given.get(key), str)]

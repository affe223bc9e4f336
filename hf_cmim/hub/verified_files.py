"""Checks of files: they are those that the certificate names, and no loader would use any other."""

from collections.abc import Collection, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hf_cmim.checkpoint_redirects import redirects
from hf_cmim.checkpoint_sizes import size_faults, tensor_shapes, unbounded_faults
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import (
    CONFIG_NAME,
    certified_names,
    check_weights,
    folder_paths,
    hash_file,
    is_certifiable,
    link_out_of,
    listed,
    read_config,
    unaccounted,
)
from hf_cmim.names import safe_text


def file_faults(folder: Path, certificate: Certificate, paths: Collection[str] | None) -> Iterator[str]:
    """Yield the differences between the files and the certificate, as sentences.

    Args:
        folder: folder with the certified files.
        certificate: certificate of the model.
        paths: paths of all files in the repository that the folder was downloaded from; None to list the folder.
    """
    yield from naming_faults(certificate)
    if unknown := unaccounted(folder_paths(folder) if paths is None else paths, certificate.files):
        yield (
            f"{listed(unknown)}: not certified, and a loader may use it instead of a certified file. Allowed are"
            " certified files, documents and checkpoint-N folders"
        )
    for name, record in certificate.files.items():
        path = folder / name
        # `naming_faults` reported the name. It may lead out of the folder, so its file is not opened.
        if not is_certifiable(name):
            continue
        if not path.is_file():
            yield f"{name} is missing"
        elif target := link_out_of(folder, path):
            yield f"{name} is a link out of the folder, to {safe_text(target)}"
        elif (size := path.stat().st_size) != record.size:
            yield f"{name} has {size:,} bytes, the certified file has {record.size:,}: it was cut or replaced"
        elif (measured := hash_file(path)) != record:
            certified = safe_text(record.sha256[:16])
            yield (
                f"{name} has the sha256 {measured.sha256[:16]}..., the certified file has {certified}...: its content"
                " was changed"
            )


def naming_faults(certificate: Certificate) -> Iterator[str]:
    """Check the names of the certified files before any file is opened, and yield the faults as sentences."""
    if refused := sorted(name for name in certificate.files if not is_certifiable(name)):
        yield f"{listed(refused)}: a certificate may not name this, because it is no file of a model"
    if CONFIG_NAME not in certificate.files:
        yield f"{CONFIG_NAME} is not certified: any other model could be loaded"
    if not any(name.endswith(".safetensors") for name in certificate.files):
        yield "no weights are certified: a loader would start from random weights, or use other files"


def content_faults(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Yield settings in certified files that make a loader use other files or code, or take all memory."""
    try:
        # From cheap to costly: sizes are bounded before anything is counted by them.
        yield from redirects(folder, list(certificate.files))
        config = read_config(folder)
        for name in certificate.files:
            if name.endswith(".safetensors"):
                check_weights(folder / name)
        if unbounded := list(unbounded_faults(config)):
            yield from unbounded
            return
        yield from size_faults(config, tensor_shapes(folder, list(certificate.files)))
    except HfCmimError as error:
        yield str(error)
        return
    architecture = config["architectures"][0]
    if architecture != certificate.architecture:
        yield (
            f"{CONFIG_NAME} describes a {safe_text(architecture)}, the certified model is a"
            f" {safe_text(certificate.architecture)}"
        )


def class_name_fault(folder: Path, certificate: Certificate) -> str:
    """Return the first difference between the class names and the certified ones as a sentence, or ""."""
    names = certified_names(read_config(folder))
    if names == certificate.class_names:
        return ""
    pairs: Any = enumerate(zip_longest(names, certificate.class_names))
    number, (there, certified) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return safe_text(
        f"{CONFIG_NAME} names {len(names)} classes, the certificate {len(certificate.class_names)}; class {number} is"
        f" {there!r} in {CONFIG_NAME}, {certified!r} in the certificate"
    )

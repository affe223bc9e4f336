"""Whether the files of a folder or a repository are those that its certificate names, and no loader takes others."""

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
    """Yield everything about the files that is not as certified, as sentences.

    Args:
        folder: with the certified files.
        certificate: of the model.
        paths: of every file in the repository that the folder is of; None for those of the folder itself.
    """
    yield from naming_faults(certificate)
    if strangers := unaccounted(folder_paths(folder) if paths is None else paths, certificate.files):
        yield (
            f"{listed(strangers)}: not certified, and a loader may take it instead. Only certified files, documents"
            " and checkpoint-N folders may be there"
        )
    for name, record in certificate.files.items():
        path = folder / name
        if not is_certifiable(name):
            continue
        if not path.is_file():
            yield f"{name} is missing"
        elif target := link_out_of(folder, path):
            yield f"{name} is a link out of the folder, to {safe_text(target)}"
        elif (size := path.stat().st_size) != record.size:
            yield f"{name} has {size:,} bytes, certified are {record.size:,}: it was cut or replaced"
        elif (measured := hash_file(path)) != record:
            certified = safe_text(record.sha256[:16])
            yield f"{name} has sha256 {measured.sha256[:16]}..., certified is {certified}...: other content"


def naming_faults(certificate: Certificate) -> Iterator[str]:
    """Yield what is wrong with the names of the certified files, before any of them is looked at."""
    if strange := sorted(name for name in certificate.files if not is_certifiable(name)):
        yield f"{listed(strange)}: no file of a model that a certificate may name"
    if CONFIG_NAME not in certificate.files:
        yield f"{CONFIG_NAME} is not certified: which model is loaded could be anything"
    if not any(name.endswith(".safetensors") for name in certificate.files):
        yield "no weights are certified: a loader would draw them at random, or find others"


def content_faults(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Yield what whole, certified files say that would make a loader take something else, or all memory."""
    try:
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
            f"{CONFIG_NAME} is of a {safe_text(architecture)}, certified is a {safe_text(certificate.architecture)}"
        )


def class_name_fault(folder: Path, certificate: Certificate) -> str:
    """Return how the names of the classes differ from the certified ones, or ""."""
    names = certified_names(read_config(folder))
    if names == certificate.class_names:
        return ""
    pairs: Any = enumerate(zip_longest(names, certificate.class_names))
    number, (there, certified) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return safe_text(
        f"{CONFIG_NAME} names {len(names)} classes, certified are {len(certificate.class_names)}; class {number} is"
        f" called {there!r}, certified is {certified!r}"
    )

"""Names of the files that a processor or tokenizer saves. Only the object knows them: architectures differ."""

import tempfile
from pathlib import Path
from typing import Any


def files_of_processor(processor: Any) -> frozenset[str]:
    """Return the names of the files that a processor writes when it is saved into an empty folder.

    Args:
        processor: tokenizer, image processor, feature extractor or processor with `save_pretrained`; None for none.

    Returns:
        Paths relative to the folder, with forward slashes.
    """
    if processor is None:
        return frozenset()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        processor.save_pretrained(folder)
        return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

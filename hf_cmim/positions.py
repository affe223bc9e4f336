"""Largest number of tokens that a text model can read."""

from torch import Tensor, nn

POSITION_TABLE = "position_embeddings"
"""Name of the table of learned positions in the models of transformers that start it at a padding row."""


def usable_positions(model: nn.Module) -> int | None:
    """Return the largest number of tokens that a text model can read, or None if its configuration sets no limit.

    RoBERTa and its relatives number positions from the row after the padding row. So `padding_idx + 1` rows of
    `max_position_embeddings` are never used: 514 rows hold 512 tokens.

    Args:
        model: text model, which may be on the meta device.

    Source: ours; fairseq's numbering of positions, as transformers keeps it (transformers#9116).
    """
    limits = [getattr(getattr(model, "config", None), "max_position_embeddings", None)]
    # The configuration counts rows of the table, the padding row included. So the table itself is looked at as well.
    for name, module in model.named_modules():
        padding, table = getattr(module, "padding_idx", None), getattr(module, "weight", None)
        if name.rpartition(".")[2] == POSITION_TABLE and padding is not None and isinstance(table, Tensor):
            limits.append(len(table) - padding - 1)
    return min((limit for limit in limits if isinstance(limit, int)), default=None)

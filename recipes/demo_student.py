"""Students of `make demo` and of the gallery: each trains in seconds on a CPU."""

from torch import Tensor, nn

NUM_VECTORS = 2_048
"""Number of word vectors; tokens whose numbers differ by a multiple of it share one, which keeps the student small."""


class Perceptron(nn.Module):
    """A perceptron for grey images of 14 x 14 pixels in ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(14 * 14, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits `(B, 10)` of images `(B, 3, 14, 14)`, whose three channels are equal."""
        return {"logits": self.head(self.hidden(pixel_values[:, 0].flatten(1)).relu())}


class WordMeans(nn.Module):
    """Mean of word vectors and a linear layer, for texts in 27 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(NUM_VECTORS, 32)
        self.head = nn.Linear(32, 27)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return logits `(B, 27)` of texts `(B, L)`."""
        is_word = attention_mask.unsqueeze(-1).to(self.vectors.weight.dtype)
        means = (self.vectors(input_ids % NUM_VECTORS) * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)
        return {"logits": self.head(means)}

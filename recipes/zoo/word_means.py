"""The student of `software.yaml`: a linear classifier of the mean of word vectors, trained in seconds on a CPU."""

from torch import Tensor, nn


class WordMeans(nn.Module):
    """Mean of word vectors and a linear layer, for texts in 27 classes, on the tokens of bert-base-uncased."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(30_522, 32)
        nn.init.normal_(self.vectors.weight, std=0.1)
        self.head = nn.Linear(32, 27)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits `(B, 27)` of texts `(B, L)`."""
        is_word = attention_mask.unsqueeze(-1).to(self.vectors.weight.dtype)
        means = (self.vectors(input_ids) * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)
        return {"logits": self.head(means)}

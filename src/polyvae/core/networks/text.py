"""Networks for sentences, given as token ids (``core.vocabulary``)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from polyvae.core.networks.mlp import layers
from polyvae.core.vocabulary import END, FIRST, PADDING
from polyvae.utils.errors import InputError, check_count

_HEADS = 4


class BagOfWords(nn.Module):
    """Sums over the positions of a sentence, then a multilayer perceptron: [B, L] ids -> [B, out].

    With e(a) and p(a, b) = relu(u(a) + v(b)) the learnt vectors of a word and of two adjacent ones, the sums are the mean of e, the mean
    of p, and Σ_t s_h(t) p(x_t, x_{t+1}) with ``heads`` learnt functions of the position, s_h. Without ``order`` the mean of e alone, so
    that the order of words has no influence.

    Args:
        size: The number of ids.
        length: L, the positions of a sentence.
        embedding: Columns of the learnt vectors.
        order: Use pairs and positions.
        sizes: Hidden sizes and the output size of the perceptron.
    """

    def __init__(self, size: int, length: int, embedding: int, order: bool, sizes: Sequence[int]) -> None:
        super().__init__()
        self.words = nn.Embedding(size, embedding)
        self.first, self.second = (nn.Embedding(size, embedding) if order else None for _ in range(2))
        self.position = nn.Embedding(length - 1, _HEADS) if order else None
        self.layers = nn.Sequential(*layers([embedding * (2 + _HEADS if order else 1), *sizes]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L] -> [B, out]."""
        ids = x.nan_to_num().clamp(0, self.words.num_embeddings - 1).long()
        word = ((ids != PADDING) & (ids != END)).to(self.words.weight.dtype)[..., None]  # [B, L, 1]
        count = word.sum(1).clamp(min=1)  # [B, 1]
        parts = [(self.words(ids) * word).sum(1) / count]
        if self.first is not None and self.second is not None and self.position is not None:
            pairs = (self.first(ids[:, :-1]) + self.second(ids[:, 1:])).relu() * word[:, :-1]  # [B, L - 1, E]
            parts += [pairs.sum(1) / count]
            parts += [(self.position.weight.T @ pairs).flatten(1) / pairs.shape[1] ** 0.5]
        found: Tensor = self.layers(torch.cat(parts, -1))
        return found


def text_encoder(
    in_shape: tuple[int, ...],
    out: int,
    *,
    words: Sequence[str] = (),
    width: float = 1.0,
    embedding: int = 32,
    order: bool = True,
) -> nn.Module:
    """[B, L] ids -> [B, out]: sums of words and of pairs of adjacent words by position; without ``order``, of words alone."""
    if len(in_shape) != 1 or not words:
        raise InputError(
            f"network 'text': got samples of shape {in_shape} and {len(words)} words; expected ids of shape (length,) and a "
            "vocabulary; choose the likelihood 'sequence' or 'tokens', with params={'words': [...]}"
        )
    check_count("network 'text'", "embedding", embedding)
    hidden = max(1, round(256 * width))
    return BagOfWords(FIRST + len(words), in_shape[0], embedding, order, [hidden, hidden, out])


def text_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0) -> nn.Module:
    """[N, C] -> [N, *out]: a multilayer perceptron to the context vector, or the logits, of the likelihood."""
    hidden = max(1, round(256 * width))
    return nn.Sequential(*layers([in_shape[0], hidden, hidden, prod(out)]), nn.Unflatten(-1, out))

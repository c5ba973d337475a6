"""Likelihoods of sentences, as token ids: ``sequence`` (autoregressive) and ``tokens`` (independent positions).

Values are ids [..., L] (``core.vocabulary``): n words, the end, padding. The end counts, padding does not. A sentence has at most L − 1
words, so at the last position the end has probability 1. Under this convention the probabilities of all admissible rows sum to 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from polyvae.core import noise
from polyvae.core.likelihoods.base import Entrywise, offending
from polyvae.core.vocabulary import END, PADDING, Split, Vocabulary
from polyvae.utils.errors import InputError, check_count


class Text(Entrywise):
    """Sentences as ids [..., L]. A sentence is observed as a whole or not at all.

    ``mean`` is the sentence of the most probable words, not an expectation, which ids do not have.

    Args:
        shape: (L,), the largest number of words and one for the end.
        words: The words of the vocabulary.
        split: "words" or "characters", the rule by which sentences are split.

    Attributes:
        vocabulary: The words and the rule.

    Raises:
        InputError: A shape of more axes or of one column, or an invalid vocabulary.
    """

    joined = -1
    ids = True
    remedy = "encode sentences with polyvae.text or Vocabulary.encode"

    def __init__(self, shape: tuple[int, ...], words: Sequence[str], split: Split = "words") -> None:
        super().__init__(shape)
        if len(shape) != 1 or shape[0] < 2:
            raise InputError(
                f"likelihood of text: got shape {shape}; expected (length,), 2 or more: the words and one for the end; "
                "give sentences as ids [N, length]"
            )
        self.vocabulary = Vocabulary(tuple(words) if isinstance(words, list) else words, split)  # type: ignore[arg-type]
        self.steps = shape[0] - 1  # the last position is not drawn
        self.classes = self.vocabulary.size - 1  # all ids but padding; class c has the id c + 1

    @property
    def largest(self) -> int:
        return self.vocabulary.size - 1

    def features(self, x: Tensor) -> Tensor:
        return x

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.written(out, None)

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        lead = out.shape[: out.ndim - len(self.output)]
        return self.written(out, noise.uniform((*lead, self.steps), out, "x", ""))

    @property
    def width(self) -> int:
        return self.steps * self.classes

    @abstractmethod
    def written(self, out: Tensor, uniform: Tensor | None) -> Tensor:
        """Sentences, word by word: the most probable ones, or those that the uniform numbers [..., L − 1] choose.

        Args:
            out: Decoder output, [..., *output].
            uniform: [..., L − 1] in [0, 1); None: the most probable word at each position.

        Returns:
            [..., L].
        """

    def read(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """The ids at all positions but the last, int64; of rows that were not observed, any valid ids: [..., L] -> [..., L − 1]."""
        if observed is not None:
            x = torch.where(self.counted(observed), x, 0)
        return x[..., :-1].nan_to_num().clamp(0, self.largest).long()

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        if not bool((observed == observed[:, :1]).all()):
            return "sentences with missing words; expected whole sentences, because a text is observed as a whole or not at all"
        x = x[observed[:, 0]]
        seen = x.flatten()
        problem = offending(
            seen,
            (seen >= 0) & (seen <= self.largest) & (seen == seen.floor()),
            f"ids, whole numbers from 0 to {self.largest}",
        )
        if problem or not len(x):
            return problem
        ends = (x == END).cumsum(-1)  # [N, L]
        before = ends == 0
        wrong = {
            "without an end": ends[:, -1] == 0,
            "with ids after the end": ((ends > 0) & (x != PADDING)).sum(-1) > 1,
            "with padding before the end": (before & (x == PADDING)).any(-1),
        }
        for what, rows in wrong.items():
            if bool(rows.any()):
                return f"{int(rows.sum())} of {len(x)} sentences {what}; expected the words' ids, one {END}, then zeros"
        return ""


class TokensLikelihood(Text):
    """Positions that are independent given the latents, with logits [L − 1, ids without padding] from the decoder.

    A position counts if no earlier one is the end. Faster than ``sequence``, but words that depend on each other come from different
    sentences.
    """

    @property
    def output(self) -> tuple[int, ...]:
        return self.steps, self.classes

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        ids = self.read(x, observed)
        log_p = out.log_softmax(-1)
        ids = ids + torch.zeros_like(log_p[..., 0], dtype=torch.long)  # broadcast
        each = log_p.expand(*ids.shape, self.classes).gather(-1, (ids - 1).clamp(min=0)[..., None])[..., 0]
        return functional.pad(torch.where(ids == PADDING, 0, each), (0, 1))

    def written(self, out: Tensor, uniform: Tensor | None) -> Tensor:
        ids = _chosen(out, uniform)  # [..., L - 1]
        ended = (ids == END).cumsum(-1) - (ids == END).long() > 0
        ids = torch.where(ended, PADDING, ids)
        last = torch.where((ids == END).any(-1, keepdim=True), PADDING, END)
        return torch.cat([ids, last], -1).to(out)


class SequenceLikelihood(Text):
    """An autoregressive model of the words, with a context vector from the decoder.

        p(x | out) = Π_t p(x_t | x_1 .. x_{t−1}, out),   h_t = GRU(h_{t−1}, E x_{t−1} + A out),   p(x_t | ·) = softmax(W h_t + b)

    with h_0 = tanh(out), and x_0 a start symbol. The product runs up to the end of the sentence. The cost is that of the words of the
    sentences: nothing is computed for padding.

    Args:
        shape: (L,), the largest number of words and one for the end.
        words: The words of the vocabulary.
        split: "words" or "characters", the rule by which sentences are split.
        units: Size of the hidden state, and of the context vector.
        embedding: Columns of the embedding of a word.

    Raises:
        InputError: As in ``Text``, or a size below 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        words: Sequence[str],
        split: Split = "words",
        units: int = 128,
        embedding: int = 64,
    ) -> None:
        super().__init__(shape, words, split)
        for key, size in (("units", units), ("embedding", embedding)):
            check_count("likelihood 'sequence'", key, size)
        self.units = units
        self.embedding = nn.Embedding(self.vocabulary.size, embedding)
        self.context = nn.Linear(units, embedding)
        self.recurrent = nn.GRU(embedding, units, batch_first=True)
        self.logits = nn.Linear(units, self.classes)

    @property
    def output(self) -> tuple[int, ...]:
        return (self.units,)

    @property
    def width(self) -> int:
        return self.steps * max(self.classes, 3 * self.units)

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        ids = self.read(x, observed)
        ids = ids + torch.zeros_like(out[..., :1], dtype=torch.long)  # broadcast
        lead, rows = ids.shape[:-1], ids[..., 0].numel()
        each = self._log_p(
            out.expand(*lead, self.units).reshape(rows, self.units), ids.reshape(rows, self.steps)
        )
        return functional.pad(each, (0, 1)).view(*lead, self.steps + 1)

    def _log_p(self, out: Tensor, ids: Tensor) -> Tensor:
        """log p(x_t | x_<t, out), 0 at padding: out [N, H], ids [N, L − 1] -> [N, L − 1]."""
        if not len(ids):
            return out.new_zeros(ids.shape)
        lengths = (ids != PADDING).sum(-1)
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        both = torch.stack([functional.pad(ids[:, :-1], (1, 0)), ids, rows], -1)  # [N, L - 1, 3]
        # A row needs at least one step; that of a row without words is dropped below.
        packed = pack_padded_sequence(
            both, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        before, target, row = packed.data.unbind(-1)
        steps = self.embedding(before) + self.context(out).index_select(0, row)
        hidden = self.recurrent(_like(packed, steps), out.tanh()[None])[0].data
        log_p = -functional.cross_entropy(
            self.logits(hidden).to(out.dtype), (target - 1).clamp(min=0), reduction="none"
        )
        each, _ = pad_packed_sequence(_like(packed, log_p), batch_first=True, total_length=self.steps)
        return torch.where(ids == PADDING, 0, each)

    def written(self, out: Tensor, uniform: Tensor | None) -> Tensor:
        lead = out.shape[:-1]
        out = out.reshape(lead.numel(), self.units)
        uniform = None if uniform is None else uniform.reshape(len(out), self.steps)
        ids = torch.zeros(len(out), self.steps + 1, dtype=torch.long, device=out.device)
        context, hidden = self.context(out), out.tanh()[None]
        word, ended = ids[:, 0], torch.zeros(len(out), dtype=torch.bool, device=out.device)
        for step in range(self.steps):
            hidden = self.recurrent((self.embedding(word) + context)[:, None], hidden)[1]
            logits = self.logits(hidden[0]).to(out.dtype)
            word = torch.where(ended, PADDING, _chosen(logits, None if uniform is None else uniform[:, step]))
            ids[:, step] = word
            ended = ended | (word == END)
            if bool(ended.all()):
                break
        ids[:, -1] = torch.where(ended, PADDING, END)
        return ids.view(*lead, self.steps + 1).to(out)


def _like(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def _chosen(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """Ids by logits of all but padding: the most probable, or the one that the uniform number chooses: [..., C], [...] -> [...]."""
    if uniform is None:
        return logits.argmax(-1) + 1
    edges = logits.double().softmax(-1).cumsum(-1)
    found = (uniform.double()[..., None] * edges[..., -1:] >= edges).sum(-1)
    return found.clamp(max=logits.shape[-1] - 1) + 1

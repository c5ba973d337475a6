"""A column of sentences as a modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from polyvae.core.modality import Modality
from polyvae.core.vocabulary import Split, Vocabulary, is_missing, tokens_of
from polyvae.utils.arrays import Table
from polyvae.utils.errors import InputError


class Sentences(NamedTuple):
    """Sentences as a modality.

    Attributes:
        ids: [N, L] whole numbers, a NumPy masked array in which missing sentences are masked.
        modality: The specification, which contains the vocabulary.
    """

    ids: np.ma.MaskedArray[Any, Any]
    modality: Modality


def text(
    sentences: Iterable[str | None],
    words: Sequence[str] | Vocabulary | None = None,
    length: int | None = None,
    *,
    name: str = "caption",
    split: Split = "words",
) -> Sentences:
    """Make a modality from a column of sentences.

    Args:
        sentences: N sentences: a list, or a column of a pandas or polars frame. None and NaN are missing sentences.
        words: The vocabulary; other words become the unknown word. None: all words of ``sentences``. To keep test sentences out of
            it, pass ``Vocabulary.of(training_sentences)`` of ``polyvae.core.vocabulary``.
        length: L, the largest number of words and one for the end. None: that of the longest sentence.
        name: The name of the modality.
        split: "words": lower case, punctuation marks are words. "characters": every character is a word, as it is. Of a Vocabulary, its
            own rule is used.

    Returns:
        ``ids``, for MultimodalData or Batch.of, and the ``modality``, with likelihood "sequence".

    Raises:
        InputError: No sentence, one that is not a string or has no words, or one that is longer than ``length``.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> ids, caption = pv.text(["A red circle.", None, "A blue square."])
        >>> data = pv.MultimodalData(
        ...     {"image": np.zeros((3, 3, 16, 16)), "caption": ids}, modalities=[pv.Modality("image", (3, 16, 16)), caption]
        ... )
        >>> data
        MultimodalData: 3 samples, 2 modalities
          image    (3, 16, 16)  normal    0 % missing
          caption  (5,)         sequence  33.3 % missing
          splits: none; labels: none
        >>> model = pv.MMVAEPlus(data.modalities(), latent=4)
        >>> ids = model.generate(data.take([0, 1]).observe("image"))["caption"]  # [1, 2, 5]
        >>> sentences = model.modalities["caption"].likelihood.vocabulary.decode(ids)
        >>> len(sentences[0])
        2
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise InputError(
            f"text: got {type(sentences).__name__}; expected a list or a column of sentences; put a single one into a list"
        )
    given = list(sentences)
    missing = (
        np.asarray(sentences.isna(), dtype=bool)
        if isinstance(sentences, Table)
        else np.array([is_missing(sentence) for sentence in given], dtype=bool)
    )
    rows = np.flatnonzero(~missing).tolist()
    if not rows:
        raise InputError(
            f"text: got {len(given)} rows without a sentence; expected at least one; check the column that was chosen"
        )
    present: list[str] = []
    for row in rows:
        sentence = given[row]
        if not isinstance(sentence, str):
            raise InputError(
                f"text: got {type(sentence).__name__} in row {row}; expected strings, or None where missing; convert it with str()"
            )
        present.append(sentence)
    if isinstance(words, Vocabulary):
        vocabulary = words
    else:
        vocabulary = Vocabulary.of(present, split) if words is None else Vocabulary(tuple(words), split)
    if length is None:
        length = max(2, 1 + max(len(tokens_of(sentence, vocabulary.split)) for sentence in present))
    encoded = vocabulary.encode(present, length, rows)
    ids = np.zeros((len(given), length), encoded.dtype)
    ids[rows] = encoded
    masked = np.ma.MaskedArray(ids, np.broadcast_to(missing[:, None], ids.shape))
    params = {"words": list(vocabulary.words), "split": vocabulary.split}
    return Sentences(
        masked, Modality(name, ids.shape[1:], likelihood="sequence", network="text", params=params)
    )

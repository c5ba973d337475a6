"""A column of sentences as a modality."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.core.vocabulary import Split, Vocabulary, is_missing, tokens_of
from polyvae.utils.arrays import Table
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import counted

_SHOWN = 5  # unknown words in the warning


class Sentences(NamedTuple):
    """Sentences as a modality. ``MultimodalData({"caption": sentences})`` uses both fields.

    Attributes:
        ids: [N, L] whole numbers, a NumPy masked array in which missing sentences are masked.
        modality: The specification, which contains the vocabulary.
    """

    ids: np.ma.MaskedArray[Any, Any]
    modality: Modality

    @property
    def vocabulary(self) -> Vocabulary:
        """The words; its ``decode`` makes sentences of ids."""
        return _vocabulary(self.modality)


def text(
    sentences: Iterable[str | None],
    words: Sequence[str] | Vocabulary | None = None,
    length: int | None = None,
    *,
    name: str | None = None,
    split: Split = "words",
    like: Modality | MultimodalVAE | None = None,
) -> Sentences:
    """Make a modality from a column of sentences, or encode sentences for a model.

    Args:
        sentences: N sentences: a list, or a column of a pandas or polars frame. None and NaN are missing sentences.
        words: The vocabulary; other words become the unknown word. None: all words of ``sentences``. To keep test sentences out of
            it, pass ``Vocabulary.of(training_sentences)`` of ``polyvae.core.vocabulary``.
        length: L, the largest number of words and one for the end. None: that of the longest sentence.
        name: The name of the modality. None: "caption", or the name in ``like``.
        split: "words": lower case, punctuation marks are words. "characters": every character is a word, as it is. Of a Vocabulary, its
            own rule is used.
        like: A modality of text, or a model, whose words, length and name are used. Of a model with several modalities of text, ``name``
            chooses one.

    Returns:
        ``ids``, for Batch.of, and the ``modality``, with likelihood "sequence". MultimodalData takes the two as one value.

    Warns:
        UserWarning: Words that the given vocabulary lacks.

    Raises:
        InputError: No sentence, one that is not a string or has no words, or one that is longer than ``length``; a table instead of a
            column; ``like`` without a modality of text, or together with ``words``, ``length`` or ``split``.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> data = pv.MultimodalData(
        ...     {"image": np.zeros((3, 3, 16, 16)), "caption": pv.text(["A red circle.", None, "A blue square."])}
        ... )
        >>> data
        MultimodalData: 3 samples, 2 modalities
          image    (3, 16, 16)  normal    0 % missing
          caption  (5,)         sequence  33.3 % missing
          splits: none; labels: none
        >>> model = pv.MMVAEPlus(data.modalities(), latent=4)
        >>> given = pv.text(["A blue circle."], like=model)
        >>> images = model.generate(pv.Batch.of({"caption": given.ids}), K=4)["image"]
        >>> images.shape
        torch.Size([4, 1, 3, 16, 16])
        >>> ids = model.generate(pv.Batch.of({"image": images[:, 0]}))["caption"]  # [1, 4, 5]
        >>> len(given.vocabulary.decode(ids)[0])
        4
    """
    if isinstance(sentences, Iterable) and not isinstance(sentences, str | Table):
        sentences = list(sentences)
    if like is None:
        made = column(sentences, words, length, name="caption" if name is None else name, split=split)
    else:
        if words is not None or length is not None or split != "words":
            raise InputError(
                "text: got like= with words=, length= or split=; expected one of them, because like= has its own; leave the others out"
            )
        spec = _text_of(like, name)
        made = column(sentences, _vocabulary(spec), spec.shape[0], name=spec.name)._replace(modality=spec)
    if words is not None or like is not None:
        _warn_of_unknown(made.vocabulary, sentences, made.modality.name)
    return made


def column(
    sentences: Iterable[str | None],
    words: Sequence[str] | Vocabulary | None = None,
    length: int | None = None,
    *,
    name: str = "caption",
    split: Split = "words",
) -> Sentences:
    """``text`` without a warning of unknown words, for data sets whose rare words are left out."""
    given, missing = _given(sentences)
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
                f"text: got {type(sentence).__name__} in row {row}; expected one column of strings, or None where missing; choose a "
                "column, or convert values with str()"
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


def unpacked(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Modality]]:
    """The arrays, with ids in place of ``Sentences``, and the specifications of these, named as in ``data``."""
    found = {name: x for name, x in data.items() if isinstance(x, Sentences)}
    arrays = {name: found[name].ids if name in found else x for name, x in data.items()}
    return arrays, {name: replace(x.modality, name=name) for name, x in found.items()}


def _given(sentences: object) -> tuple[list[Any], Any]:
    """The rows, and which of them are missing: [N] bool."""
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise InputError(
            f"text: got {type(sentences).__name__}; expected a list or a column of sentences; put a single one into a list"
        )
    if not isinstance(sentences, Table):
        given = list(sentences)
        return given, np.array([is_missing(sentence) for sentence in given], dtype=bool)
    missing = np.asarray(sentences.isna(), dtype=bool)
    if missing.ndim != 1:
        raise InputError(
            f"text: got a table of {missing.shape[1]} columns; expected one column of sentences; choose it, such as frame['caption']"
        )
    return list(sentences), missing


def _vocabulary(spec: Modality) -> Vocabulary:
    return Vocabulary(tuple(spec.params["words"]), spec.params.get("split", "words"))


def _text_of(like: object, name: str | None) -> Modality:
    """The specification of text that ``like`` is or has."""
    if not isinstance(like, Modality | MultimodalVAE):
        raise InputError(
            f"text: got like={type(like).__name__}; expected a Modality or a model; load a stored model with pv.load_model"
        )
    specs = [like] if isinstance(like, Modality) else like.specs
    found = {spec.name: spec for spec in specs if "words" in spec.params}
    if name is not None and name not in found:
        raise InputError(f"text: there is no modality of text {name!r} in like=; {nearest(name, found)}")
    if name is None and len(found) != 1:
        raise InputError(
            f"text: got like= with {counted(len(found), 'modality', 'modalities')} of text; expected one; "
            + (f"choose one of {', '.join(found)} with name=" if found else "text() without like= makes one")
        )
    return found[name] if name is not None else next(iter(found.values()))


def _warn_of_unknown(vocabulary: Vocabulary, sentences: Iterable[str | None], name: str) -> None:
    known = set(vocabulary.words)
    words = [
        word
        for sentence in sentences
        if isinstance(sentence, str)
        for word in tokens_of(sentence, vocabulary.split)
    ]
    unknown = list(dict.fromkeys(word for word in words if word not in known))
    if unknown:
        more = ", ..." if len(unknown) > _SHOWN else ""
        warnings.warn(
            f"text: modality {name!r}: got {counted(len(unknown), 'word', 'words')} that the vocabulary lacks: "
            f"{', '.join(map(repr, unknown[:_SHOWN]))}{more}; expected known ones; they are encoded as the unknown word",
            stacklevel=3,
        )

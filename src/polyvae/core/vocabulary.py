"""The words of a text modality: sentences as token ids and back.

Ids: 0 is padding, 1 the end of a sentence, 2 an unknown word, and 3 the first word. A sentence of n words has n ids, then one 1, then
zeros.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from polyvae.utils.arrays import numpy_array
from polyvae.utils.errors import InputError, check_count, nearest
from polyvae.utils.records import LONGEST

PADDING, END, UNKNOWN, FIRST = 0, 1, 2, 3
Split = Literal["words", "characters"]
SPLITS = ("words", "characters")
_TOKEN = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_BEFORE = re.compile(r" ([.,;:!?%)\]}])")  # no space before these
_AFTER = re.compile(r"([(\[{]) ")  # no space after these
_UNKNOWN = {"words": "<unknown>", "characters": "\ufffd"}


@dataclass(frozen=True)
class Vocabulary:
    """The known words, and how a sentence is split into them.

    With ``split="words"``, a sentence is converted to lower case. A word is a run of letters, digits and underscores, with hyphens and
    apostrophes inside; every other character but white space is a word of its own. With ``split="characters"``, every character is a
    word, as it is: for strings without spaces, such as molecules or sequences.

    Args:
        words: The words, distinct. Word i has the id i + 3.
        split: "words" or "characters".

    Raises:
        InputError: No words, a repeated word, one that the rule would split or change, one of more than 1,000
            characters, or an unknown rule.

    Example:
        >>> from polyvae.core.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary.of(["A red circle.", "a blue circle"])
        >>> vocabulary.words
        ('a', 'circle', '.', 'blue', 'red')
        >>> ids = vocabulary.encode(["A blue square."], length=6)
        >>> ids.tolist()
        [[3, 6, 2, 5, 1, 0]]
        >>> vocabulary.decode(ids)
        ['a blue <unknown>.']
    """

    words: tuple[str, ...]
    split: Split = "words"

    def __post_init__(self) -> None:
        check_split(self.split)
        if isinstance(self.words, str) or not isinstance(self.words, Sequence):
            raise InputError(
                f"vocabulary: got words of type {type(self.words).__name__}; expected a list of strings; "
                "Vocabulary.of(sentences) collects them"
            )
        object.__setattr__(self, "words", tuple(self.words))
        if not self.words:
            raise InputError(
                "vocabulary: got no words; expected at least one; Vocabulary.of(sentences) collects them"
            )
        for word in self.words:
            if not isinstance(word, str) or tokens_of(word, self.split) != [word]:
                raise InputError(
                    f"vocabulary: got {word!r:.60} as a word; expected one that split={self.split!r} leaves as it is; "
                    "Vocabulary.of(sentences) makes such words"
                )
            if len(word) > LONGEST:  # a bundle with such a word could not be read
                raise InputError(
                    f"vocabulary: got a word of {len(word):,} characters, {word[:20]!r}...; expected at most {LONGEST:,}; split "
                    "strings without spaces with split='characters', or shorten it"
                )
        twice = [word for word, times in Counter(self.words).items() if times > 1]
        if twice:
            raise InputError(
                f"vocabulary: got {twice[0]!r} more than once; expected distinct words; drop the repeated ones"
            )
        object.__setattr__(self, "_number", {word: FIRST + i for i, word in enumerate(self.words)})

    @classmethod
    def of(
        cls, sentences: Iterable[str], split: Split = "words", most: int | None = None, least: int = 1
    ) -> Vocabulary:
        """The words of these sentences, by decreasing frequency, equally frequent ones in alphabetical order.

        Args:
            sentences: The sentences, of the training data alone where others are to be predicted.
            split: "words" or "characters".
            most: Keep this many words at most; None: all. The others become unknown words.
            least: Keep the words that occur at least this often.

        Raises:
            InputError: An unknown rule, a sentence that is not a string, or no words.
        """
        check_split(split)
        if most is not None:
            check_count("vocabulary", "most", most)
        check_count("vocabulary", "least", least)
        counts: Counter[str] = Counter()
        for row, sentence in enumerate(_listed(sentences)):
            counts.update(_split(sentence, row, split))
        kept = [word for word, times in counts.items() if times >= least]
        if counts and not kept:
            raise InputError(
                f"vocabulary: got no word that occurs {least} times; expected some; take a smaller least"
            )
        ranked = sorted(kept, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:most]), split)

    @property
    def size(self) -> int:
        """The number of ids: the words and three special ones."""
        return FIRST + len(self.words)

    def encode(self, sentences: Iterable[str], length: int, rows: Sequence[int] | None = None) -> Any:
        """Sentences as ids.

        Args:
            sentences: N sentences. Words that are not in the vocabulary become the id 2.
            length: L, at least the number of words of the longest sentence and one for the end.
            rows: What the N sentences are called in errors; None: 0, 1, 2, ...

        Returns:
            [N, L] whole numbers, a NumPy array of uint8, or int16 or int32 if the vocabulary needs it.

        Raises:
            InputError: A sentence without words, one that is too long, or one that is not a string.
        """
        check_count("vocabulary", "length", length, 2)
        given = _listed(sentences)
        called = range(len(given)) if rows is None else rows
        split = [_split(sentence, row, self.split) for row, sentence in zip(called, given, strict=True)]
        kinds = (torch.uint8, torch.int16, torch.int32)
        kind = next(kind for kind in kinds if self.size - 1 <= torch.iinfo(kind).max)
        ids = []
        known: dict[str, int] = self.__dict__["_number"]
        for row, words in zip(called, split, strict=True):
            if not words:
                raise InputError(
                    f"vocabulary: got an empty sentence in row {row}; expected at least one word; mark the sample as missing"
                )
            if len(words) >= length:
                raise InputError(
                    f"vocabulary: got a sentence of {len(words)} words in row {row}; expected at most {length - 1}, and the "
                    f"end, for length={length}; shorten the sentence, or set length={len(words) + 1} or more for a new model"
                )
            row_ids = [*(known.get(word, UNKNOWN) for word in words), END]
            ids.append(row_ids + [PADDING] * (length - len(row_ids)))
        return torch.tensor(ids, dtype=kind).view(-1, length).numpy()

    def decode(self, ids: Any) -> list[Any]:
        """Ids as sentences. What follows the end, and padding, are left out.

        Args:
            ids: [N, L] whole numbers of any type, an array or a tensor.

        Returns:
            N sentences; nested lists of them if the ids have more axes, such as [K, N, L].

        Raises:
            InputError: Ids that are not whole numbers of this vocabulary, or a single row.
        """
        given = numpy_array("ids", ids)
        if given.ndim < 2:
            raise InputError(
                f"vocabulary: got ids of shape {given.shape}; expected [N, L], a row per sentence; add an axis"
            )
        wrong = ~((given >= 0) & (given < self.size) & (given % 1 == 0))
        if wrong.any():
            raise InputError(
                f"vocabulary: got {given[wrong][0]!s} among the ids; expected whole numbers from 0 to {self.size - 1}; "
                "decode them with the vocabulary that encoded them"
            )
        if given.ndim > 2:
            return [self.decode(part) for part in given]
        return [self._sentence(row) for row in given.astype(int).tolist()]

    def _sentence(self, row: list[int]) -> str:
        row = row[: row.index(END)] if END in row else row
        words = [_UNKNOWN[self.split] if i == UNKNOWN else self.words[i - FIRST] for i in row if i != PADDING]
        if self.split == "characters":
            return "".join(words)
        return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", " ".join(words)))


def check_split(split: object) -> None:
    """Raises InputError unless ``split`` is the name of a rule."""
    if split not in SPLITS:
        raise InputError(f"vocabulary: unknown split {split!r}; {nearest(str(split), SPLITS)}")


def tokens_of(sentence: str, split: Split) -> list[str]:
    """The words of a sentence, by the rule ``split`` of ``Vocabulary``."""
    return list(sentence) if split == "characters" else _TOKEN.findall(sentence.lower())


def is_missing(sentence: object) -> bool:
    """Whether a value stands for no sentence: None or NaN."""
    return sentence is None or (isinstance(sentence, float) and math.isnan(sentence))


def _split(sentence: object, row: int, split: Split) -> list[str]:
    if not isinstance(sentence, str):
        what = "a missing sentence" if is_missing(sentence) else type(sentence).__name__
        raise InputError(
            f"vocabulary: got {what} in row {row}; expected strings; leave missing ones out, or use polyvae.text"
        )
    return tokens_of(sentence, split)


def _listed(sentences: object) -> list[Any]:
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise InputError(
            f"vocabulary: got {type(sentences).__name__}; expected a list of sentences; put a single one into a list"
        )
    return list(sentences)

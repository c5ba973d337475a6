"""Captions of data sets: cut to a length, and the words that are frequent enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from polyvae.core.vocabulary import Vocabulary, tokens_of
from polyvae.utils.errors import InputError


def cut(sentence: str, length: int) -> str | None:
    """The first ``length`` − 1 words of a sentence, separated by spaces; None where there are none."""
    return " ".join(tokens_of(sentence, "words")[: length - 1]) or None


def frequent(sentences: Iterable[str], least: int) -> Vocabulary:
    """The words that occur at least ``least`` times, the most frequent first. Raises InputError: there are none."""
    counts = Counter(word for sentence in sentences for word in tokens_of(sentence, "words"))
    words = sorted(
        (word for word, times in counts.items() if times >= least), key=lambda word: (-counts[word], word)
    )
    if not words:
        raise InputError(
            f"captions: got no word that occurs {least} times; expected some; take a smaller least"
        )
    return Vocabulary(tuple(words))

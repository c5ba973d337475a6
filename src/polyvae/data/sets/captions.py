"""Captions of data sets, cut to a length."""

from __future__ import annotations

from polyvae.core.vocabulary import tokens_of


def cut(sentence: str, length: int) -> str | None:
    """The first ``length`` − 1 words of a sentence, separated by spaces; None where there are none."""
    return " ".join(tokens_of(sentence, "words")[: length - 1]) or None

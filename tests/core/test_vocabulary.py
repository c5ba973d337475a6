"""Sentences as ids and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from polyvae import InputError
from polyvae.core.vocabulary import Vocabulary

WORDS = Vocabulary(("a", "red", "don't", ".", "semi-circle"))


def test_words_are_ordered_by_frequency_then_alphabet():
    found = Vocabulary.of(["b a, b", "c A"])
    assert found.words == ("a", "b", ",", "c")
    assert Vocabulary.of(["b a, b", "c A"], most=2).words == ("a", "b")
    assert Vocabulary.of(["b a, b", "c a a"], least=2).words == ("a", "b")
    assert found.size == 7


def test_ids_are_words_the_end_and_zeros():
    ids = WORDS.encode(["A red semi-circle.", "don't!"], 6)
    assert ids.tolist() == [[3, 4, 7, 6, 1, 0], [5, 2, 1, 0, 0, 0]]
    assert ids.dtype == np.uint8
    assert Vocabulary(tuple(f"w{i}" for i in range(253))).encode(["w252"], 2).tolist() == [[255, 1]]
    large = Vocabulary(tuple(f"w{i}" for i in range(254))).encode(["w253"], 2)
    assert large.dtype == np.int16
    assert large.tolist() == [[256, 1]]


def test_decode_inverts_encode():
    assert WORDS.decode(WORDS.encode(["a red, don't."], 7)) == ["a red <unknown> don't."]
    assert WORDS.decode([[3, 1, 4, 0], [1, 0, 0, 0]]) == ["a", ""]  # nothing after the end
    assert WORDS.decode(np.array([[[3.0, 1.0]], [[4.0, 1.0]]])) == [["a"], ["red"]]
    letters = Vocabulary.of(["CC(=O)c", "N"], split="characters")
    assert letters.decode(letters.encode(["c(=N)C"], 7)) == ["c(=N)C"]
    assert letters.decode(letters.encode(["X"], 2)) == ["\ufffd"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Vocabulary(()), "no words"),
        (lambda: Vocabulary(("a", "a")), "'a' more than once"),
        (lambda: Vocabulary(("A",)), "'A' as a word"),
        (lambda: Vocabulary(("a b",)), "'a b' as a word"),
        (lambda: Vocabulary(("ab",), "characters"), "'ab' as a word"),
        (lambda: Vocabulary.of(["acgt" * 300]), "a word of 1,200 characters"),
        (lambda: Vocabulary("abc"), "words of type str"),
        (lambda: Vocabulary(("a",), "letters"), "unknown split"),
        (lambda: Vocabulary.of("a b"), "got str"),
        (lambda: Vocabulary.of(["a"], most=0), "most=0"),
        (lambda: Vocabulary.of(["a b"], least=2), "no word that occurs 2 times"),
        (lambda: WORDS.encode(["a", "a a a"], 3), "3 words in row 1; expected at most 2"),
        (lambda: WORDS.encode([" "], 3), "empty sentence in row 0"),
        (lambda: WORDS.encode(["a", None], 3), "missing sentence in row 1"),
        (lambda: WORDS.decode([[9, 1]]), "got 9"),
        (lambda: WORDS.decode([[0.5, 1]]), "got 0.5"),
        (lambda: WORDS.decode([3, 1]), "shape (2,)"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(InputError) as problem:
        call()
    assert says in str(problem.value)
    assert "\n" not in str(problem.value)

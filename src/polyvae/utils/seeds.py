"""Seeds from seeds: a counter-based hash that gives the same bits on every platform and in every version of every library.

Everything that is drawn has a stream, and every stream a name: ``fold_in(seed, "batch", epoch, step)``. Streams of different names do not
start from the same state, except for those that had numbers first: with one seed, the order of epoch 1 starts from the state of ``hide``,
and epochs 2, 3, 4,409 and 7,031 from those of the split, ``carve``, the initial weights and validation. They draw
different things from it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def mix(*integers: int) -> int:
    """One seed in [0, 2**63) from any integers: equal for equal arguments, unrelated for any others (splitmix64's finaliser).

    Order counts; negative integers are legal. Prefer ``fold_in``, in which streams have names.
    """
    state = len(integers)
    for integer in integers:
        state = _scramble((state ^ (integer & _WORD)) + _STEP & _WORD)
    return state >> 1


_NUMBERED: dict[str, tuple[int, ...]] = {
    "epoch": (),  # followed by the epoch
    "step": (),  # followed by the step and the rank
    "validation": (7_031,),
    "initial weights": (4_409,),
    "hide": (1,),
    "split": (2,),
    "carve": (3,),
}
"""Streams that had numbers before they had names. They keep them: runs resume bit for bit, and data keep their digest. Add none."""


def fold_in(seed: int, *path: str | int) -> int:
    """The seed of a stream, in [0, 2**63): equal for equal arguments, unrelated for any others.

    Args:
        seed: The seed of the user.
        path: The name of the stream, and the integers or further names that distinguish its members, such as
            ``"coherence/conditional", number``.
    """
    words: list[int] = []
    for part in path:
        words += [part] if isinstance(part, int) else _NUMBERED.get(part, (_word(part),))
    return mix(int(seed), *words)  # of NumPy too, whose integers overflow


def bits(count: int, *key: int) -> NDArray[np.uint64]:
    """``count`` independent 64-bit words that are a function of ``key`` alone: [count]."""
    with np.errstate(over="ignore"):
        word = np.uint64(mix(*key)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
        word = (word ^ word >> np.uint64(30)) * np.uint64(_FIRST)
        word = (word ^ word >> np.uint64(27)) * np.uint64(_SECOND)
        return word ^ word >> np.uint64(31)


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0 .. count - 1 that is a function of ``key`` alone: [count]."""
    return np.argsort(bits(count, *key), kind="stable").astype(np.int64)


def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _scramble(word: int) -> int:
    word = (word ^ word >> 30) * _FIRST & _WORD
    word = (word ^ word >> 27) * _SECOND & _WORD
    return word ^ word >> 31

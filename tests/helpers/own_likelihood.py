"""Likelihoods outside the library, which a model names by their import path."""

from __future__ import annotations

from polyvae.core.likelihoods import LIKELIHOODS, NormalLikelihood


class Rounded(NormalLikelihood):
    """A normal likelihood whose mean is rounded to multiples of ``step``."""

    def __init__(self, shape, step: float = 1.0):
        super().__init__(shape)
        self.step = step

    def mean(self, out, library=None):
        return (out / self.step).round() * self.step


def no_likelihood(shape):
    return shape


def sentence(shape, words):
    """A function, not a class, that makes a likelihood of ids."""
    return LIKELIHOODS["tokens"](shape, words=words)

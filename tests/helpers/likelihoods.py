"""Parameters that likelihoods require, and values that they can have, for tests over all of LIKELIHOODS."""

from __future__ import annotations

from typing import Any

import numpy as np

from polyvae import LIKELIHOODS

NUMBERS = tuple(sorted(LIKELIHOODS.keys() - {"sequence", "tokens"}))
"""The likelihoods of anything but sentences."""


def required(name: str, columns: int = 1) -> dict[str, Any]:
    """The parameters without a default, for samples whose last axis is ``columns`` long."""
    if name == "mixed":
        kinds = [["normal", 1], ["ordinal", 1, {"levels": 3}], ["bernoulli", 1], ["poisson", 1]]
        rest = [["categorical", columns - 4]] if columns > 4 else []
        return {"parts": [*kinds[:columns], *rest]}
    return {"ordinal": {"levels": 3}, "beta_binomial": {"total": 6}}.get(name, {})


def fitting(name: str, shape: tuple[int, ...], rows: int, random: np.random.Generator) -> np.ndarray:
    """Values [rows, *shape] that the likelihood ``name`` with its ``required`` parameters can have produced."""
    size = (rows, *shape)
    if name == "bernoulli":
        return (random.random(size) < 0.5).astype(float)
    if name in ("categorical", "segmentation"):
        axis = 1 if name == "segmentation" else len(shape)
        chosen = np.expand_dims(random.integers(0, shape[axis - 1], np.delete(size, axis)), axis)
        steps = np.arange(shape[axis - 1]).reshape([-1 if d == axis else 1 for d in range(len(size))])
        return (chosen == steps).astype(float)
    if name == "ordinal":
        return random.integers(0, 3, size)
    if name == "beta_binomial":
        return random.integers(0, 7, size)
    if name == "beta":
        return random.beta(0.5, 2, size).clip(1e-6, 1 - 1e-6)
    if name == "discretised_logistic":
        return random.integers(0, 256, size) / 255
    if "poisson" in name or "binomial" in name:
        return random.integers(0, 1000, size)
    if name == "mixed" and len(shape) == 1:
        parts = required("mixed", shape[0])["parts"]
        own = [fitting(kind, (count,), rows, random) for kind, count, *_ in parts]
        return np.concatenate(own, 1)
    return random.normal(size=size)

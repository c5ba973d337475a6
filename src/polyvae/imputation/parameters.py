"""What the parameters of an estimator may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyvae.data.regroup import check_kinds
from polyvae.imputation.covariates.conditions import names_of
from polyvae.utils.devices import device_of
from polyvae.utils.errors import InputError, check_count, is_number

_TYPES = (
    ("model", str, "the name of a model"),
    ("seed", (int, np.integer), "a whole number"),
    ("options", dict, "a mapping, or None"),
    ("network", dict, "a mapping, or None"),
    ("units", dict, "a mapping, or None"),
)
_CHOICES = (
    ("target", ("auto", "class", "number", "time")),
    ("missing_columns", ("error", "mask")),
    ("unseen_classes", ("error", "mask")),
)


def check_parameters(given: Mapping[str, Any]) -> None:
    """Check the parameters of an estimator.

    Args:
        given: All of them, by name.

    Raises:
        InputError: One of another type, or out of range.
    """
    check_kinds(given["kinds"])
    names_of(given["covariates"])
    check_count("estimator", "latent", given["latent"])
    check_count("estimator", "members", given["members"], 2)
    if given["steps"] is not None:
        check_count("estimator", "steps", given["steps"])
    if given["max_samples"] is not None:
        check_count("estimator", "max_samples", given["max_samples"], 2)
    for name, kind, expected in _TYPES:
        value = given[name]
        if not isinstance(value, kind) and not (value is None and kind is dict):
            raise InputError(f"estimator: got {name}={value!r}; expected {expected}; correct it")
    for name, own in (given["units"] or {}).items():
        if not isinstance(own, dict):
            raise InputError(
                f"estimator: got units of {name!r}: {own!r}; expected a mapping from features to units; correct it"
            )
    for name, known in _CHOICES:
        if given[name] not in known:
            raise InputError(
                f"estimator: got {name}={given[name]!r}; expected one of {', '.join(known)}; choose one"
            )
    device_of("estimator", given["device"])
    limit = given["max_seconds"]
    if limit is not None and (not is_number(limit) or limit <= 0):
        raise InputError(
            f"estimator: got max_seconds={limit!r}; expected a number above 0; None sets no limit"
        )

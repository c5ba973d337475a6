"""polyvae's Estimator behind the interface of the other methods."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.imputation.tables import Skipped, Views, blank, present

Array = NDArray[np.floating]


class Filled(NamedTuple):
    """An imputation of one modality with its interval: [N, F] each."""

    values: Array
    low: Array
    high: Array


class Stack:
    """``pv.Estimator(seed=0)`` with its defaults."""

    def __init__(self, train: Views) -> None:
        if importlib.util.find_spec("polyvae.imputation.estimator") is None:
            raise Skipped("this version of polyvae has no Estimator")
        from polyvae.imputation.estimator import Estimator

        self.names = list(train)
        self.columns = {name: x.shape[1] for name, (x, _) in train.items()}
        self.estimator: Any = Estimator(seed=0).fit(as_data(train))

    def __call__(self, inputs: Views, target: str) -> Array:
        return values(self.estimator.impute(self._given(inputs)), target)

    def interval(self, inputs: Views, target: str, level: float) -> Filled:
        """The imputation of ``target`` with its central interval."""
        filled = self.estimator.impute(self._given(inputs), interval=level)
        return Filled(*(values(part, target) for part in filled))

    def embed(self, inputs: Views) -> Array:
        """One embedding per row: [N, D]."""
        return np.asarray(self.estimator.transform(self._given(inputs)))

    def _given(self, inputs: Views) -> Any:
        """All modalities of the training data; those that are not among the inputs are missing."""
        rows = len(next(iter(inputs.values()))[0])
        empty = {name: np.zeros((rows, width), np.float32) for name, width in self.columns.items()}
        return as_data({name: inputs.get(name, blank((x, x > 0))) for name, x in empty.items()})


def as_data(views: Views) -> Any:
    from polyvae.data.multimodal import MultimodalData

    return MultimodalData(
        {name: x for name, (x, _) in views.items()},
        mask={name: present(one) for name, one in views.items()},
        entries={name: seen for name, (_, seen) in views.items()},
    )


def values(data: Any, name: str) -> Array:
    """One modality of MultimodalData as an array: [N, F]."""
    return data.values(name).numpy()

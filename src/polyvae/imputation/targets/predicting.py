"""What ``predict`` returns: columns of numbers, classes or risks, with intervals or sets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.multimodal import MultimodalData
from polyvae.data.schema import Schema
from polyvae.imputation.filling.classes import sets
from polyvae.imputation.filling.fill import blocks
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.tables import Doubles, Floats
from polyvae.imputation.targets.hazards import Hazards
from polyvae.imputation.targets.target import TARGET, Target
from polyvae.imputation.understanding.embedding import Embedding
from polyvae.utils.errors import InputError, is_number
from polyvae.utils.text import counted


class Predictions(NamedTuple):
    """Columns of predictions.

    Attributes:
        values: [N], or [N, C].
        names: One name, or C names.
    """

    values: NDArray[Any]
    names: Sequence[str]


class Outcome(NamedTuple):
    """A class or a number of N samples.

    Attributes:
        values: [N], numbers or classes.
        chances: [N, C], of classes; None: y is a number.
        reach: [N], see ``Target.reach``; infinite without a level.
    """

    values: NDArray[Any]
    chances: Doubles | None
    reach: Doubles

    def with_interval(self, target: Target) -> Predictions:
        """Numbers with the ends of intervals, or whether each class is in the set; the most probable class always is."""
        if np.isinf(self.reach).any():
            warnings.warn(
                "predict: intervals or sets are infinite where too few training samples of a pattern have a known y to calibrate them; "
                "a lower probability needs fewer",
                stacklevel=3,
            )
        if target.classes is None or self.chances is None:
            ends = [self.values, self.values - self.reach, self.values + self.reach]
            return Predictions(np.stack(ends, 1), ["prediction", "lower", "upper"])
        return Predictions(sets(self.chances, self.reach), [str(each) for each in target.classes])


def outcome(
    schema: Schema, imputer: Imputer, target: Target, data: MultimodalData, level: float | None = None
) -> Outcome:
    """Predict a class or a number.

    Args:
        schema: The schema of the training data.
        imputer: The fitted imputer, with the target among its tables.
        target: The target.
        data: Samples, aligned with the schema.
        level: The probability that intervals or sets cover. None: none are computed.
    """
    predicted, reach = _predicted(schema, imputer, target, data, level)
    return Outcome(*target.read(predicted), reach)


def _predicted(
    schema: Schema, imputer: Imputer, target: Target, data: MultimodalData, level: float | None
) -> tuple[Floats, Doubles]:
    """The standardised prediction [N, W], and the reach of its intervals or sets [N]."""
    predicted, reach = np.zeros((len(data), target.width), np.float32), np.full(len(data), np.inf)
    for rows, part in blocks(schema, data):
        for found in imputer.impute(target.missing_beside(part)):
            if found.name == TARGET:
                predicted[rows[found.rows]] = found.values
                if level is not None:
                    reach[rows[found.rows]] = target.reach(found.combination, level)
    return predicted, reach


def risks(
    schema: Schema, imputer: Imputer, embedding: Embedding, hazards: Hazards, data: MultimodalData
) -> Doubles:
    """The log relative hazards [N] of samples that are aligned with the schema."""
    found = np.zeros(len(data))
    for rows, part in blocks(schema, data):
        found[rows] = hazards.risk(imputer, embedding, part)
    return found


def of_risk(hazards: Hazards, eta: Doubles, level: float | None) -> Predictions:
    """The risk; with a level also the median time and the quantiles of the survival curve between which it has this probability."""
    if level is None:
        return Predictions(eta, ["risk"])
    curve = hazards.curve
    ends = [curve.quantile(eta, probability) for probability in (0.5, (1 - level) / 2, (1 + level) / 2)]
    return Predictions(np.stack([eta, *ends], 1), ["risk", "median", "lower", "upper"])


def survival(hazards: Hazards, eta: Doubles, times: Any) -> Predictions:
    """P(T > t) of log relative hazards [N]. Warns of times after the last one observed. Raises InputError: no numbers of 0 or more."""
    curve = hazards.curve
    if times is None:
        at = curve.time
    else:
        given = list(np.atleast_1d(np.asarray(times, dtype=object)))
        if not given or not all(is_number(each) and each >= 0 for each in given):
            raise InputError(
                f"predict_survival: got times {times!r}; expected one or more numbers of 0 or more, in the unit of y; such as [365, 730]"
            )
        at = np.array(given, np.float64)
        last = float(hazards.given.time.max())
        late = int((at > last).sum())
        if late:
            warnings.warn(
                f"predict_survival: {counted(late, 'time is', 'times are')} later than the last one of the training samples ({last:.10g}), "
                "after which nothing is known; the curves stay at their last value",
                stacklevel=3,
            )
    return Predictions(curve.survival(eta, at), [f"{float(t):.10g}" for t in at])


# ---- tables of predictions ---------------------------------------------------------------------------------------


class TargetPredictor(NamedTuple):
    """What predicts a target, as columns of a table.

    Attributes:
        schema: The schema of the training data.
        imputer: The fitted imputer.
        embedding: The embedding.
        target: A class or a number; None: it is a time to event.
        hazards: The model of a time to event; None: the target is a class or a number.
        level: The probability that intervals or sets cover; None: there are none.
        times: Of a time to event, the times for which the survival curve is written.
    """

    schema: Schema
    imputer: Imputer
    embedding: Embedding
    target: Target | None
    hazards: Hazards | None
    level: float | None = None
    times: Sequence[float] = ()

    @property
    def width(self) -> int:
        """The number of columns of ``numbers``."""
        return 1 if self.target is None else self.target.width + 1

    def numbers(self, data: MultimodalData) -> Doubles:
        """What ``columns`` needs of samples that are aligned with the schema, [N, width]."""
        if self.target is None:
            assert self.hazards is not None
            return risks(self.schema, self.imputer, self.embedding, self.hazards, data)[:, None]
        predicted, reach = _predicted(self.schema, self.imputer, self.target, data, self.level)
        return np.concatenate([predicted, reach[:, None]], 1, dtype=np.float64)

    def columns(self, numbers: Doubles, name: str) -> dict[str, NDArray[Any]]:
        """The columns of predictions.

        Args:
            numbers: What ``numbers`` returned, of some or all samples.
            name: The name of the column of a class or a number.

        Returns:
            Name -> [N]. Of a number the prediction, with a level also lower and upper; of a class the most probable one, the probability
            of each, p(CLASS), and with a level its set, whose classes are separated by a bar; of a time to event the risk and the median,
            with a level also lower and upper, and S(T) for each time.
        """
        if self.target is None:
            return self._of_risk(numbers[:, 0])
        predicted = numbers[:, :-1].astype(np.float32)
        result = Outcome(*self.target.read(predicted), numbers[:, -1])
        found: dict[str, NDArray[Any]] = {name: result.values}
        if self.target.classes is not None and result.chances is not None:
            found |= {
                f"p({each})": column
                for each, column in zip(self.target.classes, result.chances.T, strict=True)
            }
        if self.level is not None:
            found |= _ends(result.with_interval(self.target), self.target.classes)
        return found

    def _of_risk(self, eta: Doubles) -> dict[str, NDArray[Any]]:
        assert self.hazards is not None
        ends = of_risk(self.hazards, eta, 0.9 if self.level is None else self.level)
        shown = ends.names if self.level is not None else ends.names[:2]
        found = {name: ends.values[:, at] for at, name in enumerate(shown)}
        if len(self.times):
            curves = survival(self.hazards, eta, list(self.times))
            found |= {f"S({t})": curves.values[:, at] for at, t in enumerate(curves.names)}
        return found


def _ends(found: Predictions, classes: Sequence[Any] | None) -> dict[str, NDArray[Any]]:
    """The columns lower and upper of a number; of classes one with the set, its classes separated by a bar."""
    if classes is None:
        return {"lower": found.values[:, 1], "upper": found.values[:, 2]}
    sets = [
        "|".join(name for name, inside in zip(found.names, row, strict=True) if inside)
        for row in found.values.tolist()
    ]
    return {"set": np.array(sets, dtype=object)}

"""Schema: what the features of the training data are, and how new data are brought into their order, scale and units."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.data.covariates import Known, encoded, known_of
from polyvae.data.groups import Decoder, Group, Levels, Unseen, generated, groups_of, original
from polyvae.data.kept import Kept
from polyvae.data.logscale import Asking, amounts, asked_for, chosen, logarithms, on_logs, refuse_negative
from polyvae.data.mismatch import no_columns, sized
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.classes import Ask, Asked
from polyvae.data.regroup import regrouped
from polyvae.data.sparse import columns_of
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.records import Record
from polyvae.utils.text import counted, named

Kind = Literal["real", "count", "binary", "categorical", "ordinal"]
_LARGEST = 1e30  # above it, float32 cannot hold predictions, and squares of float64 overflow above 1e150
_FAR = 10  # widths of the range seen, beyond which a value is far outside
_CELLS = 2**22  # values that are converted to float64 at a time


class Features(Record):
    """The features of one modality.

    Args:
        name: The modality.
        shape: The shape of one sample; a modality of several axes is described by its entries in row-major order.
        columns: The names of the F features.
        named: Whether the training data named them. If not, they were generated and are matched by position.
        kinds: "real", "count" or "binary", by the observed training values; "categorical" for each column of an unordered class, and
            "ordinal" for ranks of more than two.
        center: Means of the observed training values; on the scale log(1 + x) of their logarithms.
        scale: Their standard deviations, with divisor n; 1 where a feature is constant. On the scale log(1 + x) the root of their mean
            variance, for all features: rare counts vary little, and at equal variance their noise would outweigh the others. With
            covariates those of what these leave.
        low: The smallest observed values.
        high: The largest observed values.
        constant: The names of features with one value only, or none.
        units: Feature -> unit, for text in reports.
        groups: The columns of classes in the data, each stored as several columns of zeros and ones, or as one of ranks.
        log_scale: Whether the features other than 0 and 1 are described on the scale log(1 + x).
        deviation: Their standard deviations where ``scale`` is that of what covariates leave; empty: ``scale``.
    """

    name: Annotated[str, Field(min_length=1)]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    columns: list[str]
    named: bool
    kinds: list[Kind]
    center: list[float]
    scale: list[Annotated[float, Field(gt=0)]]
    low: list[float]
    high: list[float]
    constant: list[str]
    units: dict[str, str]
    groups: list[Group] = Field(default_factory=list)
    log_scale: bool = False
    deviation: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)

    @property
    def logs(self) -> NDArray[np.bool_]:
        """Which features are on the scale log(1 + x), [F]."""
        return on_logs(self.kinds) & self.log_scale

    @property
    def deviations(self) -> list[float]:
        """The standard deviations of the observed training values, with divisor n; 1 where a feature is constant."""
        return self.deviation or self.scale

    @property
    def originals(self) -> list[str]:
        """The names of the columns in the data, of which one of classes may be several features."""
        return Decoder({self.name: self.groups}).columns(self.name, self.columns)

    @property
    def known(self) -> dict[str, Levels | None]:
        """Column in the data -> its classes, None for numbers."""
        own = {group.name: group.classes for group in self.groups}
        return {column: own.get(column) for column in self.originals}

    def standardised(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [n, F] less the training means, divided by the training standard deviations, after logarithms where these are asked for.

        Args:
            values: In units.
        """
        if self.log_scale:
            refuse_negative(self.name, self.columns, (values < 0).any(0) & self.logs)
            values = logarithms(values, self.logs)
        scaled = (values - np.asarray(self.center)) / np.asarray(self.scale)
        return np.asarray(np.clip(scaled, -_LARGEST, _LARGEST))  # beyond, float32 is infinite

    @model_validator(mode="after")
    def _lengths(self) -> Features:
        size = math.prod(self.shape)
        for key in ("columns", "kinds", "center", "scale", "low", "high"):
            if len(getattr(self, key)) != size:
                raise ValueError(f"{key} of length {size}, one for each feature")
        if len(self.deviation) not in (0, size):
            raise ValueError(f"deviation of length {size}, one for each feature, or none")
        if len(set(self.columns)) != size:
            raise ValueError("distinct names of columns")
        stop = 0
        for group in self.groups:
            inside = self.columns[group.columns] == group.classes.columns(group.name)
            if group.start < stop or not inside or len(set(map(str, group.levels))) < len(group.levels):
                raise ValueError("groups of distinct classes, in order, each with the columns of its classes")
            stop = group.columns.stop
        return self


class Standardised(NamedTuple):
    """Values [N, F] float32, standardised and zero where missing; and which were observed, [N, F] bool."""

    values: NDArray[np.float32]
    observed: NDArray[np.bool_]


class Schema(Record):
    """The modalities of the training data: names and order of features, kinds, scaling and range.

    Args:
        modalities: The features of each modality, in the order of the data.
        covariates: What the estimator is conditioned on.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> from polyvae.data.schema import Schema
        >>> data = pv.MultimodalData({"rna": np.array([[1.0, 5.0], [3.0, 5.0]])}, columns={"rna": ("a", "b")})
        >>> schema = Schema.fit(data)
        >>> schema["rna"].constant
        ['b']
        >>> new = pv.MultimodalData({"rna": np.array([[5.0, 3.0]])}, columns={"rna": ("b", "a")})
        >>> schema.standardise(schema.align(new))["rna"].values
        array([[1., 0.]], dtype=float32)
    """

    modalities: Annotated[list[Features], Field(min_length=1)]
    covariates: list[Known] = Field(default_factory=list)

    @classmethod
    def fit(
        cls,
        data: MultimodalData,
        units: Mapping[str, Mapping[str, str]] | None = None,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        covariates: Sequence[str] = (),
        *,
        log_scale: Literal["auto"] | Sequence[str] = (),
    ) -> Schema:
        """Describe the observed values of training data.

        Args:
            data: The training data.
            units: Modality -> feature -> unit.
            kinds: Modality -> column -> "real", "count" or "binary", where its values alone would be of another kind.
            covariates: Names of covariates of the data, which are conditioned on.
            log_scale: The modalities that are described on the scale log(1 + x). "auto": tables of counts alone, skewed as those of
                molecules are.

        Raises:
            InputError: A modality that no sample has; units of unknown features; values that do not fit their kind or scale; an unknown
                covariate.
        """
        asked = asked_for(log_scale, data.names)
        found = [
            _features(data, name, (units or {}).get(name, {}), (kinds or {}).get(name, {}))
            for name in data.names
        ]
        return cls(
            modalities=[_on_scale(data, each, asked[each.name]) for each in found],
            covariates=known_of(data, covariates),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the training data."""
        return tuple(each.name for each in self.modalities)

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Modality -> names of its features."""
        return {each.name: tuple(each.columns) for each in self.modalities}

    @property
    def groups(self) -> dict[str, list[Group]]:
        """Modality -> its columns of classes."""
        return {each.name: each.groups for each in self.modalities}

    def __getitem__(self, name: str) -> Features:
        for each in self.modalities:
            if each.name == name:
                return each
        raise InputError(f"schema: there is no modality {name!r}; {nearest(name, self.names)}")

    def align(
        self,
        data: MultimodalData,
        *,
        missing: Literal["error", "mask"] = "error",
        unseen: Unseen = "error",
        quiet: bool = False,
    ) -> MultimodalData:
        """The same samples with the modalities and features of the schema, in its order.

        Features are matched by name, or by position where either side has no names. A modality that the data lack is missing from all
        samples. Labels, ids and splits are kept.

        Args:
            data: New data.
            missing: What features that the data lack are: "error", or "mask", which makes them missing entries.
            unseen: What classes are that the training data did not have: "error", or "mask", which makes them missing entries.
            quiet: Do not warn, as of one block of data whose warnings concern the whole; see ``far`` and ``warn_of_far``.

        Warns:
            UserWarning: Unknown modalities or features, which are ignored; values far outside the range of the training data.

        Raises:
            InputError: Features that are missing; another number of features where they have no names; no modality in common.
        """
        if missing not in ("error", "mask"):
            raise InputError(f"align: got missing={missing!r}; expected 'error' or 'mask'; choose one")
        known = [name for name in self.names if name in data.names]
        if not known:
            raise InputError(
                f"data: got modalities {named(data.names)}, none of which the training data had; expected some of {named(self.names)}; "
                "rename them"
            )
        unknown = [name for name in data.names if name not in self.names]
        if unknown and not quiet:
            warnings.warn(
                f"data: {counted(len(unknown), 'modality', 'modalities')} ({named(unknown)}) not in the training data; ignored; expected "
                f"some of {named(self.names)}; rename it, on the command line by NAME=FILE, if it is one of them",
                stacklevel=2,
            )
        data = regrouped(_named(self, data), _classes(self), unseen)
        found = {each.name: _aligned(each, data, missing) for each in self.modalities}
        lost = [text for _, _, text in found.values() if text]
        if lost and not quiet:
            warnings.warn(f"data: {'; '.join(lost)}; ignored", stacklevel=2)
        mask = torch.stack([_row(data, name, found[name][1]) for name in self.names])
        kept = {name: x for name, (x, _, _) in found.items() if not isinstance(x, Tensor)}
        values = {
            name: x if isinstance(x, Tensor) else torch.zeros(len(data), 0, device=data.device)
            for name, (x, _, _) in found.items()
        }
        entries = {name: gaps for name, (_, gaps, _) in found.items() if gaps is not None}
        specs = {spec.name: spec for spec in data.modalities()}
        aligned = data.replaced(
            Batch(values, mask, entries, {}, bool(mask.all())),
            [
                dataclasses.replace(specs[each.name], shape=tuple(each.shape))
                if each.name in specs
                else Modality(each.name, tuple(each.shape))
                for each in self.modalities
            ],
            {each.name: tuple(each.columns) for each in self.modalities if len(each.shape) == 1},
            kept,
            {
                each.name: {group.name: tuple(group.levels) for group in each.groups}
                for each in self.modalities
                if each.groups
            },
        )
        if not quiet:
            self.warn_of_far(self.far(aligned))
        return aligned

    def warn_of_far(self, far: Mapping[str, int]) -> None:
        """Warn of values that are far outside the range of the training data.

        Args:
            far: What ``far`` returned, or the sum over blocks of data.
        """
        if far:
            warnings.warn(
                f"data: {counted(sum(far.values()), 'value', 'values')} far outside the range of the training data, in "
                f"{counted(len(far), 'feature', 'features')} ({named(list(far))}); check the units",
                stacklevel=3,
            )

    def standardise(
        self, data: MultimodalData, names: Sequence[str] | None = None
    ) -> dict[str, Standardised]:
        """Values less the training means, divided by the training standard deviations, of data that ``align`` returned.

        Args:
            data: Data with the modalities and features of the schema.
            names: Some of the modalities; None: all.
        """
        result = {}
        for each in self.modalities:
            if names is not None and each.name not in names:
                continue
            observed = data.observed(each.name).flatten(1).cpu().numpy()
            values = np.empty(observed.shape, dtype=np.float32)
            for rows, x in _pieces(data, each.name):
                values[rows] = np.where(observed[rows], each.standardised(x), 0)
            result[each.name] = Standardised(values, observed)
        return result

    def conditions(
        self, data: MultimodalData, instead: Mapping[str, Any] | None = None
    ) -> NDArray[np.float32] | None:
        """The columns of the covariates of samples, [N, C]; None: the schema has none.

        Args:
            data: The samples.
            instead: Name -> one value for all samples or [N], which takes the place of their own.

        Raises:
            InputError: A covariate that the data lack, one of another kind, or a level that the training data did not have.
        """
        if not self.covariates and instead:
            raise InputError(
                f"covariates: got {list(instead)}; expected none, because fit had no covariates; leave them out"
            )
        return encoded(self.covariates, data, instead) if self.covariates else None

    def restore(self, name: str, values: Any) -> NDArray[np.float64]:
        """Standardised values in the units of the data.

        Args:
            name: The modality.
            values: [..., F].

        Returns:
            [..., F] float64.
        """
        each, found = self[name], self.unstandardise(name, values)
        return amounts(found, each.logs) if each.log_scale else found

    def unstandardise(self, name: str, values: Any) -> NDArray[np.float64]:
        """Standardised values in the units of the data, or on the scale log(1 + x) of modalities that are described on it.

        Args:
            name: The modality.
            values: [..., F].

        Returns:
            [..., F] float64.
        """
        each = self[name]
        given = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return np.asarray(given.astype(np.float64) * np.asarray(each.scale) + np.asarray(each.center))

    def far(self, data: MultimodalData) -> dict[str, int]:
        """Feature -> the number of its values far outside the range seen, of data that ``align`` returned."""
        found: dict[str, int] = {}
        for each in self.modalities:
            low, high = np.asarray(each.low), np.asarray(each.high)
            width = np.where(high > low, high - low, np.maximum(np.abs(high), 1))
            observed, count = data.observed(each.name).flatten(1).cpu().numpy(), np.zeros(len(low), dtype=int)
            for rows, x in _pieces(data, each.name):
                count += (((x < low - _FAR * width) | (x > high + _FAR * width)) & observed[rows]).sum(0)
            for place in np.flatnonzero(count):
                found[f"{each.name}: {each.columns[place]}"] = int(count[place])
        return found


def _pieces(data: MultimodalData, name: str) -> Any:
    """Slices of rows, with their values [n, F] in float64."""
    size = max(1, data.observed(name)[:1].numel())
    step = max(1, _CELLS // size)
    for start in range(0, len(data), step):
        rows = slice(start, min(start + step, len(data)))
        index = torch.arange(rows.start, rows.stop)
        yield rows, data.values(name, index).flatten(1).cpu().numpy().astype(np.float64)


def asked_of(schema: Schema, unseen: Unseen) -> Ask:
    """What is known of the columns of new data before they are read.

    Args:
        schema: The schema of the training data.
        unseen: See ``Schema.align``.
    """
    known = {each.name: each.known for each in schema.modalities if each.named or each.groups}
    return lambda name: Asked(known=known.get(name, {}), unseen=unseen)


def _classes(schema: Schema) -> dict[str, dict[str, Levels]]:
    return {
        each.name: {group.name: group.classes for group in each.groups}
        for each in schema.modalities
        if each.groups
    }


def _named(schema: Schema, data: MultimodalData) -> MultimodalData:
    """The data with generated names of columns where the training data had none and have columns of classes now."""
    more = {}
    for each in schema.modalities:
        if each.groups and each.name in data.names and each.name not in data.columns:
            texts = generated(each.name, math.prod(data.observed(each.name).shape[1:]))
            if texts == each.originals:
                more[each.name] = tuple(texts)
    if not more:
        return data
    other = copy.copy(data)
    other.columns = {**data.columns, **more}
    return other


def _features(
    data: MultimodalData, name: str, units: Mapping[str, str], asked: Mapping[str, Any] | None = None
) -> Features:
    observed = data.observed(name).flatten(1).cpu().numpy()
    if not observed.any():
        raise InputError(
            f"modality {name!r}: got no training sample in which it was observed; expected at least one; leave it out with data.select(...)"
        )
    size = observed.shape[1]
    columns = list(data.columns.get(name, generated(name, size)))
    groups = groups_of(columns, data.levels.get(name, {}))
    for key in units:
        known_to = [*columns, *(group.name for group in groups)]
        if key not in known_to:
            raise InputError(f"units: modality {name!r} has no feature {key!r}; {nearest(key, known_to)}")
    total, low, high = np.zeros(size), np.full(size, np.inf), np.full(size, -np.inf)
    whole, unit = np.ones(size, dtype=bool), np.ones(size, dtype=bool)
    for rows, x in _pieces(data, name):
        seen = observed[rows]
        if seen.all():  # spares copies of large data
            total += x.sum(0)
            low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
            whole &= (x == np.floor(x)).all(0)
            unit &= ((x == 0) | (x == 1)).all(0)
            continue
        total += np.where(seen, x, 0).sum(0)
        low, high = (
            np.minimum(low, np.where(seen, x, np.inf).min(0)),
            np.maximum(high, np.where(seen, x, -np.inf).max(0)),
        )
        whole &= ((x == np.floor(x)) | ~seen).all(0)
        unit &= ((x == 0) | (x == 1) | ~seen).all(0)
    count = observed.sum(0)
    if large := [columns[at] for at in np.flatnonzero((count > 0) & (np.maximum(-low, high) > _LARGEST))]:
        raise InputError(
            f"modality {name!r}: got values above {_LARGEST:g} in {counted(len(large), 'column', 'columns')} ({named(large)}); expected "
            "smaller numbers; choose another unit"
        )
    center = total / np.maximum(count, 1)
    low, high = np.where(count > 0, low, 0), np.where(count > 0, high, 0)
    center = np.where(low == high, low, center)
    squares = np.zeros(size)
    for rows, x in _pieces(data, name):
        squares += np.where(observed[rows], (x - center) ** 2, 0).sum(0)
    scale = np.sqrt(squares / np.maximum(count, 1))
    constant = (low == high) | ~(scale > 0)
    found = np.where(unit & ~constant, "binary", np.where(whole & (low >= 0) & (high > 1), "count", "real"))
    kinds = found.astype(object)
    for column, kind in (asked or {}).items():
        if kind in ("real", "count", "binary"):
            place = columns.index(column)
            fits = {
                "real": True,
                "count": bool(whole[place] and low[place] >= 0),
                "binary": bool(unit[place]),
            }
            if not fits[kind]:
                raise InputError(
                    f"kinds: got values of column {column!r} of modality {name!r} that are no {kind} numbers; expected "
                    f"{'0 and 1' if kind == 'binary' else 'whole numbers from 0'}; correct them, or take it as 'real'"
                )
            kinds[place] = kind
    for group in groups:
        kinds[group.columns] = (
            "categorical" if not group.ranks else "ordinal" if len(group.levels) > 2 else "binary"
        )
    return Features(
        name=name,
        shape=list(data.observed(name).shape[1:]),
        columns=columns,
        named=name in data.columns,
        kinds=kinds.tolist(),
        center=center.tolist(),
        scale=np.where(constant, 1, scale).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        constant=[columns[place] for place in np.flatnonzero(constant)],
        units=dict(units),
        groups=groups,
    )


def _on_scale(data: MultimodalData, each: Features, asked: Asking) -> Features:
    """The features on the scale log(1 + x), if that is asked for, or if their values say so."""
    observed = data.observed(each.name).flatten(1).cpu().numpy()
    found = chosen(
        each.name,
        each.columns,
        each.kinds,
        each.low,
        asked,
        lambda: ((observed[rows], x) for rows, x in _pieces(data, each.name)),
    )
    if found is None:
        return each
    varying = ~np.isin(each.columns, each.constant)
    center = np.where(varying, found.mean, logarithms(np.asarray(each.low), on_logs(each.kinds)))
    size = float(np.sqrt(found.variance[varying].mean())) if found.variance[varying].any() else 1.0
    scale = np.where(varying, size, 1).tolist()
    return each.model_copy(update={"log_scale": True, "center": center.tolist(), "scale": scale})


def _aligned(each: Features, data: MultimodalData, missing: str) -> tuple[Any, Tensor | None, str]:
    """The values of one modality in the order of the schema (or where they are read, not scaled), its entry mask, and what was ignored."""
    name, size = each.name, math.prod(each.shape)
    if name not in data.names:
        return torch.zeros(len(data), *each.shape, device=data.device), None, ""
    gaps, given = data.entries.get(name), data.columns.get(name)
    shape = tuple(data.observed(name).shape[1:])
    if given is None or not each.named:
        if shape != tuple(each.shape):
            raise InputError(
                f"modality {name!r}: got {sized(shape)}; expected {sized(tuple(each.shape))} as in the training data; give "
                "the columns names, or the same columns in the same order"
            )
        return data.kept[name] if name in data.kept else data.values(name), gaps, ""
    place = {column: at for at, column in enumerate(given)}
    absent = [column for column in each.columns if column not in place]
    if len(absent) == size:
        raise no_columns(each.name, each.columns, data)
    lacking = original(absent, {group.name: group.levels for group in each.groups if not group.ranks})
    if absent and missing == "error":
        raise InputError(
            f"modality {name!r}: lacks {len(lacking)} of {counted(len(each.originals), 'column', 'columns')} ({named(lacking)}); "
            "expected those of the training data; add or rename them, or take them as missing (missing_columns='mask', --mask)"
        )
    unknown = sorted(set(given) - set(each.columns), key=place.__getitem__)
    unknown = original(unknown, data.levels.get(name, {}))
    lost = (
        f"modality {name!r}: {counted(len(unknown), 'column', 'columns')} ({named(unknown)}) not in the training data"
        if unknown
        else ""
    )
    if tuple(given) == tuple(each.columns):
        return data.kept[name] if name in data.kept else data.values(name), gaps, lost
    if name in data.sparse and not absent:
        return Kept(columns_of(data.sparse[name], [place[column] for column in each.columns])), None, lost
    x = data.values(name)
    index = torch.tensor([place.get(column, 0) for column in each.columns], device=x.device)
    known = torch.tensor([column in place for column in each.columns], device=x.device)
    ordered = torch.where(known, x.index_select(1, index), torch.zeros((), dtype=x.dtype, device=x.device))
    if absent or gaps is not None:
        gaps = data.observed(name).index_select(1, index) & known
    return ordered, gaps, lost


def _row(data: MultimodalData, name: str, gaps: Tensor | None) -> Tensor:
    """[N] bool: which samples have the modality."""
    if name not in data.names:
        return torch.zeros(len(data), dtype=torch.bool, device=data.device)
    return data.mask[data.names.index(name)] if gaps is None else gaps.flatten(1).any(1)

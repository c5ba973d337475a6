"""The likelihood of a modality by its values: ``likelihood="auto"``."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyvae.core.likelihoods import LIKELIHOODS, Scaled
from polyvae.core.likelihoods.mixed import PARTS, check_column
from polyvae.core.modality import Modality
from polyvae.data.groups import Group, generated, groups_of, original
from polyvae.data.kinds import Block, panel_of, parts_of, standardised, summary
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

if TYPE_CHECKING:
    from polyvae.data.multimodal import MultimodalData

AUTO, OVERRIDES = "auto", "overrides"
_CELLS = 2**22  # values that are looked at at a time
_PANEL = 5  # named columns from which counts are a panel; columns without names are one from two


def changed(data: MultimodalData, spec: Modality, changes: Mapping[str, Any], alone: bool = True) -> Modality:
    """The specification with other fields, of which ``likelihood="auto"`` chooses by the values of the modality.

    "auto" chooses what ``infer_parts`` does: a likelihood where it suits all columns, else "mixed" with its parts. Columns of classes
    are "categorical", of ordered ones "ordinal", and of booleans "bernoulli". Real numbers are standardised by their means and standard
    deviations in the split "train", if there is one, which are in the specification as ``center`` and ``std``; the data stay as they are.
    A panel of counts, in which nearly all columns are counts, has one likelihood, "negative_binomial" with the median of the totals as
    library where it has many columns or large counts. Samples of several axes and texts keep the likelihood that they have.
    ``params={"overrides": {column: likelihood or [likelihood, params]}}`` states it for some columns. Other parameters are kept.

    Args:
        data: The data that contain the modality.
        spec: Its specification.
        changes: Fields of Modality.
        alone: Whether ``changes`` are for this modality only, so that it has all columns that they name.

    Returns:
        The specification, whose likelihood is a name in LIKELIHOODS.

    Raises:
        InputError: A column that is not in the data, an unknown likelihood, or "overrides" for another likelihood.

    Example:
        >>> import pandas as pd
        >>> import polyvae as pv
        >>> from polyvae.data.automatic import chosen
        >>> table = pd.DataFrame({"age": [31.5, 48.0, 62.5, 55.0], "smoker": [True, False, True, True], "arm": ["a", "b", "b", "a"]})
        >>> data = pv.MultimodalData.from_frames({"clinical": table})
        >>> spec = data.modalities(likelihood="auto", params={"overrides": {"age": "student_t"}})[0]
        >>> chosen(data, spec)
        "modality 'clinical': mixed: standardised student_t ('age'), bernoulli ('smoker'), categorical ('arm')"
    """
    if changes.get("likelihood") != AUTO:
        return dataclasses.replace(spec, **changes)
    rest = {key: value for key, value in changes.items() if key != "likelihood"}
    before = spec if "params" in changes else dataclasses.replace(spec, params=_of_network(spec))
    spec = dataclasses.replace(before, **rest)
    params = {key: value for key, value in spec.params.items() if key != OVERRIDES}
    overrides = _places(data, spec, spec.params.get(OVERRIDES, {}), alone)
    if len(spec.shape) > 1 or _of_ids(before):
        return dataclasses.replace(spec, params=params)
    name, found = _chosen(data, spec, overrides)
    return dataclasses.replace(spec, likelihood=name, params={**found, **params})


def chosen(data: MultimodalData, spec: Modality) -> str:
    """The likelihood of a modality and the columns of each part, as one line.

    Args:
        data: The data that contain the modality.
        spec: Its specification.
    """
    where = f"modality {spec.name!r}: {_kind(spec.likelihood, spec.params)}"
    if spec.likelihood != "mixed":
        return where
    columns, groups = _columns(data, spec)
    owner = {group.start: group.name for group in groups}
    kinds: dict[str, list[str]] = {}
    at = 0
    for name, count, *params in spec.params["parts"]:
        own = [owner.get(place, columns[place]) for place in range(at, at + count)]
        kinds.setdefault(_kind(name, *params), []).extend(own[:1] if name == "categorical" else own)
        at += count
    return f"{where}: {', '.join(f'{kind} ({named(own)})' for kind, own in kinds.items())}"


def _kind(name: str, params: Mapping[str, Any] | None = None) -> str:
    if params and "levels" in params:
        return f"{name} of {params['levels']} levels"
    return f"standardised {name}" if params and {"center", "std"} & params.keys() else name


def _of_ids(spec: Modality) -> bool:
    made = LIKELIHOODS.get(spec.likelihood)
    return made is not None and made.ids


def _of_network(spec: Modality) -> dict[str, Any]:
    """The parameters that are not those of the likelihood, which another one replaces; all, where it stays."""
    made = LIKELIHOODS.get(spec.likelihood)
    if made is None or made.ids or len(spec.shape) > 1:
        return dict(spec.params)
    own = inspect.signature(made).parameters
    return {key: value for key, value in spec.params.items() if key not in own}


def _columns(data: MultimodalData, spec: Modality) -> tuple[Sequence[str], list[Group]]:
    columns = data.columns.get(spec.name, generated(spec.name, math.prod(spec.shape)))
    return columns, groups_of(columns, data.levels.get(spec.name, {}))


def _places(data: MultimodalData, spec: Modality, given: object, alone: bool) -> dict[int, Sequence[Any]]:
    """Column -> [likelihood, params] of what is stated."""
    where = f"modality {spec.name!r}: overrides"
    if not isinstance(given, Mapping):
        raise InputError(
            f"{where}: got {given!r}; expected a mapping from columns to likelihoods; such as {{'age': 'student_t'}}"
        )
    columns, groups = _columns(data, spec)
    levels = data.levels.get(spec.name, {})
    own = original(columns, levels)
    everywhere = [
        name for each in data.columns for name in original(data.columns[each], data.levels.get(each, {}))
    ]
    wide = {group.name: group for group in groups if not group.ranks}
    found: dict[int, Sequence[Any]] = {}
    for column, part in given.items():
        if column not in own and (alone or column not in everywhere):
            raise InputError(f"{where}: there is no column {column!r}; {nearest(str(column), own)}")
        if column in wide and part not in ("categorical", ["categorical"]):
            raise InputError(
                f"{where}: got {part!r} for {column!r}, which is stored as a column for each of its {len(wide[column].levels)} classes; "
                "expected 'categorical'; for another likelihood pass kinds= where the table is read"
            )
        if column in own and column not in wide:
            stated = [part] if isinstance(part, str) else part
            check_column(f"{where}[{column!r}]", stated)
            found[list(columns).index(column)] = stated
    return found


def _chosen(
    data: MultimodalData, spec: Modality, overrides: Mapping[int, Sequence[Any]]
) -> tuple[str, dict[str, Any]]:
    """The likelihood and its parameters."""
    _, groups = _columns(data, spec)
    every = torch.arange(len(data))
    found = summary(lambda: _blocks(data, spec, every))
    wide = [(group.start, len(group.levels)) for group in groups if not group.ranks]
    ranks = {
        group.start: len(group.levels)
        for group in groups
        if group.ranks and len(group.levels) > 2 and group.start not in overrides
    }
    truth = {group.start: ["bernoulli"] for group in groups if group.ranks and len(group.levels) <= 2}
    stated: dict[int, Sequence[Any]] = {**truth, **overrides}
    others = {at for group in groups for at in range(group.columns.start, group.columns.stop)} | {*stated}
    least = _PANEL if spec.name in data.columns else 2
    panel = panel_of(found, others, len(groups), least)
    parts = parts_of(found, wide, ranks, {**panel, **stated})
    if any(issubclass(PARTS[part[0]], Scaled) for part in parts):
        train = data._splits.get("train")
        parts = standardised(parts, found if train is None else summary(lambda: _blocks(data, spec, train)))
    if ["negative_binomial"] in panel.values():
        parts = _with_totals(data, spec, parts, panel.keys())
    if len(parts) > 1:
        return "mixed", {"parts": parts}
    name, _, *params = parts[0]
    return name, dict(params[0]) if params else {}


def _blocks(data: MultimodalData, spec: Modality, rows: torch.Tensor) -> Iterator[Block]:
    """Values and which were observed, some rows at a time."""
    step = max(1, _CELLS // math.prod(spec.shape))
    observed = data.observed(spec.name)
    for part in torch.split(rows, step):
        x = data.values(spec.name, part).cpu().numpy().astype(np.float64)
        yield x, observed[part.to(observed.device)].cpu().numpy()


def _with_totals(
    data: MultimodalData, spec: Modality, parts: list[list[Any]], panel: Set[int]
) -> list[list[Any]]:
    """The parts; those of a panel of counts have the median total of the samples as ``library``, a single column has none."""
    starts = np.cumsum([0, *(part[1] for part in parts)]).tolist()
    spans = [slice(start, start + part[1]) for start, part in zip(starts, parts, strict=False)]
    wanted = {
        number: own
        for number, own in enumerate(spans)
        if len(parts[number]) == 2 and panel & set(range(own.start, own.stop))
    }
    totals: dict[int, list[NDArray[np.float64]]] = {number: [] for number in wanted}
    for x, seen in _blocks(data, spec, torch.arange(len(data))):
        for number, own in wanted.items():
            totals[number].append(x[:, own][seen[:, own].all(1)].sum(1))
    result = list(parts)
    for number, found in totals.items():
        whole = np.concatenate(found)
        whole = whole[whole > 0]
        if parts[number][1] == 1:
            result[number] = [*parts[number], {"library": "none"}]
        elif len(whole):
            result[number] = [*parts[number], {"library": float(np.median(whole))}]
    return result

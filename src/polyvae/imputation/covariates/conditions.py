"""Covariates of an estimator: which of them are conditioned on, and where data of each kind have them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from polyvae.data.covariates import conditioned_on, is_levels
from polyvae.data.groups import groups_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers import Given, read
from polyvae.data.schema import Schema
from polyvae.imputation.covariates.effects import Effects
from polyvae.imputation.filling.fill import whole
from polyvae.imputation.tables import SparseRows, Tables
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named, number_in

KINDS = ("categorical", "real")
_SHOWN = 5  # levels that a warning names
_CODES = (
    12  # distinct whole numbers of a covariate, up to which a warning states that they are taken as a number
)


def names_of(covariates: Any) -> list[str]:
    """The names of the covariates of an estimator.

    Args:
        covariates: None, a sequence of names, or a mapping from names to kinds, of which None is by the values.

    Raises:
        InputError: Anything else, a name that occurs twice, or an unknown kind.
    """
    if covariates is None:
        return []
    if isinstance(covariates, str) or not isinstance(covariates, Mapping | Sequence):
        raise InputError(
            f"estimator: got covariates={covariates!r}; expected a list of names, or a mapping from names to kinds; such as "
            "covariates=['batch']"
        )
    names = list(covariates)
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise InputError(
                f"estimator: got {name!r} among covariates; expected distinct names; such as covariates=['batch', 'age']"
            )
    if isinstance(covariates, Mapping):
        for name, kind in covariates.items():
            if kind is not None and kind not in KINDS:
                raise InputError(
                    f"estimator: got kind {kind!r} of covariate {name!r}; expected one of {', '.join(KINDS)}, or None; choose one"
                )
    return names


def read_with(x: Any, covariates: Any, **how: Any) -> Given:
    """``polyvae.data.readers.read`` for an estimator.

    Columns of tables, and of obs of AnnData and MuData, that are covariates are no features. MultimodalData have covariates of
    their own, of which those are kept that the estimator is conditioned on.

    Args:
        x: The data.
        covariates: Those of the estimator; see ``names_of``.
        **how: Arguments of ``read``.

    Raises:
        InputError: Data without such a covariate, or of which a sample lacks its value; what ``read`` refuses.
    """
    names = names_of(covariates)
    if not names:
        return read(x, **how)
    given = read(x, **how) if isinstance(x, MultimodalData) else read(x, covariates=names, **how)
    own = given.data.covariates
    for name in names:
        if name not in own:
            hint = nearest(name, own) if own else "pass covariates= to MultimodalData"
            raise InputError(f"covariates: the data have no covariate {name!r}; {hint}")
    return given._replace(data=with_kinds_of(given.data, covariates))


def with_kinds_of(data: MultimodalData, covariates: Any) -> MultimodalData:
    """The same samples with the covariates of an estimator alone, of their kinds; see ``names_of``.

    Raises InputError: levels where numbers are asked for.
    """
    names = names_of(covariates)
    kinds = covariates if isinstance(covariates, Mapping) else {}
    for name in names:
        if kinds.get(name) == "real" and is_levels(data, name):
            raise InputError(
                f"covariate {name!r}: got levels with kind 'real'; expected numbers; convert them, or take it as 'categorical'"
            )
    return conditioned_on(data, names, [name for name in names if kinds.get(name) == "categorical"])


def without(data: MultimodalData, names: Sequence[str], what: str = "the covariates") -> MultimodalData:
    """The same samples without the columns ``names`` of tables, and without modalities that have no other.

    Raises InputError: no column is left beside ``what``.
    """
    values, entries, columns, levels = {}, {}, dict[str, list[str]](), dict[str, Any]()
    mask = {}
    for name in data.names:
        if name not in data.columns:  # an array, of which no column has a name
            values[name], entries[name] = data.values(name), data.observed(name)
            mask[name] = data.mask[data.names.index(name)]
            continue
        own = list(data.columns[name])
        aside = {
            at
            for group in groups_of(own, data.levels.get(name, {}))
            if group.name in names
            for at in range(len(own))[group.columns]
        } | {at for at, column in enumerate(own) if column in names}
        kept = [at for at in range(len(own)) if at not in aside]
        if not kept:
            continue
        values[name], columns[name] = data.values(name)[:, kept], [own[at] for at in kept]
        mask[name] = data.mask[data.names.index(name)]
        entries[name] = data.observed(name)[:, kept]
        levels[name] = {key: each for key, each in data.levels.get(name, {}).items() if key not in names}
    if not values:
        raise InputError(
            f"data: got no column beside {what} {named(list(names))}; expected features; add a table of them"
        )
    return MultimodalData(
        values,
        mask=mask,
        entries=entries,
        columns=columns,
        levels=levels,
        ids=data.ids,
        labels=data.labels,
        covariates=data.covariates,
    )


def instead_of(
    schema: Schema, covariates: Mapping[str, Any] | None, single: bool = False
) -> dict[str, Any] | None:
    """Values of covariates as ``Schema.conditions`` takes them: numbers as text where the training data had levels, else text as numbers.

    Args:
        schema: The schema of the training data.
        covariates: Name -> one value for all samples, or [N].
        single: Whether they are one value each, because samples are read in blocks, in an order of their own.

    Raises:
        InputError: No mapping; several values with ``single``.
    """
    if covariates is None:
        return None
    if not isinstance(covariates, Mapping):
        raise InputError(
            f"covariates: got {type(covariates).__name__}; expected a mapping from names to values; such as {{'batch': 'b'}}"
        )
    levels = {one.name: one.levels and [*one.levels, *one.added] for one in schema.covariates}
    found = {name: _known(_of_python(x), levels.get(name)) for name, x in covariates.items()}
    for name, x in found.items():
        if single and not isinstance(x, str | bool | int | float):
            raise InputError(
                f"covariate {name!r}: got {type(x).__name__}; expected one value for all samples of the files; use impute for others"
            )
    return found


def _known(x: Any, levels: Sequence[str] | None) -> Any:
    """Values as names of ``levels``, or (None) as numbers, where they can be."""
    if isinstance(x, list | tuple):
        return [_known(value, levels) for value in x]
    if levels is None:
        return _number(x) if isinstance(x, str) else x
    if isinstance(x, bool) or not isinstance(x, int | float | str) or x in levels:
        return x
    number = _number(x)
    if isinstance(number, str):
        return x
    text = f"{number:.15g}"
    return x if isinstance(x, str) and text not in levels else text


def _of_python(x: Any) -> Any:
    """Numbers, arrays and columns of other libraries as those of Python."""
    return x.tolist() if isinstance(x, np.ndarray | np.generic) or nw.dependencies.is_pandas_series(x) else x


def _number(x: Any) -> Any:
    """A number; text that is none as it is."""
    try:
        return number_in(x) if isinstance(x, str) else float(x)
    except ValueError:
        return x


def adjusted(
    schema: Schema, data: MultimodalData, order: NDArray[np.intp], tables: Tables
) -> tuple[Schema, Effects, Tables]:
    """The training samples without the effects of covariates, in the scale of what is left; the schema and the effects in this scale.

    Args:
        schema: The schema, with the standard deviations of the features.
        data: The training samples.
        order: Their order in ``tables``.
        tables: The same, standardised; with the target, if there is one.
    """
    if not schema.covariates:
        return schema, Effects(), tables
    sizes = [one.covariate.columns for one in schema.covariates]
    _advise_of_unmeasured(schema, tables)
    schema, effects = Effects.fit(tables, schema.names, sizes).rescaled(schema, tables)
    values = {**tables.values, **whole(schema, data, order).values}
    return schema, effects, effects.removed(tables._replace(values=values))


def _advise_of_unmeasured(schema: Schema, tables: Tables) -> None:
    """Warn of levels without a measurement of a modality, or of some of its columns, where their effect is 0."""
    found = [(one, level, lacking) for one, level, _, lacking in by_level(schema, tables) if lacking]
    advise_of_levels("fit", found, stacklevel=5)


def advise_of_levels(what: str, found: Sequence[tuple[str, str, str]], stacklevel: int) -> None:
    """Warn of levels in which something was never measured.

    Args:
        what: The call.
        found: Of each such level the covariate, its name, and what it lacks, as of ``unmeasured``.
        stacklevel: See ``warnings.warn``.
    """
    if found:
        named_levels = [f"{level!r} of {one!r} (in {lacking})" for one, level, lacking in found]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        warnings.warn(
            f"{what}: nothing was measured in {'level' if len(found) == 1 else 'levels'} {', '.join(named_levels[:_SHOWN])}{more}, so the "
            "effect is 0 there: such values are predicted as those of a sample of average level; measure some, or merge levels",
            stacklevel=stacklevel,
        )


def by_level(schema: Schema, tables: Tables) -> list[tuple[str, str, int, str]]:
    """Of each level of each covariate its name, the number of its training samples, and what was never measured in them.

    Args:
        schema: The schema.
        tables: The training samples.
    """
    found, start = list[tuple[str, str, int, str]](), 0
    for one in schema.covariates:
        for at, level in enumerate(one.levels or ()):
            assert tables.covariates is not None
            rows = tables.covariates[:, start + at] > 0
            found.append((one.name, level, int(rows.sum()), unmeasured(tables, schema.names, rows)))
        start += one.covariate.columns
    return found


def unmeasured(tables: Tables, names: Sequence[str], rows: NDArray[np.bool_]) -> str:
    """The modalities, and the numbers of columns of others, of which no value was observed in the rows; empty: none.

    Args:
        tables: The samples.
        names: The modalities.
        rows: [N], which samples.
    """
    return ", ".join(
        repr(name) if never.all() else f"{int(never.sum())} of {never.size} columns of {name!r}"
        for name in names
        if (never := ~_seen(tables, name)[rows].any(0)).any()
    )


def _seen(tables: Tables, name: str) -> NDArray[np.bool_]:
    """Which values of a modality were observed: [N, F], or [N, 1] where samples have all or none."""
    x = tables.values[name]
    return x.seen[:, None] if isinstance(x, SparseRows) else tables.observed[name]


def advise_of_covariates(data: MultimodalData, names: Sequence[str], kinds: Any) -> None:
    """Warn of covariates that are not used or cannot have an effect, and of whole numbers that may be codes of levels."""
    unused = [name for name in data.covariates if name not in names]
    if unused:
        warnings.warn(
            f"fit: the data have covariates that are not used ({named(unused)}); name them in covariates= to condition on them",
            stacklevel=3,
        )
    for name, x in data.covariates.items():
        if name not in names:
            continue
        distinct = set(x.tolist())
        stated = isinstance(kinds, Mapping) and kinds.get(name) is not None
        if len(distinct) == 1 or (is_levels(data, name) and len(distinct) == len(data)):
            what = "one value" if len(distinct) == 1 else "another level for each sample"
            warnings.warn(
                f"fit: covariate {name!r} has {what}, so it has no effect; leave it out", stacklevel=3
            )
            continue
        if stated or is_levels(data, name):
            continue
        if len(distinct) <= _CODES and all(float(value).is_integer() for value in distinct):
            warnings.warn(
                f"fit: covariate {name!r} has {len(distinct)} distinct whole numbers, which are taken as a number; "
                f"covariates={{{name!r}: 'categorical'}} takes them as levels, and 'real' as a number without this warning",
                stacklevel=3,
            )

"""AnnData and MuData, and the files .h5ad and .h5mu. Their packages are the extra "omics"."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import PLAIN, Columns, Decoder
from polyvae.data.kept import is_file, on_disk
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_columns, check_nan
from polyvae.data.readers.classes import Ask, Asked
from polyvae.data.readers.covariates import of_obs
from polyvae.data.readers.endings import ending
from polyvae.data.readers.frames import by_index, frame_part
from polyvae.data.readers.layout import Ids, Layout
from polyvae.data.readers.opening import OMICS, opened
from polyvae.data.readers.parts import Part, checked, joined
from polyvae.data.readers.types import pandas_table
from polyvae.data.readers.writing import write_table
from polyvae.data.sparse import compact, is_sparse
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.text import named

LAYER, KEY = "imputed", "X_polyvae"


def is_anndata(x: object) -> bool:
    """Whether ``x`` is an AnnData object; its package is not imported."""
    module = sys.modules.get("anndata")
    return module is not None and isinstance(x, module.AnnData)


def is_mudata(x: object) -> bool:
    """Whether ``x`` is a MuData object; its package is not imported."""
    module = sys.modules.get("mudata")
    return module is not None and isinstance(x, module.MuData)


def from_anndata(
    adata: Any,
    *,
    name: str = "X",
    layer: str | None = None,
    obsm: Sequence[str] | Mapping[str, str] = (),
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    asked: Ask | None = None,
    **settings: Any,
) -> tuple[MultimodalData, AnnLayout]:
    """See ``MultimodalData.from_anndata``; also the layout."""
    check_nan(nan)
    if not is_anndata(adata):
        raise InputError(
            f"from_anndata: got {type(adata).__name__}; expected AnnData; read an .h5ad file with anndata.read_h5ad"
        )
    keys = {key: key for key in obsm} if not isinstance(obsm, Mapping) else dict(obsm)
    parts = (
        {}
        if adata.X is None and layer is None and keys
        else {name: adata_part(f"modality {name!r}", adata, layer, nan)}
    )
    for own, key in keys.items():
        if key not in adata.obsm:
            raise InputError(f"obsm: there is no {key!r}; {nearest(key, adata.obsm)}")
        if own in parts:
            raise InputError(f"obsm: got {own!r} for two modalities; expected distinct names; pass name=")
        known = Asked() if asked is None else asked(own)
        parts[own] = _obsm_part(f"modality {own!r}", adata, key, nan, known)
    data = joined(
        parts,
        labels=_labels(adata.obs, labels),
        order=adata.obs_names.tolist(),
        overlap=overlap,
        **{**settings, "covariates": of_obs(adata.obs, settings.get("covariates"))},
    )
    return data, AnnLayout(adata, name if name in parts else None, keys)


def from_mudata(
    mdata: Any,
    *,
    layer: str | Mapping[str, str] | None = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    **settings: Any,
) -> tuple[MultimodalData, MuLayout]:
    """See ``MultimodalData.from_mudata``; also the layout."""
    check_nan(nan)
    if not is_mudata(mdata):
        raise InputError(
            f"from_mudata: got {type(mdata).__name__}; expected MuData; read an .h5mu file with mudata.read_h5mu"
        )
    if not mdata.mod:
        raise InputError("from_mudata: got no modality; expected at least one; fill mdata.mod")
    layers = dict.fromkeys(mdata.mod, layer) if layer is None or isinstance(layer, str) else layer
    for name in layers:
        if name not in mdata.mod:
            raise InputError(f"layer: there is no modality {name!r}; {nearest(name, mdata.mod)}")
    parts = {
        name: adata_part(f"modality {name!r}", adata, layers.get(name), nan)
        for name, adata in mdata.mod.items()
    }
    data = joined(
        parts,
        labels=_labels(mdata.obs, labels),
        order=mdata.obs_names.tolist(),
        overlap=overlap,
        **{**settings, "covariates": of_obs(mdata.obs, settings.get("covariates"))},
    )
    return data, MuLayout(mdata)


def adata_part(where: str, adata: Any, layer: str | None, nan: Nan) -> Part:
    """X, or a layer, as a part. Raises InputError: there is none, or it is no matrix of numbers."""
    if layer is not None and layer not in adata.layers:
        raise InputError(f"{where}: there is no layer {layer!r}; {nearest(layer, adata.layers)}")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise InputError(_without_x(where, adata))
    names = [str(name) for name in adata.var_names]
    check_columns(where, names)
    part = checked(where, _matrix(where, x), names, nan)
    return part._replace(columns=tuple(names), ids=adata.obs_names.tolist())


def _without_x(where: str, adata: Any) -> str:
    """The error for AnnData without X: what of it is to be read."""
    layers, obsm = [*adata.layers], [*adata.obsm]
    remedies = [
        *(
            [f"pass layer={layers[0]!r} to MultimodalData.from_anndata (layers: {named(layers)})"]
            if layers
            else []
        ),
        *([f"pass obsm={obsm[:1]!r} to MultimodalData.from_anndata (obsm: {named(obsm)})"] if obsm else []),
    ]
    remedy = ", or ".join(remedies) or "set adata.X to the matrix of measurements"
    what = "no X" if layers or obsm else "no X, no layer and no obsm"
    return f"{where}: got AnnData with {what}; expected a matrix [samples, features]; {remedy}"


def _obsm_part(where: str, adata: Any, key: str, nan: Nan, asked: Asked) -> Part:
    x = adata.obsm[key]
    import pandas as pd

    if isinstance(x, pd.DataFrame):
        part, _ = frame_part(where, opened(where, x), False, nan, None, asked)
    else:
        part = checked(where, _matrix(where, x), None, nan)
    return part._replace(ids=adata.obs_names.tolist())


def _matrix(where: str, x: Any) -> Any:
    """[n, F]: single precision, unless it is double; sparse matrices stay sparse."""
    if is_sparse(x):
        return compact(where, x)
    if is_file(x):
        return on_disk(where, x, floating=True)
    if type(x).__module__.startswith("anndata"):  # compressed columns, whose rows cannot be read alone
        return compact(where, x.to_memory())
    values = np.asarray(
        x[:] if not isinstance(x, np.ndarray) else x
    )  # a file that is open stays on disk until here
    if values.dtype.kind not in "iufb":
        raise InputError(f"{where}: got a matrix of {values.dtype}; expected numbers; convert it first")
    return values if values.dtype == np.float64 else values.astype(np.float32)


def _labels(obs: Any, labels: Any) -> Any:
    """A column of obs as a mapping from ids to classes; anything else as it is."""
    if not isinstance(labels, str):
        return by_index(labels)
    if labels not in obs.columns:
        raise InputError(f"labels: obs has no column {labels!r}; {nearest(labels, map(str, obs.columns))}")
    return dict(zip(obs.index.tolist(), obs[labels].tolist(), strict=True))


def _matched(
    values: NDArray[Any], columns: Sequence[str], names: Sequence[str], rows: Sequence[int]
) -> NDArray[Any]:
    """[len(rows), len(names)]: the values by name; NaN in columns that ``columns`` lacks."""
    place = {name: at for at, name in enumerate(columns)}
    found = np.full((len(rows), len(names)), np.nan)
    known = [at for at, name in enumerate(names) if str(name) in place]
    found[:, known] = np.asarray(values)[np.ix_(rows, [place[str(names[at])] for at in known])]
    return found


class _Files(Layout):
    """Layouts whose results are written by their own library."""

    def save(
        self,
        out: Path,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> list[Path]:
        return [self._written(out, self.back(values, columns, ids, decoder))]

    def save_embedding(self, out: Path, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Path:
        if ending(out) not in OMICS:
            write_table(out, np.asarray(z), names, ids)
            return out
        return self._written(out, self.embedding(z, ids, names))

    def _written(self, out: Path, result: Any) -> Path:
        if out.suffix.lower() not in OMICS:
            raise InputError(f"{out}: got another ending; expected .h5ad or .h5mu, as the data; rename it")
        partial = out.with_name(f".{out.stem}.partial{out.suffix}")
        with reading(str(out), "a place where the file can be written", "write elsewhere"):
            result.write(partial)
            partial.replace(out)
        return out


def _in_memory(adata: Any) -> Any:
    """A copy in memory."""
    return adata.to_memory() if adata.isbacked else adata.copy()


class AnnLayout(_Files):
    """AnnData: results are a copy with ``.layers["imputed"]``; other modalities are tables in ``.obsm``, named "NAME_imputed".

    Args:
        adata: What came in.
        name: The modality that is X; None: X was not read.
        obsm: Modality -> key in obsm.
    """

    def __init__(self, adata: Any, name: str | None, obsm: Mapping[str, str]) -> None:
        self.adata, self.name, self.obsm = adata, name, dict(obsm)

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        copy = _in_memory(self.adata)
        rows = list(range(copy.n_obs))
        cells, columns = decoder.tables(values, columns)
        for name, x in cells.items():
            if name == self.name:
                copy.layers[LAYER] = _matched(_numeric(x), columns[name], list(copy.var_names), rows)
            else:
                found = pandas_table(x, list(columns[name]), copy.obs_names)
                copy.obsm[f"{self.obsm.get(name, name)}_imputed"] = found
        return copy

    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        copy = _in_memory(self.adata)
        copy.obsm[KEY] = np.asarray(z)
        return copy

    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return _noted(_in_memory(self.adata), values, names)


class MuLayout(_Files):
    """MuData: results are a copy with ``.layers["imputed"]`` in each modality.

    A modality that not all samples have, or that did not come in, is also a further modality "NAME:imputed" with all samples.

    Args:
        mdata: What came in.
    """

    def __init__(self, mdata: Any) -> None:
        self.mdata = mdata

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        import anndata
        import pandas as pd

        copy = _copied(self.mdata)
        everyone = copy.obs_names.tolist()
        place = {name: row for row, name in enumerate(everyone)}
        added = {}
        cells, columns = decoder.tables(values, columns)
        for name, found in cells.items():
            x, own = _numeric(found), copy.mod.get(name, None)
            names = list(columns[name])
            if own is not None:
                rows = [place[sample] for sample in own.obs_names]
                own.layers[LAYER] = _matched(x, names, list(own.var_names), rows)
                known = set(names)
                names = [str(column) for column in own.var_names if str(column) in known]
                names += [column for column in columns[name] if column not in set(names)]
            if own is None or own.n_obs < len(everyone):
                var = pd.DataFrame(index=names) if own is None else own.var.reindex(names)
                added[f"{name}:{LAYER}"] = anndata.AnnData(
                    _matched(x, columns[name], names, list(range(len(everyone)))),
                    obs=pd.DataFrame(index=everyone),
                    var=var,
                )
        return _extended(copy, added)

    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        copy = _copied(self.mdata)
        copy.obsm[KEY] = np.asarray(z)
        return copy

    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return _noted(_copied(self.mdata), values, names)


def _numeric(x: Any) -> NDArray[Any]:
    """Cells as numbers. Raises InputError: others, as sets of classes are."""
    if isinstance(x, Columns):
        if not all(column.dtype.kind in "fiub" for column in x.columns):
            raise InputError(
                "impute: got classes that are text, or sets of classes, for a matrix of AnnData; expected numbers; pass data frames"
            )
        return np.stack([column.astype(np.float64) for column in x.columns], 1)
    return np.asarray(x)


def _noted(copy: Any, values: NDArray[Any], names: Sequence[str]) -> Any:
    """The copy with columns of obs: the name of a prediction, or "probability of CLASS"."""
    columns = np.asarray(values).reshape(len(values), -1)
    for name, column in zip(names, columns.T, strict=True):
        copy.obs[name if values.ndim == 1 else f"probability of {name}"] = column
    return copy


def _copied(mdata: Any) -> Any:
    import mudata

    with mudata.set_options(pull_on_update=False):
        mods = {name: each.copy() for name, each in mdata.mod.items()}
        names = {name: each.obs_names.name for name, each in mods.items()}
        for each in mods.values():
            each.obs_names.name = None  # names of indices that differ cannot be joined in every version
        whole = mudata.MuData(mods)
        if whole.obs_names.tolist() != mdata.obs_names.tolist():
            whole = whole[mdata.obs_names.tolist()].copy()
        _keep(whole, mdata)
        for name, each in whole.mod.items():
            each.obs_names.name = names[name]
        return whole


def _extended(mdata: Any, added: Mapping[str, Any]) -> Any:
    """MuData with further modalities of all its samples; the samples keep their order and what is known about them."""
    if not added:
        return mdata
    import mudata

    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="var_names are not unique"
        )  # the features of both are the same
        whole = mudata.MuData({**mdata.mod, **added})
    whole = (
        whole[mdata.obs_names.tolist()].copy()
        if whole.obs_names.tolist() != mdata.obs_names.tolist()
        else whole
    )
    _keep(whole, mdata)
    return whole


def _keep(whole: Any, mdata: Any) -> None:
    """Give ``whole``, which has the same samples, what is known about them."""
    whole.obs = mdata.obs.copy()
    for key, value in mdata.obsm.items():
        if key not in whole.mod:
            whole.obsm[key] = value
    for key, value in mdata.obsp.items():
        whole.obsp[key] = value
    whole.uns.update(mdata.uns)

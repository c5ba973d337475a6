"""Data sets that a configuration names by a path, or by a function that returns them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers import read
from polyvae.data.readers.endings import INPUTS as TABLES
from polyvae.data.readers.endings import ending
from polyvae.data.readers.opening import OMICS
from polyvae.data.readers.tables import listed
from polyvae.data.regroup import asked_for, with_kinds
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.records import check_keywords


def is_import(name: str) -> bool:
    """Whether a name is an import path "package.module:function"."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def is_path(name: str) -> bool:
    """Whether a name is the path of a file, by its ending or because it contains a separator of folders."""
    return ending(Path(name)) in (*TABLES, *OMICS) or "/" in name or os.sep in name


def from_files(
    name: str,
    root: Path | None,
    files: Sequence[str] | Mapping[str, str] | None = None,
    id: str | Literal[False] | None = None,
    nan: Literal["error", "missing"] = "error",
    labels: str | None = None,
    overlap: bool = True,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    covariates: Sequence[str] | str | None = None,
    kinds: Mapping[str, Mapping[str, Any]] | None = None,
) -> MultimodalData:
    """Read files, and split the samples at random where the data have no splits.

    Args:
        name: A path. Relative paths begin at ``root``, or else at the working directory.
        root: A folder.
        files: Paths of further modalities; or modality -> path.
        id: See ``MultimodalData.from_csv``.
        nan: See ``MultimodalData.from_csv``.
        labels: A column of the tables.
        overlap: See ``MultimodalData.from_csv``.
        seed: The seed of the data, from which splits are drawn.
        fractions: See ``MultimodalData.split``.
        covariates: Columns of obs of AnnData or MuData; or, for tables, the path of a csv or tsv file with ids in its first column and a
            covariate in each other one.
        kinds: See ``MultimodalData.from_csv``.
    """
    asked = asked_for(kinds)
    if isinstance(covariates, str) and root is not None:
        covariates = str(root / covariates)
    paths = {**listed(name), **(listed(files) if files else {})}
    if files and len(paths) < 1 + len(listed(files)):
        raise InputError(
            f"data: got {name!r} among the names of data.options.files; expected names that differ; rename a file"
        )
    full = {key: path if root is None else root / path for key, path in paths.items()}
    given = next(iter(full.values())) if len(full) == 1 else full
    data = read(
        given, id=id, nan=nan, labels=labels, overlap=overlap, covariates=covariates, asked=asked
    ).data
    data = with_kinds(data, kinds)
    data.card = {"name": ", ".join(path.name for path in full.values()), **data.card}
    data.seed = seed
    return divided(data, fractions)


def from_function(name: str, root: Path | None, options: Mapping[str, Any]) -> MultimodalData:
    """Call the function at an import path.

    Raises:
        InputError: It cannot be imported or called with these options, or returns something else than MultimodalData.
    """
    module, _, function = name.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as problem:
        why = " ".join(str(problem).split())
        raise InputError(
            f"data: cannot import {name!r} ({why}); expected 'package.module:function'; install the package, or add its folder to "
            "PYTHONPATH"
        ) from None
    if not callable(call):
        raise InputError(
            f"data: {name!r} is no function; expected one that returns MultimodalData; correct the path"
        )
    known = inspect.signature(call).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    for key in options:
        if key not in known and not open_ended:
            raise InputError(f"data: {name!r} has no option {key!r}; {nearest(key, known)}")
    check_keywords(f"data: {name!r}", call, options)
    here = {"root": root} if root is not None and ("root" in known or open_ended) else {}
    data = call(**here, **options)
    if not isinstance(data, MultimodalData):
        raise InputError(
            f"data: {name!r} returned {type(data).__name__}; expected MultimodalData; build it, as MultimodalData.from_frames(...) does"
        )
    return divided(data, None)


def divided(data: MultimodalData, fractions: Mapping[str, float] | None) -> MultimodalData:
    """The data, with random splits drawn from their seed where they have none."""
    return data.split(fractions) if fractions is not None or not data.splits else data

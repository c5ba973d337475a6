"""DATASETS: data sets by name, beside data in memory and the loaders that make batches of them.

An entry describes a data set; ``load_dataset`` loads it.

Example:
    >>> import polyvae as pv
    >>> list(pv.DATASETS)
    ['polydigits', 'shapes_captions', 'polymnist', 'translated_polymnist']
    >>> pv.DATASETS["polydigits"].samples
    '10,000 train, 2,000 test'
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyvae.data.attributes import Parser, Reading
from polyvae.data.custom import from_files, from_function, is_import, is_path
from polyvae.data.loaders import Loader, SliceLoader, StreamLoader
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sentences import Sentences, text
from polyvae.data.sets.polydigits import polydigits
from polyvae.data.sets.polymnist import polymnist, translated_polymnist
from polyvae.data.sets.shapes import shapes_captions
from polyvae.data.sets.shapes_grammar import read as read_shapes
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.records import check_keywords
from polyvae.utils.seeds import mix

__all__ = [
    "DATASETS",
    "PARSERS",
    "Dataset",
    "Loader",
    "MultimodalData",
    "Parser",
    "Reading",
    "Sentences",
    "SliceLoader",
    "StreamLoader",
    "load_dataset",
    "mix",
    "text",
]


@dataclass(frozen=True)
class Dataset:
    """One entry of DATASETS. ``load(**options)`` returns MultimodalData; it has an argument ``root`` where files are ``needed``."""

    load: Callable[..., MultimodalData]
    modalities: str
    samples: str
    what: str
    licence: str
    needed: str = ""


_SOURCES = "mnist/*.gz (downloaded there where missing) and photos polymnist/1.jpg to 5.jpg, or the archive polymnist/MMNIST"

DATASETS: dict[str, Dataset] = {
    "polydigits": Dataset(
        polydigits,
        modalities="5 x 3x16x16",
        samples="10,000 train, 2,000 test",
        what="handwritten digits on five textures; only the digit is shared",
        licence="UCI digits (CC BY 4.0) bundled with scikit-learn; procedural textures; embedded",
    ),
    "shapes_captions": Dataset(
        shapes_captions,
        modalities="3x16x16, 17 words",
        samples="10,000 train, 2,000 test, 1,000 unseen, 6,000 for judges",
        what="an image of one shape, and a caption that states all or some of six attributes (side = 16, 32, 64; mask = true)",
        licence="procedural, part of polyvae; embedded",
    ),
    "polymnist": Dataset(
        polymnist,
        modalities="5 x 3x28x28",
        samples="60,000 train, 10,000 test",
        what="MNIST digits on five photos (or textures); only the digit is shared",
        licence="MNIST states none; rights in the photos not stated",
        needed=_SOURCES,
    ),
    "translated_polymnist": Dataset(
        translated_polymnist,
        modalities="5 x 3x28x28",
        samples="60,000 train, 10,000 test",
        what="polymnist with smaller digits, each at another place in every modality (variant = multivae or daunhawer)",
        licence="MNIST states none; rights in the photos not stated",
        needed=_SOURCES,
    ),
}

PARSERS: dict[str, Parser] = {"shapes_captions": read_shapes}
"""Name -> a function from N sentences to what they state (see ``Reading``). ``MultimodalData.parsers`` contains such names."""


def load_dataset(name: str, root: str | Path | None = None, **options: Any) -> MultimodalData:
    """Load a data set with its splits.

    Args:
        name: A name in ``pv.DATASETS``; the path of a file (csv, tsv, parquet, npz, h5ad, h5mu); or an import path
            "package.module:function" of a function that returns MultimodalData, which is imported and called.
        root: The folder of its files. None: the environment variable POLYVAE_DATA; for a path, the working directory. Embedded data sets
            need none.
        **options: Options of the data set, such as ``train=1000`` for the size of the training part. Of a path: ``files``, further paths,
            and ``id``, ``nan``, ``labels``, ``overlap``, ``seed`` and ``fractions``, as in ``MultimodalData.from_csv`` and
            ``MultimodalData.split``. Of a function: its arguments.

    Returns:
        The data, with splits, labels and specifications. Splits are drawn at random where a file or a function has none.

    Raises:
        InputError: An unknown name or option, or missing files.

    Example:
        >>> import polyvae as pv
        >>> data = pv.load_dataset("polydigits", train=100, test=20)
        >>> data.names
        ('m0', 'm1', 'm2', 'm3', 'm4')
        >>> data.train.take([0, 1]).data["m0"].shape
        torch.Size([2, 3, 16, 16])
    """
    folder = None if root is None else Path(root)
    if name not in DATASETS and is_import(name):
        return from_function(name, folder, options)
    if name not in DATASETS and is_path(name):
        _check_known(name, [*inspect.signature(from_files).parameters][2:], options)
        check_keywords(f"data set {name!r}", from_files, options)
        return from_files(name, folder, **options)
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; {nearest(name, DATASETS)}")
    entry = DATASETS[name]
    _check_known(name, [key for key in inspect.signature(entry.load).parameters if key != "root"], options)
    if not entry.needed:
        return _loaded(name, entry.load, options)
    place = root or os.environ.get("POLYVAE_DATA")
    if not place:
        raise InputError(
            f"data set {name!r}: got no folder; expected one that contains {entry.needed}; pass root= (--set data.root=FOLDER on "
            "the command line) or set POLYVAE_DATA"
        )
    return _loaded(name, entry.load, {"root": Path(place), **options})


def _check_known(name: str, known: Sequence[str], options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in known:
            raise InputError(f"data set {name!r} has no option {key!r}; {nearest(key, known)}")


def _loaded(name: str, load: Callable[..., MultimodalData], options: dict[str, Any]) -> MultimodalData:
    with reading(f"data set {name!r}", "options and files that it can be made from", "correct them"):
        try:
            return load(**options)
        except InputError:
            raise
        except (TypeError, ValueError, OverflowError):  # most often an option of another type
            check_keywords(f"data set {name!r}", load, options)
            raise

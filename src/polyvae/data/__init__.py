"""Data sets, and the loaders that make batches of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyvae.data.loaders import Loader, SliceLoader, StreamLoader
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.polydigits import polydigits
from polyvae.data.sets.polymnist import polymnist, translated_polymnist
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.seeds import mix

__all__ = [
    "DATASETS",
    "Dataset",
    "Loader",
    "MultimodalData",
    "SliceLoader",
    "StreamLoader",
    "load_dataset",
    "mix",
]


@dataclass(frozen=True)
class Dataset:
    """One entry of DATASETS. ``load(**options)`` returns MultimodalData; it takes ``root`` where files are ``needed``."""

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
        what="polymnist with smaller digits, each view's at a place of its own (variant = multivae or daunhawer)",
        licence="MNIST states none; rights in the photos not stated",
        needed=_SOURCES,
    ),
}


def load_dataset(name: str, root: str | Path | None = None, **options: Any) -> MultimodalData:
    """A data set by its name in DATASETS, with its splits.

    ``root`` is the folder that its files lie under (default: the environment variable POLYVAE_DATA); embedded sets need none.
    Raises InputError: an unknown name or option, files that are needed and no folder to look in.
    """
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; {nearest(name, DATASETS)}")
    entry = DATASETS[name]
    known = [key for key in inspect.signature(entry.load).parameters if key != "root"]
    for key in options:
        if key not in known:
            raise InputError(f"data set {name!r} has no option {key!r}; {nearest(key, known)}")
    if not entry.needed:
        return entry.load(**options)
    folder = root or os.environ.get("POLYVAE_DATA")
    if not folder:
        raise InputError(
            f"data set {name!r}: got no folder; expected one that holds {entry.needed}; pass root= (--set data.root=FOLDER on "
            "the command line) or set POLYVAE_DATA"
        )
    return entry.load(root=Path(folder), **options)

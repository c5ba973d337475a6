"""DATASETS: data sets by name, beside data in memory and the loaders that make batches of them.

An entry describes a data set; ``load_dataset`` loads it.

Example:
    >>> import polyvae as pv
    >>> list(pv.DATASETS)  # doctest: +NORMALIZE_WHITESPACE
    ['polydigits', 'polydigits_quadrant', 'shapes_captions', 'polymnist', 'translated_polymnist', 'polymnist_quadrant', 'mnist_svhn',
    'spoken_digits', 'emoji', 'cub']
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
from polyvae.data.readers.together import join
from polyvae.data.sentences import Sentences, text
from polyvae.data.sets.cub import cub
from polyvae.data.sets.emoji import emoji
from polyvae.data.sets.mnist_svhn import mnist_svhn
from polyvae.data.sets.polydigits import polydigits
from polyvae.data.sets.polymnist import polymnist, translated_polymnist
from polyvae.data.sets.quadrant import polydigits_quadrant, polymnist_quadrant
from polyvae.data.sets.shapes import shapes_captions
from polyvae.data.sets.shapes_grammar import read as read_shapes
from polyvae.data.sets.spoken_digits import spoken_digits
from polyvae.data.shards import ShardLoader
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
    "ShardLoader",
    "SliceLoader",
    "StreamLoader",
    "join",
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
    "polydigits_quadrant": Dataset(
        polydigits_quadrant,
        modalities="5 x 3x32x32",
        samples="10,000 train, 2,000 test",
        what="handwritten digits in one of four quadrants; shared = digit, quadrant or both; as_modalities = true (side = 16, 32)",
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
    "polymnist_quadrant": Dataset(
        polymnist_quadrant,
        modalities="5 x 3x64x64",
        samples="220,000 train, 5,000 validation, 10,000 test (14 GB on disk; train = 20000 for less)",
        what="MNIST digits in one of four quadrants of five photos; shared = digit, quadrant or both; as_modalities = true",
        licence="MNIST states none; rights in the photos not stated",
        needed="mnist/*.gz (downloaded there where missing) and photos polymnist/1.jpg to 5.jpg (else textures)",
    ),
    "mnist_svhn": Dataset(
        mnist_svhn,
        modalities="1x28x28, 3x32x32",
        samples="about 1,680,000 train, 275,000 test (8 GB on disk; pairs = 1 for a thirtieth)",
        what="MNIST and street-view digits paired by label, each image 30 times",
        licence="MNIST states none; SVHN: non-commercial use",
        needed="mnist/*.gz (downloaded there where missing) and svhn/train_32x32.mat, svhn/test_32x32.mat from "
        "http://ufldl.stanford.edu/housenumbers",
    ),
    "spoken_digits": Dataset(
        spoken_digits,
        modalities="32x64 (mel bands x frames), 1x28x28",
        samples="10,000 train, 2,000 test",
        what="a digit spoken by one of six speakers (log-mel frames of its length) and one written, paired by label",
        licence="FSDD: CC BY-SA 4.0; MNIST states none",
        needed="mnist/*.gz (downloaded there where missing) and fsdd_spoken_digits/recordings/*.wav of "
        "Jakobovski/free-spoken-digit-dataset",
    ),
    "emoji": Dataset(
        emoji,
        modalities="3x64x64, 1x64x64, 16 words",
        samples="1,644, a fifth of them test",
        what="an emoji, its silhouette and the words that describe it (side = 16, 32, 64)",
        licence="Noto Emoji: Apache-2.0; annotations: MIT",
        needed="noto_emoji_text/noto_emoji_64.npz with image, silhouette, codepoints and caption",
    ),
    "cub": Dataset(
        cub,
        modalities="3x64x64, 32 words",
        samples="88,550 train, 29,330 test; of the subset 30,039, a part of them without image or caption",
        what="photos of birds and captions (source = archive, or subset for 20 species with partial pairing)",
        licence="Caltech-UCSD Birds-200-2011 and captions: non-commercial research only",
        needed="cub/train, cub/test, cub/text_trainvalclasses.txt and cub/text_testclasses.txt of the MMVAE authors' cub.zip; or "
        "cub/cub20_64.npz with captions_paired_476.json and captions_50testclasses.json.gz",
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
            and ``id``, ``nan``, ``labels``, ``overlap``, ``kinds``, ``seed`` and ``fractions``, as in ``MultimodalData.from_csv`` and
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

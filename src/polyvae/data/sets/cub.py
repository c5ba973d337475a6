"""Photos of birds and captions: Caltech-UCSD Birds (Wah et al. 2011) with the captions of Reed et al. 2016.

Two sources are read: the archive of the MMVAE authors (``cub.zip``), with ten captions for each photo and classes that are either for
training or for the test; and a subset of 20 species, in which only some of the photos have captions and most captions have no photo.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.core.vocabulary import Vocabulary, tokens_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sentences import column
from polyvae.data.sets.archive import read_image
from polyvae.data.sets.arrays import check_side, npz, shrunk
from polyvae.data.sets.captions import cut
from polyvae.data.sets.files import cache_folder
from polyvae.data.sets.memory import Bytes, mapped
from polyvae.utils.errors import InputError, check_count, nearest, reading
from polyvae.utils.files import read_bytes, read_text

SOURCES = ("archive", "subset")
CAPTIONS = 10  # of each photo
_TEXTS = {"train": "text_trainvalclasses.txt", "test": "text_testclasses.txt"}
_SUBSET = ("cub20_64.npz", "captions_paired_476.json", "captions_50testclasses.json.gz")
_MOST = 64 * 2**20  # bytes of a file of captions
_VERSION = 1


class _Birds(NamedTuple):
    """N samples: ``image`` [N, 3, S, S], ``seen`` [N] where there is one, ``sentences`` (None: missing), ``species`` [N], ``photo`` [N]."""

    image: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    sentences: list[str | None]
    species: NDArray[np.int64]
    photo: list[str]
    splits: dict[str, Any]


def cub(
    *,
    root: Path,
    source: str | None = None,
    side: int = 64,
    captions: int = CAPTIONS,
    length: int = 32,
    least: int = 4,
    cropped: bool = False,
    cache: str | Path | bool | None = True,
) -> MultimodalData:
    """Photos and captions of birds; labels are the species, 0 to 199, and groups the photos.

    Each caption makes a sample, with its photo. Captions are in lower case, and their words are those of the training captions. In the
    archive the species of the training and the test part differ. In the subset, 476 photos have captions, 709 have none, and 2,457
    photos are missing, with captions; the paired ones of the test part of Caltech-UCSD Birds are the test part.

    Args:
        root: The folder that contains ``cub/``.
        source: "archive", "subset", or None: the archive if it is there.
        side: Pixels of an image. The photos of the subset have 64 and are made smaller by a whole factor.
        captions: Take the first so many of the ten captions of each photo.
        length: The largest number of words and one for the end; longer captions are cut.
        least: Words that occur fewer times in the training captions are unknown words.
        cropped: Of the subset, photos cropped to the bird.
        cache: The folder of the decoded photos of the archive (True: POLYVAE_CACHE, else ~/.cache/polyvae; False: none).

    Raises:
        InputError: Files that are missing or damaged, or captions that do not fit the photos.
    """
    if source is not None and source not in SOURCES:
        raise InputError(f"cub: source {source!r} is unknown; {nearest(str(source), SOURCES)}")
    for key, value, lowest in (
        ("captions", captions, 1),
        ("length", length, 2),
        ("least", least, 1),
        ("side", side, 8),
    ):
        check_count("cub", key, value, lowest)
    if captions > CAPTIONS:
        raise InputError(
            f"cub: got captions={captions}; expected at most {CAPTIONS}, as there are; take fewer"
        )
    folder = root / "cub"
    if source is None:
        source = "archive" if os.path.isdir(folder / "train") else "subset"
    if source == "archive":
        if cropped:
            raise InputError(
                "cub: got cropped=True for the archive; expected False; only the subset has cropped photos"
            )
        birds = _archive(folder, side, captions, cache)
    else:
        birds = _subset(folder, side, captions, cropped)
    sentences = [None if said is None else cut(said, length) for said in birds.sentences]
    training = [said for row in birds.splits["train"] if (said := sentences[row]) is not None]
    vocabulary = Vocabulary.of(training, least=least)
    ids, caption = column(sentences, vocabulary, length)
    return MultimodalData(
        {"image": birds.image, "caption": ids},
        mask=None
        if birds.seen.all()
        else {"image": birds.seen, "caption": [said is not None for said in sentences]},
        labels=birds.species,
        groups=birds.photo,
        splits=birds.splits,
        modalities=[Modality("image", (3, side, side), "laplace", params={"scale": 0.1}), caption],
        scale={"image": 1 / 255},
        root=root,
        card={
            "name": "cub",
            "version": _VERSION,
            "what": "photos of birds and captions",
            "source": "the MMVAE authors' archive"
            if source == "archive"
            else "20 species of Caltech-UCSD Birds, partly paired",
            "licence": "Caltech-UCSD Birds-200-2011 and captions: non-commercial research only",
            "captions": f"the first {captions} of {CAPTIONS} of each photo, each a sample; cut after {length - 1} words",
            "words": len(vocabulary.words),
            "counts": {part: len(rows) for part, rows in birds.splits.items()},
        },
    )


def _archive(folder: Path, side: int, captions: int, cache: str | Path | bool | None) -> _Birds:
    parts, texts, state = {}, {}, hashlib.blake2b(digest_size=12)
    for part, name in _TEXTS.items():
        parts[part] = _photos(folder / part)
        lines = _lines(folder / name)
        if len(lines) != CAPTIONS * len(parts[part]):
            raise InputError(
                f"{folder / name}: got {len(lines)} captions; expected {CAPTIONS} for each of the {len(parts[part])} photos of "
                f"{folder / part}; unpack the archive again"
            )
        texts[part] = lines
        for path in parts[part]:
            facts = path.stat()
            state.update(f"{path.parent.name}/{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    photos = [*parts["train"], *parts["test"]]

    def fill(arrays: Mapping[str, Bytes]) -> None:
        for row, path in enumerate(photos):
            arrays["image"][captions * row : captions * (row + 1)] = _resized(read_image(path), side)

    place = cache_folder(cache)
    key = f"cub-{_VERSION}-{side}-{captions}-{state.hexdigest()}"
    image = mapped(place and place / key, {"image": (captions * len(photos), 3, side, side)}, fill)["image"]
    said = [*texts["train"], *texts["test"]]
    sentences = [said[CAPTIONS * row + turn] for row in range(len(photos)) for turn in range(captions)]
    species = np.repeat([_species(path.parent.name, path) for path in photos], captions)
    edge = captions * len(parts["train"])
    splits = {"train": range(edge), "test": range(edge, captions * len(photos))}
    names = [f"{path.parent.name}/{path.name}" for path in photos for _ in range(captions)]
    return _Birds(image, np.ones(len(image), dtype=bool), [*sentences], species, names, splits)


def _photos(folder: Path) -> list[Path]:
    """The photos of one part, by class and name, which is the order of the captions."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder; expected the photos of cub.zip there; unpack the archive again"
        )
    found = sorted(
        (path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")),
        key=lambda path: (path.parent.name, path.name),
    )
    if not found:
        raise InputError(f"{folder}: got no photo; expected <class>/<name>.jpg; unpack the archive again")
    return found


def _lines(path: Path) -> list[str]:
    with reading(str(path), "a text file with a caption in each line", "unpack the archive again"):
        lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    empty = next((row for row, line in enumerate(lines, 1) if not tokens_of(line, "words")), None)
    if empty is not None:
        raise InputError(
            f"{path}: line {empty}: got no word; expected a caption in each line; unpack the archive again"
        )
    return lines


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bilinear, whatever the proportions: [H, W, 3] -> [3, side, side]."""
    from PIL import Image  # here: a mere import of polyvae needs no image library

    made = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(made).transpose(2, 0, 1)


def _subset(folder: Path, side: int, captions: int, cropped: bool) -> _Birds:
    check_side("cub", side, 64)
    which = "image_bbox" if cropped else "image"
    wanted = {which: ("u", 4), "name": ("U", 1), "cub_split": ("U", 1)}
    arrays = npz(folder / _SUBSET[0], wanted, which)
    if arrays[which].shape[1:] != (64, 64, 3):
        raise InputError(
            f"{folder / _SUBSET[0]}: {which}: got shape {arrays[which].shape}; expected (N, 64, 64, 3); put a sound copy there"
        )
    names, pixels = arrays["name"].tolist(), shrunk(arrays[which], side).transpose(0, 3, 1, 2)
    paired = _captions(folder / _SUBSET[1], gzip_packed=False)
    apart = {
        name: said
        for name, said in _captions(folder / _SUBSET[2], gzip_packed=True).items()
        if name not in paired
    }
    place = {name: row for row, name in enumerate(names)}
    strange = [name for name in paired if name not in place]
    if strange:
        raise InputError(
            f"{folder / _SUBSET[1]}: {strange[0]}: got captions of a photo that is not in {_SUBSET[0]}; expected only those; put "
            "a sound copy there"
        )
    rows: list[int | None] = []
    sentences: list[str | None] = []
    photo: list[str] = []
    for name in [*names, *sorted(apart.keys() - place.keys())]:
        own: Sequence[str | None] = paired.get(name, apart.get(name, []))[:captions] or [None]
        rows += [place.get(name)] * len(own)
        sentences += own
        photo += [name] * len(own)
    seen = np.array([row is not None for row in rows])
    image = np.zeros((len(rows), 3, side, side), np.uint8)
    image[seen] = pixels[[row for row in rows if row is not None]]
    held = np.array(
        [
            row is not None and said is not None and arrays["cub_split"][row] == "test"
            for row, said in zip(rows, sentences, strict=True)
        ]
    )
    splits = {"train": np.flatnonzero(~held), "test": np.flatnonzero(held)}
    species = np.array([_species(name.split("/")[0], folder / _SUBSET[0]) for name in photo])
    return _Birds(image, seen, sentences, species, photo, splits)


def _captions(path: Path, gzip_packed: bool) -> dict[str, list[str]]:
    expected = "a JSON object of photos and their captions"
    with reading(str(path), expected, "put a sound copy there"):
        content = read_bytes(path, _MOST)
        if gzip_packed:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(_MOST)
        found: dict[str, list[str]] = json.loads(content)
    sound = isinstance(found, dict) and all(
        isinstance(said, list)
        and said
        and all(isinstance(one, str) and tokens_of(one, "words") for one in said)
        for said in found.values()
    )
    if not sound:
        raise InputError(f"{path}: got other contents; expected {expected}; put a sound copy there")
    return found


def _species(name: str, path: Path) -> int:
    """The number of a class named "004.Groove_billed_Ani", from 0."""
    number = name.split(".")[0]
    if not number.isdecimal() or int(number) < 1:
        raise InputError(
            f"{path}: got class {name!r}; expected a number and a name, such as '004.Groove_billed_Ani'; unpack the files again"
        )
    return int(number) - 1

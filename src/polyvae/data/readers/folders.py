"""Folders of images that are named by sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_nan
from polyvae.data.readers.frames import by_index, frame_part
from polyvae.data.readers.opening import is_frame, opened
from polyvae.data.readers.parts import Part, joined
from polyvae.data.readers.tables import table_part
from polyvae.utils.errors import InputError, reading
from polyvae.utils.text import counted

_GREY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


def from_folder(
    folder: str | os.PathLike[str],
    *,
    name: str = "image",
    size: tuple[int, int] | None = None,
    tables: Mapping[str, Any] | None = None,
    id: str | None = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    **settings: Any,
) -> MultimodalData:
    """See ``MultimodalData.from_folder``."""
    check_nan(nan)
    label = labels if isinstance(labels, str) else None
    parts = {name: _images(Path(folder), size)}
    for table, given in (tables or {}).items():
        if table == name:
            raise InputError(
                f"from_folder: got a table named {name!r} as the images; expected another name; pass name="
            )
        where = f"modality {table!r}"
        parts[table] = (
            frame_part(where, opened(where, given), id, nan, label)[0]
            if is_frame(given)
            else table_part(Path(given), id, nan, label)
        )
    scale = {**settings.pop("scale", {}), name: 1 / 255}
    return joined(
        parts,
        labels=None if label is not None else by_index(labels),
        overlap=overlap,
        scale=scale,
        root=Path(folder),
        **settings,
    )


def _images(folder: Path, size: tuple[int, int] | None) -> Part:
    known = set(Image.registered_extensions())
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)
    except OSError as problem:
        raise InputError(
            f"{folder}: cannot be read ({problem.strerror}); expected a folder of images; check the path"
        ) from None
    if not files:
        raise InputError(f"{folder}: got no image files; expected files such as SAMPLE.png; check the path")
    pictures = {path: _picture(path, size) for path in files}
    sizes = {image.shape[:2] for image in pictures.values()}
    if len(sizes) > 1:
        raise InputError(
            f"{folder}: got images of {counted(len(sizes), 'size', 'sizes')}, such as {sorted(sizes)[0]} and {sorted(sizes)[-1]}; "
            "expected one; pass size=(height, width) to resize them"
        )
    colour = any(image.ndim == 3 for image in pictures.values())
    stacked = [_channels(image, colour) for image in pictures.values()]
    return Part(np.stack(stacked), ids=[path.stem for path in files])


def _picture(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """[H, W], or [H, W, 3]."""
    with reading(str(path), "an image", "remove or replace it"), Image.open(path) as image:
        if image.mode not in (*_GREY, *_COLOUR):
            raise InputError(
                f"{path}: got an image of mode {image.mode!r}; expected 8 bits per channel; read such images to arrays, and use from_arrays"
            )
        plain = image.convert("L" if image.mode in _GREY else "RGB")
        if size is not None:
            plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(plain)


def _channels(image: NDArray[np.uint8], colour: bool) -> NDArray[np.uint8]:
    """[C, H, W]."""
    if not colour:
        return image[None]
    return image.transpose(2, 0, 1) if image.ndim == 3 else np.repeat(image[None], 3, axis=0)

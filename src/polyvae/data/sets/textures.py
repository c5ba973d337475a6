"""Five procedural textures, 256 x 256 x 3, the backgrounds of ``polydigits``, and of ``polymnist`` where its photos are missing.

They never change. In each, two or three colour channels keep to one side of one half, so a digit painted by inversion is visible
wherever the crop is taken; the rest varies freely, so crops differ. Only sums, products and comparisons of hashed numbers: the same
bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.seeds import bits

Field = NDArray[np.float64]

SIZE = 256
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)


def lava() -> Field:
    """Winding red and yellow bands."""
    band = _wave(_X / 26 + _Y / 90 + 2.2 * _noise(1, 5) + 0.5 * _noise(2, 14))
    heat = _ramp(_noise(3, 9), 0.25, 0.75)
    return _colour(
        0.78 + 0.22 * _noise(4, 32), 0.02 + 0.80 * band * (0.25 + 0.75 * heat), 0.22 * heat * _noise(5, 40)
    )


def cells() -> Field:
    """Crazy paving in blue and magenta, with dark joints."""
    near, gap, which = _voronoi(6, 20)
    red = np.array([0.0, 0.25, 0.75, 0.95])[(which >> 8) % 4]
    joint = _ramp(gap, 0.6, 2.6)
    shade = 1 - 0.25 * _ramp(near, 2, 12)
    return _colour(red * joint * shade, 0.22 * joint * (which % 16) / 15, 0.66 + 0.34 * joint * shade)


def weave() -> Field:
    """A basket of green and teal strands."""
    strand = 7
    u, v = _X + 5 * _noise(7, 4), _Y + 5 * _noise(8, 4)
    over = (np.floor(u / strand) + np.floor(v / strand)) % 2 == 0
    along = np.where(over, _wave(u / strand), _wave(v / strand))
    teal = np.where(over, 0.85 * _ramp(_noise(9, 8), 0.25, 0.7), 0.08)
    return _colour(0.24 * _noise(10, 12) * along, 0.62 + 0.38 * along, teal * (0.5 + 0.5 * along))


def confetti() -> Field:
    """Pale dots in three tints on cream and white."""
    near, _, which = _voronoi(11, 11)
    inside = (near < 2.2 + 2.6 * (which % 8) / 7)[..., None]
    tint = np.array([[0.62, 0.82, 1.0], [1.0, 0.64, 0.78], [0.72, 0.95, 0.64]])[(which >> 8) % 3]
    blend = _ramp(_noise(12, 7), 0.3, 0.7)[..., None]
    ground = blend * np.array([1.0, 0.93, 0.66]) + (1 - blend) * np.array([0.97, 0.97, 1.0])
    speckled: Field = np.where(inside, tint, ground)
    return speckled


def night() -> Field:
    """Dark marble: black stone, maroon and green clouds, grey-blue veins."""
    flow = 3.0 * _noise(13, 4) + 1.1 * _noise(14, 9) + 0.4 * _noise(15, 24)
    vein = _ramp(_wave(flow + _Y / 60), 0.72, 0.98)
    cloud = _ramp(_noise(16, 7), 0.35, 0.65)
    red, green = 0.34 * cloud * (1 - vein), 0.30 * (1 - cloud) * _noise(17, 20) * (1 - vein)
    return _colour(red + 0.26 * vein, green + 0.30 * vein, 0.06 + 0.10 * _noise(18, 30) + 0.24 * vein)


TEXTURES: dict[str, Callable[[], Field]] = {
    "lava": lava,
    "cells": cells,
    "weave": weave,
    "confetti": confetti,
    "night": night,
}


@cache
def texture(name: str) -> NDArray[np.uint8]:
    """A texture as bytes, read-only: [3, 256, 256]."""
    made = np.floor(TEXTURES[name]() * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)
    made.setflags(write=False)
    return made


def _colour(red: Field, green: Field, blue: Field) -> Field:
    return np.clip(np.stack([red, green, blue], -1), 0, 1)


def _unit(words: NDArray[np.uint64]) -> Field:
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def _ramp(x: Field, low: float, high: float) -> Field:
    """0 up to ``low``, 1 from ``high`` on, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _wave(x: Field) -> Field:
    """A smooth wave of period 1 between 0 and 1."""
    return _ramp(np.abs(2 * (x - np.floor(x)) - 1), 0, 1)


def _noise(key: int, cells: int) -> Field:
    """Smooth noise in [0, 1) with ``cells`` humps along each side: [256, 256]."""
    lattice = _unit(bits(cells * cells, 1, key)).reshape(cells, cells)
    row, column = _Y * cells / SIZE, _X * cells / SIZE
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = _ramp(row - top, 0, 1), _ramp(column - left, 0, 1)
    below, beside = (top + 1) % cells, (left + 1) % cells
    upper = lattice[top, left] * (1 - right) + lattice[top, beside] * right
    lower = lattice[below, left] * (1 - right) + lattice[below, beside] * right
    blended: Field = upper * (1 - down) + lower * down
    return blended


def _voronoi(key: int, pitch: int) -> tuple[Field, Field, NDArray[np.int64]]:
    """Distance to the nearest of scattered points, how much farther the second is, and the nearest one's number: [256, 256] each."""
    side = SIZE // pitch + 3
    jitter = _unit(bits(2 * side * side, 2, key)).reshape(2, side, side)
    own_row, own_column = (_Y // pitch).astype(int) + 1, (_X // pitch).astype(int) + 1
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    rows = np.stack([own_row + a for a, _ in steps])
    columns = np.stack([own_column + b for _, b in steps])
    squares = ((rows - 1 + jitter[0, rows, columns]) * pitch - _Y) ** 2 + (
        (columns - 1 + jitter[1, rows, columns]) * pitch - _X
    ) ** 2
    distance = np.sqrt(squares)
    first, second = np.partition(distance, 1, axis=0)[:2]
    nearest = distance.argmin(0)[None]
    cell = np.take_along_axis(rows * side + columns, nearest, 0)[0]
    words = (bits(side * side, 3, key) >> np.uint64(33)).astype(np.int64)
    return first, second - first, words[cell]

"""The images of ``shapes_captions``: one shape before a patterned background, drawn at any size. Lengths are in 1/32 of the side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.seeds import bits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PATTERNS = ("wave", "gradient", "blocks")
RADII = (7.0, 11.0)  # small, large
OFFSET, JITTER, TURN, HUE_JITTER, TINT_JITTER, NOISE = 6.0, 1.0, 0.22, 0.05, 0.10, 0.015
_OUTLINE = 2.2
_CENTRES = (
    np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]]) * OFFSET
)  # x, y of left, right, top, bottom, middle
# Hue, saturation and value of red, yellow, green, blue, purple, white.
_COLOURS = np.array(
    [[0, 0.9, 0.9], [0.165, 0.9, 0.95], [0.36, 0.85, 0.8], [0.61, 0.85, 0.95], [0.79, 0.8, 0.8], [0, 0, 1]]
)
_TINTS = np.array([0.17, 0.62])  # dark, light
_CHUNK = 500  # images that are drawn together; the noise is a function of it


class Nuisance(NamedTuple):
    """What no caption states, for N images.

    ``pattern`` [N] a number in PATTERNS; ``tints`` [N, 2, 3] the two colours of the background; ``wave`` [N, 3] its frequency, direction
    and phase; ``shift`` [N, 2], ``turn`` [N] and ``hue`` [N] what the shape differs by from its attributes.
    """

    pattern: Integers
    tints: Floats
    wave: Floats
    shift: Floats
    turn: Floats
    hue: Floats

    def rows(self, index: slice) -> Nuisance:
        """Those of some images."""
        return Nuisance(
            self.pattern[index],
            self.tints[index],
            self.wave[index],
            self.shift[index],
            self.turn[index],
            self.hue[index],
        )


class Drawing(NamedTuple):
    """``image`` [N, 3, S, S] and ``mask`` [N, 1, S, S] as bytes, 0 to 255 and 0 or 1."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def uniform(count: int, *key: int) -> Floats:
    """Numbers in [0, 1) that are a function of ``key`` alone: [count]."""
    return (bits(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def nuisance(background: Integers, *key: int) -> Nuisance:
    """Draw everything that the attributes leave open; ``background`` [N] chooses the grey that tints differ from."""
    count = len(background)
    grey = uniform(2 * count, *key, 0).reshape(count, 2, 1)
    cast = uniform(6 * count, *key, 1).reshape(count, 2, 3)
    tints = _TINTS[background][:, None, None] + TINT_JITTER * (2 * grey - 1) + 0.03 * (2 * cast - 1)
    frequency, direction, phase = uniform(3 * count, *key, 2).reshape(3, count)
    wave = np.stack([1 + 2 * frequency, np.pi * direction, 2 * np.pi * phase], 1)
    turn, hue, right, down = 2 * uniform(4 * count, *key, 3).reshape(4, count) - 1
    return Nuisance(
        (bits(count, *key, 4) % np.uint64(len(PATTERNS))).astype(np.int64),
        tints,
        wave,
        JITTER * np.stack([right, down], 1),
        TURN * turn,
        HUE_JITTER * hue,
    )


def draw(classes: Mapping[str, Integers], free: Nuisance, side: int, *key: int) -> Drawing:
    """Draw N images of ``side`` pixels: attribute -> class [N], and what the attributes leave open."""
    count = len(free.pattern)
    image = np.empty((count, 3, side, side), dtype=np.uint8)
    mask = np.empty((count, 1, side, side), dtype=np.uint8)
    for number, start in enumerate(range(0, count, _CHUNK)):
        rows = slice(start, start + _CHUNK)
        own = {name: x[rows] for name, x in classes.items()}
        part = free.rows(rows)
        cover = _cover(own, part, side)[:, None]
        behind, colour = _background(part, side), _colour(own["colour"], part.hue)[:, :, None, None]
        pixels = behind + (colour - behind) * cover + NOISE * _noise(behind.shape, *key, number)
        image[rows] = np.rint(255 * np.clip(pixels, 0, 1))
        mask[rows] = cover > 0.5
    return Drawing(image, mask)


def brightness(free: Nuisance) -> Floats:
    """The mean of the two tints of each background: [N]."""
    return np.asarray(free.tints.mean((1, 2)))


def _axes(side: int) -> tuple[Floats, Floats]:
    """x and y of the pixels, from the centre of the image: [1, 1, S] and [1, S, 1]."""
    steps = (np.arange(side) + 0.5) * 32 / side - 16
    return steps[None, None, :], steps[None, :, None]


def _cover(classes: Mapping[str, Integers], free: Nuisance, side: int) -> Floats:
    """The share of each pixel that the shape covers: [n, S, S]."""
    x, y = _axes(side)
    centre = _CENTRES[classes["position"]] + free.shift
    x, y = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    cos, sin = np.cos(free.turn)[:, None, None], np.sin(free.turn)[:, None, None]
    x, y = cos * x + sin * y, cos * y - sin * x
    distance = np.empty((len(centre), side, side))
    for shape, measure in enumerate((_circle, _square, _triangle, _cross)):
        rows = classes["shape"] == shape
        radius = np.array(RADII)[classes["size"][rows]][:, None, None]
        distance[rows] = measure(x[rows], y[rows], radius)
    hollow = (classes["fill"] == 1)[:, None, None]
    distance = np.where(hollow, np.maximum(distance, -_OUTLINE - distance), distance)
    return np.asarray(np.clip(0.5 - distance * side / 32, 0, 1))


def _circle(x: Floats, y: Floats, radius: Floats) -> Floats:
    return np.asarray(np.hypot(x, y) - radius)


def _square(x: Floats, y: Floats, radius: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius


def _triangle(x: Floats, y: Floats, radius: Floats) -> Floats:
    inner = 0.64 * radius  # of the inscribed circle
    y = y - inner / 2  # the middle of its height is the centre of the shape
    return np.asarray(np.maximum(y, np.abs(x) * np.sqrt(0.75) - y / 2) - inner)


def _cross(x: Floats, y: Floats, radius: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    long, wide = 1.1 * radius, 0.48 * radius  # wide enough to be hollow
    return np.minimum(np.maximum(x - long, y - wide), np.maximum(x - wide, y - long))


def _background(free: Nuisance, side: int) -> Floats:
    """[n, 3, S, S]."""
    x, y = _axes(side)
    frequency, direction, phase = (free.wave[:, column, None, None] for column in range(3))
    cos, sin = np.cos(direction), np.sin(direction)
    along, across = (x * cos + y * sin) / 32, (y * cos - x * sin) / 32
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * along + phase)
    # Across the whole image, whose diagonal is 1.41; half of the phases turn it round.
    gradient = np.clip(0.5 + along * np.where(phase < np.pi, 1, -1), 0, 1)
    turns = 2 * np.pi * 0.8 * frequency
    blocks = (np.sin(turns * along + phase) > 0) ^ (np.sin(turns * across + phase) > 0)
    mixed = np.choose(free.pattern[:, None, None], [wave, gradient, blocks])[:, None]
    first, second = free.tints[:, 0, :, None, None], free.tints[:, 1, :, None, None]
    return np.asarray(first + (second - first) * mixed)


def _colour(number: Integers, jitter: Floats) -> Floats:
    """Red, green and blue from hue, saturation and value: [n, 3]."""
    hue, saturation, value = (_COLOURS[number, column, None] for column in range(3))
    sector = (6 * (hue + jitter[:, None]) + np.array([5, 3, 1])) % 6
    return np.asarray(value - value * saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1))


def _noise(shape: tuple[int, ...], *key: int) -> Floats:
    """Nearly normal numbers with mean 0 and standard deviation 1: sums of the four 16-bit parts of a word."""
    parts = bits(int(np.prod(shape)), *key).view(np.uint16).reshape(*shape, 4).sum(-1, dtype=np.int64)
    return np.asarray((parts - 2 * 65535) / (65536 / np.sqrt(3)))

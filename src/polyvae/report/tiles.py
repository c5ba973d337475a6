"""Tiles: one value of one modality, as a small picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from torch import Tensor

from polyvae.core.vocabulary import Vocabulary
from polyvae.report.drawing import ACCENT, INK, MUTED, RULE

if TYPE_CHECKING:  # matplotlib takes a third of a second that only drawing should pay
    from matplotlib.axes import Axes


_TALL, _WIDE = 60, 130  # pixels of a tile with a sentence
_FONT, _LINE, _LETTER = 9, 11, 5.2  # pixels: size of the letters, height of a line, mean width of a letter


class Look(NamedTuple):
    """How values of a modality are shown.

    As images, lines or bars, scaled from ``low`` to ``high``, or as sentences of a ``vocabulary``. ``side``: pixels of a tile, which is a
    square; ``wide``: its width, if it is none.
    """

    kind: Literal["image", "line", "bars", "text"]
    low: float
    high: float
    side: int
    vocabulary: Vocabulary | None = None
    wide: int | None = None


def look_of_text(vocabulary: Vocabulary) -> Look:
    """How sentences are shown."""
    return Look("text", 0.0, 1.0, _TALL, vocabulary, _WIDE)


def look_of(shape: Sequence[int], likelihood: str, values: Tensor) -> Look | None:
    """How a modality is shown, scaled by observed ``values``; None if a small tile cannot show it.

    Images whose range is [0, 1] keep it, so that different runs are comparable.
    """
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 1.0)
    if low >= -0.01 and high <= 1.01:
        low, high = 0.0, 1.0
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    if len(shape) == 1:
        return Look("bars" if likelihood == "categorical" and shape[0] <= 32 else "line", low, high, 48)
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        large = max(shape[-2:])
        # Whole multiples of a small image keep its pixels square.
        return Look("image", low, high, large * max(1, round(34 / large)) if large <= 48 else 56)
    return None


def tile(ax: Axes, look: Look, value: Tensor, x: float, y: float, side: float, muted: bool = False) -> None:
    """One value of one modality, in a square of a board; a sentence, in a rectangle ``look.wide`` wide."""
    if look.vocabulary is not None:
        _sentence(ax, look.vocabulary, value, x, y, look.wide or side, side, muted)
        return
    scaled = ((value.detach().double().cpu().numpy() - look.low) / (look.high - look.low)).clip(0, 1)
    colour = MUTED if muted else ACCENT
    if look.kind == "image":
        picture = (
            scaled if scaled.ndim == 2 else scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1)
        )
        ax.imshow(
            picture,
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(x, x + side, y + side, y),
            interpolation="none",
            aspect="auto",
        )
        return
    outline(ax, x, y, side, side, RULE)
    flat = scaled.ravel()
    if len(flat) > 512:
        flat = flat[np.linspace(0, len(flat) - 1, 512).round().astype(int)]
    bottom, tall = y + side - 3, side - 6
    across = x + 3 + (side - 6) * (np.arange(len(flat)) + 0.5) / len(flat)
    if look.kind == "bars" or len(flat) < 4:
        ax.vlines(
            across,
            bottom,
            bottom - tall * flat.clip(0.01),
            colors=colour,
            linewidth=0.7 * (side - 6) / len(flat),
        )
    else:
        ax.plot(across, bottom - tall * flat, color=colour, linewidth=1)


def outline(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A thin frame on a board."""
    ax.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], color=colour, linewidth=1)


def _sentence(
    ax: Axes, vocabulary: Vocabulary, value: Tensor, x: float, y: float, wide: float, tall: float, muted: bool
) -> None:
    sentence: str = vocabulary.decode(value.detach().cpu().numpy()[None])[0]
    outline(ax, x, y, wide, tall, RULE)
    lines = textwrap.wrap(
        sentence or "(empty)",
        int((wide - 8) / _LETTER),
        max_lines=max(1, int((tall - 4) / _LINE)),
        placeholder=" …",
    )
    top = y + (tall - _LINE * len(lines)) / 2
    for number, line in enumerate(lines):
        ax.text(
            x + 4,
            top + _LINE * (number + 0.5),
            line,
            fontsize=_FONT,
            va="center",
            color=MUTED if muted or not sentence else INK,
        )

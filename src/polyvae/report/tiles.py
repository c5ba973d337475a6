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


_TALL, _WIDE, _FONT = 60, 130, 9  # pixels of a tile with a sentence, and of its letters
_LINE, _LETTER = (
    1.22,
    0.58,
)  # height of a line and mean width of a letter, relative to the size of the letters
_LONG = 20  # words of a sentence from which on its tile is wider
LARGE = 88  # pixels of a tile where few modalities share a page


class Look(NamedTuple):
    """How values of a modality are shown.

    As images, lines or bars, scaled from ``low`` to ``high``, or as sentences of a ``vocabulary``. ``side``: pixels of a tile, which is a
    square; ``wide``: its width, if it is none; ``font``: size of its letters.
    """

    kind: Literal["image", "line", "bars", "text"]
    low: float
    high: float
    side: int
    vocabulary: Vocabulary | None = None
    wide: int | None = None
    font: int = _FONT


def look_of_text(vocabulary: Vocabulary, large: bool = False, words: int = 0) -> Look:
    """How sentences of up to this many ``words`` are shown. ``large``: few modalities share the page."""
    tall, wide, font = (LARGE, 118, 11) if large else (_TALL, _WIDE, _FONT)
    if words > _LONG:  # else the ends of sentences would not be seen
        wide, font = (190, 10) if large else (220, _FONT)
    return Look("text", 0.0, 1.0, tall, vocabulary, wide, font)


def look_of(shape: Sequence[int], likelihood: str, values: Tensor, large: bool = False) -> Look | None:
    """How a modality is shown, scaled by observed ``values``; None if a small tile cannot show it.

    ``large``: few modalities share the page.

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
        pixels, aim = max(shape[-2:]), LARGE if large else 34
        # Whole multiples of a small image keep its pixels square.
        side = pixels * max(1, round(aim / pixels)) if pixels <= 48 else LARGE if large else 56
        return Look("image", low, high, side)
    return None


def tile(ax: Axes, look: Look, value: Tensor, x: float, y: float, side: float, muted: bool = False) -> None:
    """One value of one modality, in a square of a board; a sentence, in a rectangle ``look.wide`` wide."""
    if look.vocabulary is not None:
        _sentence(ax, look.vocabulary, value, x, y, look.wide or side, side, look.font, muted)
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
    ax: Axes,
    vocabulary: Vocabulary,
    value: Tensor,
    x: float,
    y: float,
    wide: float,
    tall: float,
    font: int,
    muted: bool,
) -> None:
    sentence: str = vocabulary.decode(value.detach().cpu().numpy()[None])[0]
    outline(ax, x, y, wide, tall, RULE)
    lines = textwrap.wrap(
        sentence or "(empty)",
        int((wide - 8) / (_LETTER * font)),
        max_lines=max(1, int((tall - 4) / (_LINE * font))),
        placeholder=" …",
    )
    line_height = _LINE * font
    top = y + (tall - line_height * len(lines)) / 2
    for number, line in enumerate(lines):
        ax.text(
            x + 4,
            top + line_height * (number + 0.5),
            line,
            fontsize=font,
            va="center",
            color=MUTED if muted or not sentence else INK,
        )

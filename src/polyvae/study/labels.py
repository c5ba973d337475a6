"""Labels beside the marks of a plot, where they cover neither each other nor a mark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from polyvae.report.drawing import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _WIDTH, _HEIGHT = 8.5, 5.4, 9.0  # of the font, and of one character of it, in pixels
_NEAR = 10.0  # from here on a line joins a label to its mark, in pixels
_MARK = 3.5  # radius of a mark, in pixels
_RADII = (8.0, 13.0, 19.0, 26.0, 34.0, 44.0)
_ANGLES = tuple(2 * math.pi * (step + 0.5) / 16 for step in range(16))
_Place = tuple[float, float]


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def arranged(
    anchors: Sequence[_Place], texts: Sequence[str], marks: Iterable[_Place], inside: Box
) -> list[Box]:
    """A box for each text near its anchor, in pixels.

    One after the other, each text takes the nearest of the candidate places with the least overlap with texts that were placed before,
    with marks, and with what is outside of ``inside``.
    """
    taken = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in marks]
    placed: list[Box] = []
    for anchor, text in zip(anchors, texts, strict=True):

        def cost(box: Box, radius: float) -> float:
            covered = sum(map(box.shared, [*taken, *placed])) + box.area - box.shared(inside)
            return 100 * covered + radius

        options = [(_beside(anchor, text, radius, angle), radius) for radius in _RADII for angle in _ANGLES]
        placed.append(min(options, key=lambda option: cost(*option))[0])
    return placed


def _beside(anchor: _Place, text: str, radius: float, angle: float) -> Box:
    """The box of a text that begins ``radius`` pixels from its anchor, in the direction ``angle``."""
    width, height = _WIDTH * len(text), _HEIGHT
    across, up = math.cos(angle), math.sin(angle)
    x = anchor[0] + radius * across + (across - 1) / 2 * width
    y = anchor[1] + radius * up + (up - 1) / 2 * height
    return Box(x, y, x + width, y + height)


def label(ax: Axes, notes: Sequence[tuple[_Place, str]], marks: Sequence[_Place]) -> None:
    """Write each text of ``notes`` beside its place, in the units of the axes, whose limits must be final. ``marks`` stay uncovered."""
    if not notes:
        return
    to_pixels = ax.transData.transform
    (left, bottom), (right, top) = ax.transAxes.transform([(0, 0), (1, 1)])
    anchors = [tuple(place) for place in to_pixels([place for place, _ in notes])]
    boxes = arranged(
        anchors,
        [text for _, text in notes],
        [tuple(place) for place in to_pixels(marks)],
        Box(left, bottom, right, top),
    )
    for (x, y), (place, text), box in zip(anchors, notes, boxes, strict=True):
        middle = ((box.left + box.right) / 2 - x, (box.bottom + box.top) / 2 - y)
        nearest = (min(max(x, box.left), box.right) - x, min(max(y, box.bottom), box.top) - y)
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": _MARK}
        ax.annotate(
            text,
            place,
            middle,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_SIZE,
            color=MUTED,
            arrowprops=line if math.hypot(*nearest) > _NEAR else None,
        )

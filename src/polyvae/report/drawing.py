"""Drawing primitives: a canvas in pixels, colours, names that fit, and SVG that takes the colours of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:  # matplotlib takes a third of a second that only drawing should pay
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


INK, MUTED, RULE, PAPER, ACCENT = "#20262c", "#69737d", "#d6dbe0", "#fefefd", "#0a7188"
SERIES = (ACCENT, "#b5530b", "#6a4fb5", "#2e7d3c", "#b3306a", "#7d6608")
"""One colour for each run. After the last, the colours repeat with dashed lines."""
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", ACCENT: "accent"} | {
    colour: f"s{number}" for number, colour in enumerate(SERIES) if number
}
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 10,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.grid": False,
    "grid.color": RULE,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": MUTED,
    "image.composite_image": False,
    "svg.fonttype": "none",
}
_LONG = 16  # the longest name in a figure, in characters


class Figure(NamedTuple):
    """A drawing. ``body`` is SVG for a page that defines the colours, ``svg`` is a file; ``alt`` is a description in words."""

    name: str
    width: int
    height: int
    body: str
    svg: bytes
    canvas: Canvas
    alt: str
    caption: str = ""

    def png(self) -> bytes:
        """The drawing as a PNG file, which takes as long to make as the SVG: pages do not need it."""
        import matplotlib

        file = io.BytesIO()
        with matplotlib.rc_context(_style(self.name)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            self.canvas.savefig(file, format="png", dpi=144, facecolor="white")
        return file.getvalue()


def _style(name: str) -> Any:
    return {**_STYLE, "svg.hashsalt": name}  # ids differ between figures, not between runs


class Drawing:
    """A canvas in pixels, used in a ``with`` statement: draw on ``axes`` or a ``board``; ``done`` returns the figure."""

    def __init__(self, name: str, width: float, height: float) -> None:
        import matplotlib

        self.name, self.width, self.height = name, round(width), round(height)
        self._style = matplotlib.rc_context(_style(name))

    def __enter__(self) -> Self:
        from matplotlib.figure import Figure as Canvas

        self._style.__enter__()
        self.canvas: Canvas = Canvas(figsize=(self.width / 72, self.height / 72), dpi=72)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._style.__exit__(*problem)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose box is at these pixels, from the upper left corner."""
        return self.canvas.add_axes(
            (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        )

    def board(self) -> Axes:
        """Axes without lines that cover the canvas, in pixels from the upper left corner."""
        ax = self.axes(0, 0, self.width, self.height)
        ax.set_axis_off()
        return ax

    def done(self, alt: str, caption: str = "") -> Figure:
        for ax in self.canvas.axes:
            if not ax.axison:  # a board, whose limits were changed by images
                ax.set(xlim=(0, self.width), ylim=(self.height, 0))
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Glyph"
            )  # the fonts of the page may have glyphs that this one lacks
            svg = io.BytesIO()
            self.canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        return Figure(
            self.name,
            self.width,
            self.height,
            _inline(svg.getvalue().decode()),
            svg.getvalue(),
            self.canvas,
            alt,
            caption,
        )


def _inline(svg: str) -> str:
    """The inside of an SVG in the colours of the page, without prologue, styles and unused ids, which would clash on a page."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return re.sub(r"\s*\n\s*", "\n", body)


def short(name: str, long: int = _LONG) -> str:
    """A name, shortened to fit into a figure."""
    return name if len(name) <= long else f"{name[: long - 1]}…"


def label_width(names: Sequence[str]) -> float:
    """The width of a column of these names, in pixels."""
    return 16 + 7.4 * max((len(short(name)) for name in names), default=0)

"""The table of import layers, docs/layers.toml, and the block of docs/design.md that is made from it.

python -m tests.helpers.layers --write
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
TABLE = DOCS / "layers.toml"
PAGE = DOCS / "design.md"
OPEN, CLOSE = "<!-- layers -->", "<!-- /layers -->"


class Layers(NamedTuple):
    """The table as a question: ``allowed(here, there)``."""

    layers: list[dict]
    optional: list[str]
    types: list[list[str]]

    @property
    def parts(self) -> dict[str, int]:
        """Every part with its layer, counted from the lowest."""
        return {part: place for place, layer in enumerate(self.layers) for part in layer["parts"]}

    def part(self, module: str) -> str | None:
        """The part to which a module belongs, such as "core.likelihoods" for core.likelihoods.counts; None if no layer has it."""
        words = module.split(".")
        for length in range(len(words), 0, -1):
            name = ".".join(words[:length])
            if name in self.parts:
                divided = any(part.startswith(f"{name}.") for part in self.parts)
                return name if name == module or not divided else None
        return None

    def allowed(self, here: str, there: str) -> bool:
        """Whether part ``here`` may import part ``there``."""
        if here == there:
            return True
        layer = self.layers[self.parts[here]]
        only = layer.get("only", {}).get(here)
        if only is not None:
            return there.split(".")[0] in only
        if self.parts[here] == self.parts[there]:
            return [here, there] in layer.get("beside", [])
        return self.parts[there] < self.parts[here]


def read_layers() -> Layers:
    table = tomllib.loads(TABLE.read_text())
    return Layers(table["layer"], table["optional"], table["types"])


def rendered(layers: Layers) -> str:
    """The table in Markdown, the highest layer first."""
    lines = [
        OPEN,
        "<!-- made from layers.toml by `python -m tests.helpers.layers --write` -->",
        "",
        "| layer, from the highest | contents |",
        "|---|---|",
    ]
    for layer in reversed(layers.layers):
        parts = [part for part in layer["parts"] if part not in layers.optional]
        notes = [f"{part} imports {', '.join(names)} only" for part, names in layer.get("only", {}).items()]
        if parts:
            lines.append(
                f"| {', '.join(f'`{part}`' for part in parts)} | {'; '.join([layer['what'], *notes])} |"
            )
    return "\n".join([*lines, CLOSE])


def split(page: str) -> tuple[str, str, str]:
    """A page before its block, the block, and the page after it."""
    before, found, rest = page.partition(OPEN)
    block, closed, after = rest.partition(CLOSE)
    assert found, f"{PAGE.name}: got no {OPEN}; expected it before the block of layers"
    assert closed, f"{PAGE.name}: got no {CLOSE}; expected it after the block of layers"
    return before, found + block + closed, after


def main() -> None:
    before, _, after = split(PAGE.read_text())
    text = before + rendered(read_layers()) + after
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text)
    else:
        print(rendered(read_layers()))


if __name__ == "__main__":
    main()

"""Text in ``repr``."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], most: int = 8) -> list[str]:
    """Indented lines with columns of equal width.

    Args:
        rows: The cells of each row; all rows have the same number of cells.
        most: The largest number of lines. The last one then counts the rows that are left out.
    """
    shown = rows if len(rows) <= most else rows[: most - 1]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    return lines if len(shown) == len(rows) else [*lines, f"  and {len(rows) - len(shown)} more"]


def number_in(text: str) -> float:
    """The number that a text is; unlike ``float``, "12_1" is none, because it is a name. Raises ValueError."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def counted(count: int, one: str, many: str) -> str:
    """A number and its noun: "1 modality", "1,200 samples"."""
    return f"{count:,} {one if count == 1 else many}"


def named(names: Sequence[object], most: int = 5) -> str:
    """The first names in quotes, and the number of the others: "'a', 'b' and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(str(name)) for name in names[:most]) + more

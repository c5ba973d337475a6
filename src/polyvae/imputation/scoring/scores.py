"""Scores of imputations: one long table, printed as modality by method, as a frame, as JSON, and as one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyvae.imputation.scoring.rows import IN_UNITS, Row
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.text import counted

SCORES: Mapping[str, str] = {
    "r2": "R²",
    "fvu": "fraction of variance unexplained",
    "rmse": "root mean squared error",
    "pearson": "Pearson correlation",
    "crps": "continuous ranked probability score",
    "log_loss": "log loss",
    "auroc": "AUROC",
    "accuracy": "accuracy of classes",
    "brier": "Brier score of classes",
    "coverage": "coverage",
    "width": "width of the interval",
    "set_coverage": "coverage of sets of classes",
    "set_size": "classes in a set",
    "c_index": "C-index",
    "c_index_low": "lower end of the 95 % interval of the C-index",
    "c_index_high": "upper end of the 95 % interval of the C-index",
}
_SHOWN = ("r2", "auroc", "accuracy", "coverage", "width", "set_coverage", "set_size", "c_index")
_ENDS = ("c_index_low", "c_index_high")
_UNIT = ", in standard deviations of the training samples"
ERRORS = ("fvu", "log_loss", "rmse")  # by which methods are compared: the first that a modality has


@dataclass(frozen=True, repr=False)
class Scores:
    """A long table of scores. A score that is undefined has no row.

    Args:
        rows: The rows.

    Raises:
        InputError: A value that is NaN, or an unknown score.

    Example:
        >>> from polyvae.imputation.scoring.rows import Row
        >>> from polyvae.imputation.scoring.scores import Scores
        >>> scores = Scores([Row("rna", None, None, "ridge", "fvu", 0.4, 90), Row("rna", None, None, "vae", "fvu", 0.3, 90)])
        >>> print(scores.table("fvu"))
        fraction of variance unexplained
             ridge    vae
        rna  0.400  0.300
        >>> Scores.from_json(scores.to_json()) == scores
        True
    """

    rows: tuple[Row, ...]

    def __init__(self, rows: Iterable[Row | Sequence[Any]] = ()) -> None:
        given = tuple(Row(*row) for row in rows)
        for row in given:
            if row.score not in SCORES:
                raise InputError(f"scores: got score {row.score!r}; {nearest(row.score, SCORES)}")
            if math.isnan(row.value):
                raise InputError(
                    f"scores: got NaN as {row.score} of {row.modality!r}; expected a number; leave undefined scores out"
                )
        object.__setattr__(self, "rows", given)

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Scores) -> Scores:
        return Scores((*self.rows, *other.rows))

    def __repr__(self) -> str:
        return self.table()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in the order of the rows."""
        return tuple(dict.fromkeys(row.modality for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of the rows."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    def select(self, **fields: Any) -> Scores:
        """The rows that have these values, such as ``select(score="r2", feature=None)``.

        Args:
            **fields: Fields of ``Row``.

        Raises:
            InputError: An unknown field.
        """
        for name in fields:
            if name not in Row._fields:
                raise InputError(f"select: {name!r} is not a field of a row; {nearest(name, Row._fields)}")
        return Scores(
            row for row in self.rows if all(getattr(row, name) == value for name, value in fields.items())
        )

    def value(
        self,
        modality: str,
        method: str,
        score: str,
        *,
        feature: str | None = None,
        pattern: str | None = None,
    ) -> float | None:
        """One score, or None where it is undefined or was not measured."""
        key = (modality, feature, pattern, method, score)
        return next((row.value for row in self.rows if row[:5] == key), None)

    def table(self, *scores: str, pattern: str | None = None) -> str:
        """Modality by method as text, one block per score; – where there is none. Of the C-index a row per method, with its interval.

        Args:
            *scores: Keys of ``SCORES``. Without any: R², AUROC, accuracy, coverage, width and the C-index, where there are any; all
                others where there is none of these.
            pattern: Which pattern of observed modalities. None: the rows that are for all of them.

        Raises:
            InputError: An unknown score.
        """
        for score in scores:
            if score not in SCORES:
                raise InputError(f"table: got score {score!r}; {nearest(score, SCORES)}")
        part = self.select(feature=None, pattern=pattern)
        there = {row.score for row in part.rows}
        blocks = []
        for score in scores or [score for score in _SHOWN if score in there] or SCORES:
            chosen = part.select(score=score)
            if chosen.rows:
                blocks.append(_intervals(part) if score == "c_index" else _block(chosen, score))
        if not blocks and self.rows and not scores:
            return f"no scores of whole modalities; to_frame() returns {counted(len(self), 'score', 'scores')} of features or patterns"
        return "\n\n".join(blocks) or "no scores"

    def to_columns(self) -> dict[str, list[Any]]:
        """Field -> values, one per row."""
        return {name: [row[i] for row in self.rows] for i, name in enumerate(Row._fields)}

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame; without pandas, as ``to_columns``."""
        try:
            import pandas
        except ModuleNotFoundError:
            return self.to_columns()
        return pandas.DataFrame(self.to_columns())

    def to_json(self) -> str:
        """JSON from which ``from_json`` makes the same scores. Infinity is written as a string."""
        rows = [[str(field) if field == math.inf else field for field in row] for row in self.rows]
        return json.dumps({"fields": Row._fields, "rows": rows}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Scores:
        """The scores that ``to_json`` wrote.

        Raises:
            InputError: Anything else.
        """
        with reading("scores", "what Scores.to_json() writes", "write them again"):
            found = json.loads(text)
            if found["fields"] != list(Row._fields):
                raise ValueError(f"fields {found['fields']}")
            rows = [Row(*row) for row in found["rows"]]
            return cls(row._replace(value=float(row.value), n=int(row.n)) for row in rows)

    def sentence(self, vae: str = "vae", combined: Sequence[str] = ("stack",)) -> str:
        """Which method has the lowest error for which modalities, and where the VAE alone is ahead of every simple method.

        Modalities are compared by the fraction of variance unexplained, or by log loss.

        Args:
            vae: The method that is the VAE alone.
            combined: Methods that contain the VAE. All others are simple methods.
        """
        best: dict[str, list[str]] = {}
        ahead: list[str] = []
        behind: list[str] = []
        for modality in self.modalities:
            errors = self._errors(modality)
            if errors:
                best.setdefault(min(errors, key=lambda name: errors[name]), []).append(modality)
            simple = [error for name, error in errors.items() if name != vae and name not in combined]
            if vae in errors and simple:
                (ahead if errors[vae] < min(simple) else behind).append(modality)
        if not best:
            return "No error was measured."
        parts = [f"{method} has the lowest error for {', '.join(names)}" for method, names in best.items()]
        if ahead:
            parts.append(f"the VAE alone is better than every simple method for {', '.join(ahead)}")
        if behind:
            parts.append(f"the VAE alone is not better than the best simple method for {', '.join(behind)}")
        return "; ".join(parts) + "."

    def _errors(self, modality: str) -> dict[str, float]:
        part = self.select(modality=modality, feature=None, pattern=None)
        for score in ERRORS:
            if found := {row.method: row.value for row in part.rows if row.score == score}:
                return found
        return {}


def _block(scores: Scores, score: str) -> str:
    cells = {(row.modality, row.method): f"{row.value:.3f}" for row in scores.rows}
    rows = [
        ["", *scores.methods],
        *(
            [name, *(cells.get((name, method), "–") for method in scores.methods)]
            for name in scores.modalities
        ),
    ]
    return _aligned(f"{SCORES[score]}{_UNIT if score in IN_UNITS else ''}", rows)


def _intervals(scores: Scores) -> str:
    """The C-index of each method, with the ends of its interval where they are known."""
    rows = []
    for row in scores.select(score="c_index").rows:
        ends = [scores.value(row.modality, row.method, end, pattern=row.pattern) for end in _ENDS]
        interval = "" if None in ends else " to ".join(f"{end:.3f}" for end in ends)
        rows.append([row.method, f"{row.value:.3f}", interval])
    return _aligned(SCORES["c_index"], [["", "value", "95 % interval"], *rows])


def _aligned(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Lines of text: a title, and rows whose columns are to the right of each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [title, *lines])

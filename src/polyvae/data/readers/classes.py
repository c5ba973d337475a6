"""Columns of texts, booleans and categories as numbers, when a table is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Levels, Unseen, text_of
from polyvae.data.readers.doubtful import MARKS, warn_of_classes, warn_of_numbers
from polyvae.utils.errors import InputError
from polyvae.utils.levels import mixes_booleans
from polyvae.utils.text import named, number_in

MOST = 100
"""Classes of a column of text, above which it is not taken as one of classes unless ``kinds`` has it."""
BOOLEAN = Levels((False, True), True)
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}.*|\d{1,2}:\d{2}(:\d{2}.*)?|\d{1,2}[- ]?[A-Za-z]{3,9}[-, ]+\d{2,4}"
)
_WRITTEN = re.compile(
    r"[-+\u2212]?[$\u20ac\u00a3]?(\d+(\.\d+)?|\d+,\d+|\d{1,3}([,'\u2019. \u00a0\u202f]\d{3})+([.,]\d+)?)([ \u00a0]?[%$\u20ac\u00a3])?"
)
"""A number with a decimal comma, separators of thousands, a percent sign or a currency."""


class Asked(NamedTuple):
    """What is known of the columns of a table before it is read.

    Attributes:
        kinds: Column -> "categorical", "ordinal", "real", "count" or "binary"; or the classes of an ordinal in order.
        known: The columns of the training data: column -> its classes, None for numbers. None: nothing is known.
        unseen: What classes are that the training data did not have: "error", or "mask".
        aside: Columns that are covariates, and no features, where the table has them.
    """

    kinds: Mapping[str, str | Sequence[Any]] = {}
    known: Mapping[str, Levels | None] | None = None
    unseen: Unseen = "error"
    aside: Sequence[str] = ()

    def verbatim(self, name: str) -> bool:
        """Whether the cells of a column are classes even where they look like numbers."""
        known = None if self.known is None else self.known.get(name)
        levels = known.names if known is not None else ()
        asked = self.kinds.get(name)
        return any(isinstance(level, str) for level in levels) or (
            asked is not None
            and not isinstance(asked, str)
            and any(isinstance(level, str) for level in asked)
        )


Ask = Callable[[str], Asked]
"""The name of a modality -> what is known of its columns."""


def setting_aside(asked: Ask | None, names: Sequence[str] | None) -> Ask:
    """What is known of the columns of each table, of which those called ``names`` are covariates."""

    def ask(name: str) -> Asked:
        own = Asked() if asked is None else asked(name)
        return own if names is None else own._replace(aside=names)

    return ask


class Words(NamedTuple):
    """The cells of a column that are no numbers.

    Attributes:
        values: One for each row: text, a boolean, a number or another object; None where missing.
        order: The categories in order, where the table has them.
        ordered: Whether their order means anything.
    """

    values: list[Any]
    order: tuple[Any, ...] | None = None
    ordered: bool = False


class Read(NamedTuple):
    """Columns of numbers.

    Attributes:
        values: [n, F], NaN where missing.
        columns: F names.
        levels: Column of the table -> its classes.
    """

    values: NDArray[Any]
    columns: tuple[str, ...]
    levels: dict[str, tuple[Any, ...]]


def encoded(
    where: str, names: Sequence[str], numbers: NDArray[Any], words: Mapping[int, Words], asked: Asked
) -> Read:
    """Numbers for all columns of a table.

    Args:
        where: The table, for errors.
        names: Its columns.
        numbers: [n, F]; anything in the columns of ``words``.
        words: Place of a column -> its cells.
        asked: What is known of its columns.

    Warns:
        UserWarning: Columns that look like something else, where nothing is known of them; see ``polyvae.data.readers.doubtful``.

    Raises:
        InputError: Text that is not classes: beside numbers, dates, ids or free text; classes that the training data did not have.
    """
    if asked.known is None:
        here = [at for at in range(len(names)) if at not in words]
        kept = numbers[:, here] if words else numbers
        warn_of_numbers(where, [names[at] for at in here], kept, asked.kinds)
    if not words:
        return Read(numbers, tuple(names), {})
    chosen = _levels(where, names, words, asked)
    parts, columns, levels, at = list[NDArray[Any]](), list[str](), dict[str, tuple[Any, ...]](), 0
    for place in sorted(words):
        parts.append(numbers[:, at:place])
        columns += names[at:place]
        name, own, at = names[place], words[place].values, place + 1
        found = chosen[place]
        if found is None:
            plain = [np.nan if value is None or isinstance(value, str) else float(value) for value in own]
            parts.append(np.array(plain)[:, None])
            columns.append(name)
            continue
        parts.append(found.numbers(found.codes(where, name, own, asked.unseen)))
        columns += found.columns(name)
        levels[name] = found.names
    parts.append(numbers[:, at:])
    columns += names[at:]
    return Read(np.concatenate([part.astype(numbers.dtype) for part in parts], 1), tuple(columns), levels)


def _levels(
    where: str, names: Sequence[str], words: Mapping[int, Words], asked: Asked
) -> dict[int, Levels | None]:
    """The classes of each column of words; None: it is one of numbers. Raises InputError: it is neither."""
    found: dict[int, Levels | None] = {}
    wrong: dict[str, list[int]] = {}
    for place, own in words.items():
        name = names[place]
        kind = asked.kinds.get(name)
        boolean = all(value is None or isinstance(value, bool) for value in own.values)
        if kind is not None and not isinstance(kind, str):
            found[place] = Levels(tuple(kind), True)
        elif asked.known is not None:
            found[place] = asked.known.get(name)
            if found[place] is None and name in asked.known and not boolean:
                wrong.setdefault("numbers", []).append(place)
        elif all(value is None for value in own.values):
            found[place] = None
        elif boolean:
            found[place] = None if kind in ("real", "count", "binary") else BOOLEAN
        elif kind in ("real", "count", "binary"):
            wrong.setdefault("numbers", []).append(place)
        elif own.order is not None and (own.ordered or kind == "ordinal"):
            found[place] = Levels(own.order, kind != "categorical")
        elif kind == "ordinal":
            wrong.setdefault("order", []).append(place)
        elif kind is None and (problem := _problem(own)):
            wrong.setdefault(problem, []).append(place)
        else:
            found[place] = Levels(_ordered(own), False)
    if wrong:
        problem, places = next(iter(wrong.items()))
        raise _refused(where, names, words, problem, places, asked.known is not None)
    if asked.known is None:
        classes = {names[place]: level for place, level in found.items() if level is not None}
        cells = {names[place]: words[place].values for place in words}
        warn_of_classes(where, classes, cells, asked.kinds)
    return found


def _ordered(own: Words) -> tuple[Any, ...]:
    """The classes that occur: in the order of the table, or sorted."""
    used = {text_of(value) for value in own.values if value is not None}
    if own.order is not None:
        return tuple(level for level in own.order if text_of(level) in used) or own.order
    return tuple(sorted(used, key=_natural))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Text whose numbers are compared as numbers: "t2" before "t10"."""
    parts = re.split(r"(\d{1,15})", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _problem(own: Words) -> str:
    """Why words are no classes: "booleans" or "numbers" beside them, numbers "written" otherwise, "dates", or "ids"; "" where they are."""
    texts = [text_of(value) for value in own.values if value is not None]
    if mixes_booleans(own.values):
        return "booleans"
    if own.order is not None:
        return "ids" if len(set(texts)) > MOST else ""
    if any(_is_number(text) for text in set(texts)):
        return "numbers"
    if all(_WRITTEN.fullmatch(text.strip()) for text in set(texts)):
        return "written"
    if texts and sum(bool(_DATE.fullmatch(text)) for text in texts) > len(texts) / 2:
        return "dates"
    count = len(set(texts))
    rare = count == len(texts) > 1 or (count > 2 and 2 * count > len(texts))
    return "ids" if count > MOST or rare else ""


def _is_number(text: str) -> bool:
    try:
        number_in(text)
    except ValueError:
        return False
    return True


def _refused(
    where: str,
    names: Sequence[str],
    words: Mapping[int, Words],
    problem: str,
    places: Sequence[int],
    known: bool,
) -> InputError:
    wrong = [names[place] for place in places]
    texts = [text_of(value) for value in words[places[0]].values if value is not None]
    strange = next((text for text in texts if not _is_number(text)), texts[0])
    many = len({text for text in texts if not _is_number(text)})
    at, of = f"in {len(wrong)} of {len(names)} columns ({named(wrong)}; such as", "kinds={NAME: {COLUMN:"
    if problem == "booleans":
        return InputError(
            f"{where}: got booleans beside numbers in {len(wrong)} of {len(names)} columns ({named(wrong)}); expected one of both; write "
            "True as 1 and False as 0 where they are numbers"
        )
    if problem == "written":
        return InputError(
            f"{where}: got numbers as text {at} {strange!r}); expected plain numbers, such as 1234.5, without separators of thousands, "
            f"decimal commas and signs; convert them, or take them as classes with {of} 'categorical'}}}}"
        )
    if problem == "numbers":
        only_first = strange.strip().lower() not in MARKS and all(
            value is None or _is_number(text_of(value))
            for place in places
            for value in words[place].values[1:]
        )
        remedy = (
            "write numbers without separators of thousands, decimal commas and signs"
            if _WRITTEN.fullmatch(strange.strip()) and not _is_number(strange)
            else "convert dates to a number of days"
            if _DATE.fullmatch(strange.strip())
            else f"delete the first row if it is a second line of the header, as {strange!r} looks"
            if only_first and not _is_number(strange) and len(words[places[0]].values) > 1
            else f"replace {strange!r} by an empty cell or NaN where it marks what was not measured"
            if 0 < many < 4
            else "correct them, as with pandas.to_numeric"
        )
        if known:
            return InputError(
                f"{where}: got text {at} {strange!r}); expected numbers, as in the training data; {remedy}, or drop these columns"
            )
        return InputError(
            f"{where}: got text {at} {strange!r}) beside numbers; expected numbers; {remedy}, drop these columns, convert them to "
            f"numbers, name the id column with id= or the labels with labels=, or take the values as classes with {of} 'categorical'}}}}"
        )
    if problem == "order":
        return InputError(
            f"{where}: got text {at} {strange!r}) as an ordinal; expected its classes in order; write {of} ['low', 'high']}}}}, or use an "
            "ordered pandas.Categorical"
        )
    if problem == "dates":
        return InputError(
            f"{where}: got dates or times {at} {strange!r}); expected numbers or classes; drop these columns, or convert them to a number "
            "of days"
        )
    return InputError(
        f"{where}: got text {at} {strange!r}) with {len(set(texts))} values in {len(texts)} rows, as ids and free text have; expected "
        f"classes that repeat; drop these columns, name the id column with id= or the labels with labels=, or take the values as "
        f"classes with {of} 'categorical'}}}}"
    )

"""The files that a command names: which modality each is, how they are read, and their target column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polyvae.data.groups import text_of
from polyvae.data.readers import Given
from polyvae.data.readers.classes import Ask
from polyvae.data.readers.columns import column_of, columns_of, plain
from polyvae.data.readers.endings import INPUTS, SHEETS, ending, stem
from polyvae.data.readers.omics import from_anndata
from polyvae.data.readers.opening import OMICS, open_file
from polyvae.imputation.covariates.conditions import names_of, read_with, with_kinds_of, without
from polyvae.imputation.targets.times import event_first
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

KNOWN = (*INPUTS, *OMICS)
_LISTED = 6  # columns that an error lists


class Files(NamedTuple):
    """Files by modality.

    Attributes:
        paths: Modality -> file.
        given: The modalities whose name was written before the file; the others are named by it.
    """

    paths: dict[str, Path]
    given: frozenset[str]


class Y(NamedTuple):
    """A target.

    Attributes:
        column: The name of its column; of a time to event those of time and event, with a comma between them.
        values: Id -> value, None where missing; of a time to event (time, event).
        columns: The names of its columns.
        where: FILE:COLUMN of each column.
    """

    column: str
    values: dict[str, Any]
    columns: tuple[str, ...]
    where: tuple[str, ...]

    def of(self, ids: Sequence[Any] | None) -> Any:
        """The target of samples: as by id, or of two columns in the order of the samples, with their names.

        Args:
            ids: The ids of the samples; None: they have none.

        Raises:
            InputError: No sample has a target.
        """
        if ids is None:
            return self.values
        if self.values and not any(str(each) in self.values for each in ids):
            raise InputError(
                f"target: got ids in {self.where[0].rpartition(':')[0]} none of which is a sample, such as "
                f"{named(list(self.values), 3)}; expected ids of the data, such as {named(list(ids), 3)}; check their spelling and which "
                "column they are"
            )
        if len(self.columns) == 1:
            return self.values
        rows = [self.values.get(str(each), (None, None)) for each in ids]
        return np.array(rows, dtype=[(name, object) for name in self.where])


def files_of(words: Sequence[str], options: Sequence[str] = ()) -> Files:
    """Files from words of a command line: ``FILE``, ``NAME=FILE``, ``--NAME FILE`` or ``--NAME=FILE``.

    Args:
        words: The words.
        options: Options of the command, for a hint where a word that begins with ``--`` is followed by no file.

    Raises:
        InputError: No file, two of one modality, or a name without a file.

    Example:
        >>> from polyvae.imputation.files.sources import files_of
        >>> sorted(files_of(["a/rna.csv", "--protein", "new.csv"]).paths)
        ['protein', 'rna']
    """
    paths: dict[str, Path] = {}
    given: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        named = word.startswith("-") and not Path(word).exists()
        if named:
            name, equals, file = word.lstrip("-").partition("=")
            if not equals:
                file = rest.pop(0) if rest else ""
            if not name or not word.startswith("--") or ending(Path(file)) not in (*KNOWN, *SHEETS):
                known = [*options, *(f"--{key}" for key in paths)]
                raise InputError(
                    f"{word}: got no option of this command, and no file after it ({file or 'nothing'!r}); expected --NAME FILE to name a "
                    f"modality; {nearest(word.partition('=')[0], known)}"
                )
        else:
            name, equals, file = word.partition("=")
            named = bool(equals) and not Path(word).exists()
            if not named:
                name, file = stem(Path(word)), word
        if not name or not file:
            raise InputError(f"{word!r}: got no name or no file; expected FILE or NAME=FILE; write both")
        if name in paths:
            raise InputError(
                f"{file}: got a second file for modality {name!r}, after {paths[name]}; expected one for each; name them with NAME=FILE"
            )
        paths[name] = Path(file)
        given |= {name} if named else set()
    if not paths:
        raise InputError(
            "data: got no file; expected one for each modality, or one .h5ad or .h5mu file; name them"
        )
    return Files(paths, frozenset(given))


def read_files(
    files: Files,
    *,
    id: Any = None,
    nan: Any = "missing",
    labels: Sequence[str] = (),
    overlap: bool = True,
    asked: Ask | None = None,
    covariates: Any = None,
) -> Given:
    """The data in the files.

    Args:
        files: The files: tables, npy, npz and .h5ad files, or one .h5mu file.
        id: See ``polyvae.data.readers.read``.
        nan: See ``polyvae.data.readers.read``.
        labels: Columns that are no features, where a table has them: that of a class or a number, or those of time and event.
        overlap: Whether some sample must have two modalities.
        asked: See ``polyvae.data.readers.read``.
        covariates: Those of an estimator, which are columns of the tables, or of obs.

    Raises:
        InputError: A file that cannot be read, or kinds that cannot be combined.
    """
    kinds = {name: ending(path) for name, path in files.paths.items()}
    columns = {name: columns_of(path) for name, path in files.paths.items()}  # also: each can be read
    omics = [name for name, kind in kinds.items() if kind in OMICS]
    whole = [name for name in omics if kinds[name] == ".h5mu"]
    if whole and len(kinds) > 1:
        raise InputError(
            f"{files.paths[whole[0]]}: got a .h5mu file beside others; expected it alone; store all in one .h5mu file"
        )
    if omics and len(kinds) == 1:
        name = omics[0]
        path = files.paths[name]
        if kinds[name] == ".h5ad" and name in files.given:
            names = names_of(covariates) or None
            given = Given(
                *from_anndata(open_file(path), name=name, nan=nan, overlap=overlap, covariates=names)
            )
            return given._replace(data=with_kinds_of(given.data, covariates))
        return read_with(path, covariates, nan=nan, overlap=overlap)
    there = [label for label in reversed(labels) if any(label in each for each in columns.values())]
    label = there[0] if there else None
    given = read_with(files.paths, covariates, id=id, nan=nan, labels=label, overlap=overlap, asked=asked)
    return given._replace(data=without(given.data, there[1:], "the target")) if there[1:] else given


def target_of(text: str, files: Files, id: Any = None) -> Y:
    """The target that ``text`` names: a column of one of the files, or FILE:COLUMN, of one of the files or another.

    A time to event is named by two columns, TIME,EVENT or FILE:TIME,EVENT; where the first alone has the values of events, it is the event.

    Raises:
        InputError: No such column or file, or tables that disagree.
    """
    if id is False:
        raise InputError(
            "target: got rows paired by position; expected ids, by which a target is found; add an id column"
        )
    by_file, colon, column = text.rpartition(":")
    columns = {name: columns_of(path) for name, path in files.paths.items()}
    owners = [path for name, path in files.paths.items() if text in columns[name]]
    if not owners and column.count(",") == 1 and column not in _columns_in(files, by_file):
        return _pair_of(f"{by_file}{colon}", column, files, id)
    if not owners and colon and column:
        owners, text = [files.paths.get(by_file, Path(by_file))], column
    if not owners:
        raise _no_target(text, files, columns)
    found: dict[str, Any] = {}
    for path in owners:
        for key, value in column_of(path, text, id if isinstance(id, str) else None).items():
            if value is None or value != value:
                continue
            if key in found and text_of(found[key]) != text_of(value):
                raise InputError(
                    f"target: got {found[key]!r} and {value!r} for sample {key!r}; expected the same in every table; correct one"
                )
            found[key] = value
    return Y(text, plain(found), (text,), (f"{owners[0]}:{text}",))


def _columns_in(files: Files, name: str) -> list[str]:
    path = files.paths.get(name, Path(name))
    return columns_of(path) if name and path.is_file() else []


def _pair_of(prefix: str, text: str, files: Files, id: Any) -> Y:
    """Time and event, each a target of its own, by id."""
    time, event = (target_of(f"{prefix}{column}", files, id) for column in text.split(","))
    if time.where == event.where:
        raise InputError(f"target: got column {time.column!r} twice; expected TIME,EVENT; name both")
    if event_first(time.values, event.values):
        time, event = event, time
    ids = dict.fromkeys([*time.values, *event.values])
    values = {key: (time.values.get(key), event.values.get(key)) for key in ids}
    columns = time.column, event.column
    return Y(",".join(columns), values, columns, (*time.where, *event.where))


def _no_target(text: str, files: Files, columns: Mapping[str, Sequence[str]]) -> InputError:
    """The error where a target is no column: a file without its column, or another name."""
    path = files.paths.get(text, Path(text))
    if path.is_file():
        own = columns_of(path)
        return InputError(
            f"target: got the file {text!r} without a column; expected FILE:COLUMN; such as {text}:{own[-1] if own else 'COLUMN'} "
            f"(columns: {named(own)})"
        )
    known = [name for each in columns.values() for name in each]
    hint = nearest(text, known[:1000])
    few = hint if len(known) <= _LISTED or hint.startswith("did") else f"columns: {named(known)}"
    return InputError(f"target: got {text!r}, a column of no file; expected a column, or FILE:COLUMN; {few}")


def check_new(paths: Mapping[str, Path], out: Path) -> None:
    """Raises InputError where ``out`` is one of the files that are read."""
    for path in paths.values():
        if path.exists() and out.exists() and path.resolve() == out.resolve():
            raise InputError(f"{out}: got the file that is read as output; expected another path; choose one")

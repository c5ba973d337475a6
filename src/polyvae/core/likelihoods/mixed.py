"""One table whose columns have different likelihoods."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from polyvae.core.likelihoods.base import Likelihood
from polyvae.core.likelihoods.plain import PLAIN
from polyvae.utils.errors import InputError, check_count, nearest

PARTS: dict[str, type[Likelihood]] = {name: made for name, made in PLAIN.items() if not made.ids}
"""The likelihoods that columns of a table may have."""
_EXAMPLE = '[["normal", 5], ["bernoulli", 2], ["categorical", 3], ["ordinal", 1, {"levels": 5}]]'


class Part(NamedTuple):
    """One part: its number, its likelihood, its columns, and where its decoder outputs are."""

    number: int
    name: str
    likelihood: Likelihood
    columns: slice
    output: slice

    @property
    def where(self) -> str:
        """The part by its number, its name and its columns."""
        return _where(self.number, self.name, self.columns)

    def decoded(self, out: Tensor) -> Tensor:
        """The decoder outputs of this part: [..., *output]."""
        own = out[..., self.output]
        return own.reshape(*own.shape[:-1], *self.likelihood.output)


class MixedLikelihood(Likelihood):
    """Columns with different likelihoods: every part is an existing likelihood over its own consecutive columns.

    The parts are independent given the latents, so log-likelihoods add up. A categorical part of C columns is one variable of C classes,
    whose columns are observed together. A part of counts has its own library sizes; with ``library="none"`` each of its columns has its
    own rate. Decoder outputs are those of the parts, one after the other.

    Args:
        shape: (F,), the number of columns.
        parts: [name, number of columns] or [name, number of columns, params], in the order of the columns; the numbers sum to F. A name
            is one in LIKELIHOODS, apart from those of sentences and "mixed".

    Raises:
        InputError: A shape of several axes; parts that are none of these or do not sum to F; parameters that a part refuses.

    Example:
        >>> import torch
        >>> from polyvae import LIKELIHOODS
        >>> parts = [["normal", 2], ["categorical", 3], ["ordinal", 1, {"levels": 4}]]
        >>> likelihood = LIKELIHOODS["mixed"]((6,), parts=parts)
        >>> x = torch.tensor([[0.3, -1.0, 0.0, 1.0, 0.0, 3.0]])
        >>> likelihood.log_prob(torch.zeros(1, *likelihood.output), x).shape
        torch.Size([1])
    """

    remedy: ClassVar[str] = "columns are numbered from 0"

    def __init__(self, shape: tuple[int, ...], parts: Sequence[Sequence[Any]]) -> None:
        super().__init__(shape)
        if len(shape) != 1:
            raise InputError(
                f"likelihood 'mixed': got shape {shape}; expected (columns,) of a table; reshape the data"
            )
        self.names, self.spans = [], []
        self.parts = nn.ModuleList()
        start = 0
        for number, part in enumerate(_listed(parts)):
            name, count, params = _read(number, part)
            where = _where(number, name, slice(start, start + count))
            self.parts.append(_made(f"likelihood 'mixed': {where}", name, count, params))
            self.names.append(name)
            self.spans.append(slice(start, start + count))
            start += count
        if start != shape[0]:
            raise InputError(
                f"likelihood 'mixed': got parts of {start} columns in all for a table of {shape[0]}; expected the number of columns of "
                "each part, in their order; correct parts"
            )

    @property
    def likelihoods(self) -> list[Likelihood]:
        """The likelihoods of the parts."""
        return list(cast(Iterable[Likelihood], self.parts))

    def each(self) -> Iterator[Part]:
        """The parts, in the order of their columns."""
        start = 0
        for number, (name, likelihood, columns) in enumerate(
            zip(self.names, self.likelihoods, self.spans, strict=True)
        ):
            size = prod(likelihood.output)
            yield Part(number, name, likelihood, columns, slice(start, start + size))
            start += size

    @property
    def output(self) -> tuple[int, ...]:
        return (sum(prod(part.output) for part in self.likelihoods),)

    @property
    def width(self) -> int:
        return max(prod(self.output), *(part.width for part in self.likelihoods))

    @property
    def largest(self) -> int:
        return max(part.largest for part in self.likelihoods)

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        found = [
            part.likelihood.entries(part.decoded(out), x[..., part.columns], _of(observed, part))
            for part in self.each()
        ]
        return torch.cat(found, -1)

    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        total: Tensor | None = None
        for part in self.each():
            own = part.likelihood.log_prob(part.decoded(out), x[..., part.columns], _of(observed, part))
            total = own if total is None else total + own
        assert total is not None
        return total

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return torch.cat(
            [part.likelihood.mean(part.decoded(out), _library(library, part.number)) for part in self.each()],
            -1,
        )

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return torch.cat(
            [
                part.likelihood.sample(part.decoded(out), _library(library, part.number))
                for part in self.each()
            ],
            -1,
        )

    def library_of(self, out: Tensor, x: Tensor, observed: Tensor) -> Tensor | None:
        """The library sizes of the parts, [..., parts], for ``mean`` and ``sample``: 1 for a part without one."""
        sizes = [
            part.likelihood.library_of(part.decoded(out), x[..., part.columns], observed[..., part.columns])
            for part in self.each()
        ]
        if all(size is None for size in sizes):
            return None
        one = out.new_ones(*out.shape[:-1], 1)
        return torch.cat([one if size is None else size.expand_as(one) for size in sizes], -1)

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([part.likelihood.features(x[..., part.columns]) for part in self.each()], -1)

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        for part in self.each():
            own, seen = x[:, part.columns], observed[:, part.columns]
            problem = part.likelihood.invalid(own, seen) if bool(seen.any()) else ""
            if problem:
                return f"in {part.where} {problem}; {part.likelihood.remedy}"
        return ""

    def counted(self, observed: Tensor) -> Tensor:
        return torch.cat([part.likelihood.counted(observed[..., part.columns]) for part in self.each()], -1)


def _of(observed: Tensor | None, part: Part) -> Tensor | None:
    return None if observed is None else observed[..., part.columns]


def _library(library: Tensor | None, number: int) -> Tensor | None:
    """The library size of one part; parts that have none do not look at it."""
    return None if library is None else library[..., number : number + 1]


def _where(number: int, name: str, columns: slice) -> str:
    """A part by its place, its name and its columns."""
    last = columns.stop - 1
    return f"part {number} ({name!r}, " + (
        f"column {columns.start})" if last == columns.start else f"columns {columns.start} to {last})"
    )


def _listed(parts: object) -> Sequence[object]:
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise InputError(
            f"likelihood 'mixed': got parts={parts!r}; expected a list of [likelihood, number of columns, params], such as {_EXAMPLE}"
        )
    return parts


def _read(number: int, part: object) -> tuple[str, int, Mapping[str, Any]]:
    """A part's name, number of columns and parameters. Raises InputError where it is none."""
    where = f"likelihood 'mixed': part {number}"
    if not isinstance(part, Sequence) or isinstance(part, str) or len(part) not in (2, 3):
        raise InputError(
            f"{where}: got {part!r}; expected [likelihood, number of columns] or [likelihood, number of columns, params], "
            'such as ["normal", 5]'
        )
    name, count = part[0], part[1]
    params = part[2] if len(part) == 3 else {}
    _check_name(where, name, params)
    check_count(f"{where} ({name!r})", "columns", count)
    return name, int(count), params


def check_column(where: str, part: object) -> None:
    """Raises InputError unless ``part`` is [likelihood] or [likelihood, params] of one column.

    Args:
        where: Subject of the error.
        part: What was given.
    """
    if not isinstance(part, Sequence) or isinstance(part, str) or len(part) not in (1, 2):
        hint = nearest(part, PARTS) if isinstance(part, str) and part not in PARTS else "put it into a list"
        raise InputError(
            f"{where}: got {part!r}; expected [likelihood] or [likelihood, params], such as ['normal'] or "
            f"['ordinal', {{'levels': 4}}]; {hint}"
        )
    params = part[1] if len(part) == 2 else {}
    _check_name(where, part[0], params)
    if part[0] == "categorical":
        raise InputError(
            f"{where}: got 'categorical' for one column; expected a group of one-hot columns, one for each class; pass groups=, or "
            "kinds= where the table is read"
        )
    _made(f"{where} ({part[0]!r})", part[0], 1, params)


def _check_name(where: str, name: object, params: object) -> None:
    if not isinstance(name, str) or name not in PARTS:
        raise InputError(f"{where}: unknown likelihood {name!r}; {nearest(str(name), PARTS)}")
    if not isinstance(params, Mapping):
        raise InputError(
            f"{where} ({name!r}): got params={params!r}; expected a mapping from names to values, such as {{'levels': 5}}"
        )


def _made(where: str, name: str, count: int, params: Mapping[str, Any]) -> Likelihood:
    """The likelihood of a part. Raises InputError with the part and its columns."""
    accepted = dict(list(inspect.signature(PARTS[name]).parameters.items())[1:])
    for key in params:
        if key not in accepted:
            raise InputError(f"{where}: unknown parameter {key!r}; {nearest(str(key), accepted)}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in params:
            raise InputError(
                f"{where}: got no {key!r}; expected it in params; add it, such as {{{key!r}: ...}}"
            )
    try:
        return PARTS[name]((count,), **params)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from None

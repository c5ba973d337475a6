"""Several named labels of the samples, and which of them each modality states. They are used for evaluation only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.data.checks import check_labels, one_each
from polyvae.utils.arrays import numpy_array
from polyvae.utils.errors import InputError, nearest

KEY, SAID = (
    "attributes",
    "said",
)  # in ``Batch.extra``: [N, A] int64, and [N, modalities with an entry in ``said``, A] bool


class Reading(NamedTuple):
    """What a parser finds in N sentences.

    Attributes:
        grammatical: Which sentences belong to the grammar: [N] bool.
        attributes: Name -> [N] int64, the class that the sentence states; −1 where it states none, or several.
    """

    grammatical: Tensor
    attributes: Mapping[str, Tensor]


Parser = Callable[[Sequence[str]], Reading]


class Names(NamedTuple):
    """The names that belong to the columns of the tensors in ``Batch.extra``.

    Attributes:
        classes: Attribute -> names of its classes.
        said: The modalities that state only some of the attributes.
        parsers: Modality of text -> name of its parser in ``polyvae.data.PARSERS``.
    """

    classes: Mapping[str, tuple[str, ...]]
    said: tuple[str, ...]
    parsers: Mapping[str, str]


class Attributed:
    """The attributes of MultimodalData, by name."""

    _stored: Batch
    _named: Names

    @property
    def attributes(self) -> dict[str, Tensor]:
        """Name -> [N] int64, a class of each sample; −1 is missing. Empty where there are none."""
        columns = self._stored.extra.get(KEY)
        return {} if columns is None else dict(zip(self._named.classes, columns.unbind(1), strict=True))

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> names of its classes."""
        return dict(self._named.classes)

    @property
    def said(self) -> dict[str, dict[str, Tensor]]:
        """Modality -> attribute -> [N] bool, whether the modality states the attribute. A modality that is absent here states all."""
        said = self._stored.extra.get(SAID)
        if said is None:
            return {}
        return {
            name: dict(zip(self._named.classes, part.unbind(1), strict=True))
            for name, part in zip(self._named.said, said.unbind(1), strict=True)
        }

    @property
    def parsers(self) -> dict[str, str]:
        """Modality of text -> name of its parser in ``polyvae.data.PARSERS``."""
        return dict(self._named.parsers)


def check_attributes(
    attributes: Mapping[str, Any] | None,
    classes: Mapping[str, Sequence[str]] | None,
    said: Mapping[str, Mapping[str, Any]] | None,
    parsers: Mapping[str, str] | None,
    names: Sequence[str],
    count: int,
) -> tuple[Names, dict[str, Tensor]]:
    """The names, and the tensors for ``Batch.extra``.

    Raises:
        InputError: A modality that is not in the data, attributes without a name, classes that do not fit, or other lengths than ``count``.
    """
    for what, given in (
        ("attributes", attributes),
        ("classes", classes),
        ("said", said),
        ("parsers", parsers),
    ):
        if given is not None and not isinstance(given, Mapping):
            raise InputError(
                f"{what}: got {type(given).__name__}; expected a mapping by name; pass a dictionary"
            )
    if "label" in (attributes or {}):
        raise InputError(
            "attributes: got the name 'label'; expected another, which differs from that of labels; rename it"
        )
    values = {str(key): _labels(str(key), x, count) for key, x in (attributes or {}).items()}
    known = _classes(values, classes or {})
    for what, owners in (("said", said or {}), ("parsers", parsers or {})):
        for owner in owners:
            if owner not in names:
                raise InputError(f"{what}: modality {owner!r} is not in the data; {nearest(owner, names)}")
    if not values:
        if said:
            raise InputError(
                "said: got data without attributes; expected some that can be stated; give attributes too"
            )
        return Names({}, (), dict(parsers or {})), {}
    extra = {KEY: torch.stack(list(values.values()), 1)}
    if said:
        extra[SAID] = torch.stack([_said(owner, own, values, count) for owner, own in said.items()], 1)
    return Names(known, tuple(said or ()), dict(parsers or {})), extra


def kept(named: Names, extra: Mapping[str, Any], names: Sequence[str]) -> tuple[Names, dict[str, Any]]:
    """Names and ``Batch.extra`` without what belongs to modalities that are not in ``names``."""
    parsers = {name: parser for name, parser in named.parsers.items() if name in names}
    places = [place for place, name in enumerate(named.said) if name in names]
    rest = {key: x for key, x in extra.items() if key != SAID}
    if places:
        rest[SAID] = extra[SAID][:, places]
    return Names(named.classes, tuple(named.said[place] for place in places), parsers), rest


def facts(named: Names) -> dict[str, Any]:
    """What belongs to the digest of the data; empty where there are no names, so that other data keep their digest."""
    return {key: value for key, value in named._asdict().items() if value}


def _labels(name: str, x: Any, count: int) -> Tensor:
    try:
        return check_labels(x, count).clamp(min=-1)
    except InputError as problem:
        raise InputError(f"attribute {name!r}: {problem}") from None


def _classes(
    values: Mapping[str, Tensor], classes: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    for name in classes:
        if name not in values:
            raise InputError(f"classes: attribute {name!r} is not in the data; {nearest(name, values)}")
    found = {}
    for name, x in values.items():
        most = int(x.max()) + 1 if len(x) else 0
        own = tuple(map(str, classes.get(name, range(most))))
        if len(own) < most or len(set(own)) < len(own):
            raise InputError(
                f"classes: got {len(own)} names for attribute {name!r} with classes up to {most - 1}; expected a distinct name for "
                "each class; correct them"
            )
        found[name] = own
    return found


def _said(owner: str, own: Mapping[str, Any], values: Mapping[str, Tensor], count: int) -> Tensor:
    """[N, A] bool. An attribute that is not named is not stated."""
    columns = dict.fromkeys(values, torch.zeros(count, dtype=torch.bool))
    for name, x in own.items():
        what = f"said: attribute {name!r} of modality {owner!r}"
        if name not in values:
            raise InputError(f"{what}: it is not in the data; {nearest(name, values)}")
        given = numpy_array(what, x)
        if given.dtype != np.bool_:
            raise InputError(
                f"{what}: got {given.dtype}; expected bool, one per sample; compare it with a number"
            )
        one_each(what, given.shape, count)
        columns[name] = torch.from_numpy(given.copy())
    return torch.stack(list(columns.values()), 1)

"""What generated samples state: classes of images according to judges, and attributes of sentences according to a parser.

Labels are treated as one attribute, "label", that every modality states. So metrics of coherence are written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.core.vocabulary import Vocabulary
from polyvae.data import PARSERS, MultimodalData, Reading
from polyvae.data.attributes import KEY, SAID
from polyvae.metrics.judges import Judges
from polyvae.utils.errors import InputError, nearest


class Readers:
    """Reads attributes of the modalities that can be judged.

    Attributes:
        attributes: Attribute -> its classes, as numbers: those of the data, or "label" where they have none.
        names: The modalities that can be read.
        plain: Whether the data have labels alone.
    """

    def __init__(self, data: MultimodalData, judges: Judges | None) -> None:
        self.judges, self._data = judges, data
        known = {name: torch.arange(len(own)) for name, own in data.classes.items()}
        self.plain = not known
        if self.plain:
            known = {} if judges is None else {"label": judges.classes}
        self.attributes: dict[str, Tensor] = known
        self._sentences = {} if self.plain else _sentences(data)
        judged = () if judges is None else [name for name in judges if self.plain or judges.stated.get(name)]
        self.names = tuple(name for name in data.names if name in self._sentences or name in judged)

    def parsed(self, name: str) -> bool:
        """Whether a modality is text that is parsed, and may state any of the attributes or none."""
        return name in self._sentences

    def read(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Attribute -> class, −1 where it is not stated: values [..., *shape] -> [...] int64, on the host."""
        if self.parsed(name):
            leading = x.shape[:-1]
            return {key: y.reshape(leading) for key, y in self.parse(name, x).attributes.items()}
        assert self.judges is not None
        if self.plain:
            return {"label": self.judges.predict(name, x).cpu()}
        return {key: y.cpu() for key, y in self.judges.read(name, x).items()}

    def parse(self, name: str, x: Tensor) -> Reading:
        """The sentences of a modality of text: [..., L] -> what the parser finds, [n]."""
        vocabulary, parser = self._sentences[name]
        return PARSERS[parser](vocabulary.decode(x.reshape(-1, x.shape[-1]).cpu().numpy()))

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        """Attribute -> the class of each sample, −1 where it is missing: [B], on the host."""
        if self.plain:
            y = batch.extra["labels"].cpu()
            return {"label": torch.where(y >= 0, y, -1)}
        return dict(zip(self.attributes, batch.extra[KEY].cpu().unbind(1), strict=True))

    def stated(self, batch: Batch, members: Sequence[str]) -> dict[str, Tensor]:
        """Attribute -> whether one of these modalities states it: [B] bool, on the host."""
        every = torch.ones(batch.size, dtype=torch.bool)
        said = self._data.said
        if self.plain or any(name not in said for name in members):
            return dict.fromkeys(self.attributes, every)
        columns = [list(said).index(name) for name in members]
        some = batch.extra[SAID].cpu()[:, columns].any(1)
        return dict(zip(self.attributes, some.unbind(1), strict=True))


class Counted(NamedTuple):
    """Answers [n] that are right, among those that count; attribute -> bool each."""

    right: dict[str, Tensor]
    counted: dict[str, Tensor]

    def sums(self) -> tuple[Tensor, Tensor]:
        """The number of attributes of each sample that are right, and that count: [n] each."""
        right = torch.stack([self.right[key] & seen for key, seen in self.counted.items()]).sum(0)
        return right, torch.stack(list(self.counted.values())).sum(0)


def compared(
    answers: Mapping[str, Tensor], truth: Mapping[str, Tensor], stated: Mapping[str, Tensor]
) -> Counted:
    """Answers beside the truth. An attribute counts where it is known, is stated by the input, and is stated by what was generated."""
    right = {key: answer == truth[key] for key, answer in answers.items()}
    counted = {key: (answer >= 0) & (truth[key] >= 0) & stated[key] for key, answer in answers.items()}
    return Counted(right, counted)


def readable(data: MultimodalData, judges: Judges | None) -> bool:
    """Whether some modality of the data can be read."""
    return bool(Readers(data, judges).names)


def _sentences(data: MultimodalData) -> dict[str, tuple[Vocabulary, str]]:
    """Modality -> its vocabulary and the name of its parser."""
    specs: dict[str, Modality] = {spec.name: spec for spec in data.modalities()}
    found = {}
    for name, parser in data.parsers.items():
        if parser not in PARSERS:
            raise InputError(
                f"data: unknown parser {parser!r} of modality {name!r}; {nearest(parser, PARSERS)}"
            )
        params = specs[name].params
        found[name] = Vocabulary(tuple(params["words"]), params.get("split", "words")), parser
    return found

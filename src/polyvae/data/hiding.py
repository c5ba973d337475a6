"""Which modalities to hide: completely at random, at random given another modality, or depending on what is hidden."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.data.kept import Kept
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.seeds import fold_in

Mechanism = Literal["mcar", "mar", "mnar"]
SLOPE = 2.0  # change of the log odds of being hidden per standard deviation of the score
_ROWS = 1000  # rows from which loadings are computed
_PIECE = 1_000_000  # values that are in memory together


def remaining(
    stored: Batch,
    encoded: Tensor,
    rate: float,
    seed: int,
    mechanism: str = "mcar",
    kept: Mapping[str, Kept] = MappingProxyType({}),
) -> Tensor:
    """What stays observed: [M, N] bool, on the host.

    Args:
        stored: Data, masks and entry masks of all samples.
        encoded: [M] bool, which modalities have encoders. A sample that would lose all of these keeps one, chosen uniformly.
        rate: The mean probability with which an observed modality is hidden; with "mar", one other than the driver.
        seed: The same seed hides the same values.
        mechanism: "mcar", "mar" or "mnar".
        kept: Modalities that stay where they are, of which some samples are read at a time.

    Raises:
        InputError: ``rate`` is not a probability; an unknown mechanism; no scores to depend on.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"hide: got rate={rate}; expected a probability between 0 and 1; 0.5 hides half")
    if mechanism not in get_args(Mechanism):
        hint = nearest(str(mechanism), get_args(Mechanism))
        raise InputError(f"hide: got mechanism={mechanism!r}; expected mcar, mar or mnar; {hint}")
    draws = torch.Generator().manual_seed(fold_in(seed, "hide"))
    mask = stored.mask.cpu()
    chance = probabilities(stored, encoded, rate, mechanism, kept)
    stays = mask & (torch.rand(mask.shape, generator=draws, dtype=torch.float64) >= chance)
    seen = mask & encoded[:, None]
    # The largest of independent uniform numbers is a uniform choice.
    lot = torch.rand(mask.shape, generator=draws, dtype=torch.float64).masked_fill(~seen, -1)
    spared = torch.zeros_like(mask).scatter_(0, lot.argmax(0, keepdim=True), True) & seen
    return torch.where((stays & seen).any(0), stays, stays | spared)


def probabilities(
    stored: Batch,
    encoded: Tensor,
    rate: float,
    mechanism: str,
    kept: Mapping[str, Kept] = MappingProxyType({}),
) -> Tensor:
    """The probability of being hidden: [M, N]; for "mcar" the rate itself, [1, 1].

    For the other two it is logistic in ``scores``, of the driver for "mar" and of the modality itself for "mnar", with slope ``SLOPE``
    and the intercept at which its mean over the samples that have the modality is ``rate``.
    """
    if mechanism == "mcar" or rate in (0, 1):
        chance = torch.full((1, 1), float(rate), dtype=torch.float64)
        if mechanism == "mar":
            chance = chance.repeat(len(stored.names), 1)
            chance[driver(stored, encoded)] = 0
        return chance
    mask, chance = stored.mask.cpu(), torch.zeros(stored.mask.shape, dtype=torch.float64)
    leading = driver(stored, encoded) if mechanism == "mar" else None
    shared = None if leading is None else scores(stored, stored.names[leading], kept)
    for m, name in enumerate(stored.names):
        if m != leading and bool(mask[m].any()):
            chance[m] = _logistic(scores(stored, name, kept) if shared is None else shared, mask[m], rate)
    return chance


def driver(stored: Batch, encoded: Tensor) -> int:
    """The modality on which hiding at random depends: of those with an encoder the one observed most often, the first of several.

    It is never hidden. Samples that lack it have the score 0.

    Raises:
        InputError: There are no two modalities, or none is encoded.
    """
    if len(stored.names) < 2 or not bool(encoded.any()):
        raise InputError(
            f'hide: got mechanism="mar" for {", ".join(stored.names)}; expected two modalities, of which one is encoded and stays; '
            'use "mcar"'
        )
    return int(stored.mask.cpu().sum(1).masked_fill(~encoded, -1).argmax())


def scores(stored: Batch, name: str, kept: Mapping[str, Kept] = MappingProxyType({})) -> Tensor:
    """The first principal component of the standardised columns of a modality, with mean 0 and standard deviation 1: [N].

    Its sign is that which makes the first of the large loadings positive. Missing entries are at their mean. Samples without the modality
    have the score 0. The values are passed over four times, some samples at a time.

    Raises:
        InputError: All samples are equal.
    """
    there = stored.mask[stored.names.index(name)].cpu()
    values = _Values(stored, name, kept.get(name))
    count, total = _sums(values.pieces(), values.width)
    mean = total / count.clamp(min=1)
    _, squares = _sums((((x - mean).square(), seen) for x, seen in values.pieces()), values.width)
    spread = (squares / count.clamp(min=1)).sqrt()
    varies = spread > 1e-7 * mean.abs()  # the rounding error of a constant column is no variation
    if not bool(varies.any()):
        raise InputError(
            f"hide: all samples of modality {name!r} are equal; expected values on which hiding can depend; "
            'use "mcar", or remove the modality'
        )

    def standardised(x: Tensor, seen: Tensor) -> Tensor:
        return torch.where(seen, x - mean, 0)[:, varies] / spread[varies]

    numbers = there.nonzero()[:, 0]
    some = standardised(*values.at(numbers[:: -(-len(numbers) // _ROWS)]))
    rows, columns = some.shape
    gram = some @ some.T if rows < columns else some.T @ some
    first = torch.linalg.eigh(gram).eigenvectors[:, -1]
    loadings = some.T @ first if rows < columns else first
    large = loadings[loadings.abs() >= loadings.abs().max() / 2]
    along = torch.zeros(len(numbers), dtype=torch.float64)
    start = 0
    for x, seen in values.pieces():
        along[start : start + len(x)] = standardised(x, seen) @ loadings
        start += len(x)
    along = along * large[0].sign()
    result = torch.zeros(len(there), dtype=torch.float64)
    result[there] = (along - along.mean()) / along.std(correction=0)
    return result


class _Values:
    """The values of one modality in the samples that have it, in double precision and flat, and which were observed, on the host."""

    def __init__(self, stored: Batch, name: str, kept: Kept | None) -> None:
        self.x, self.kept = stored.data[name], kept
        self.there = stored.mask[stored.names.index(name)].cpu()
        self.entries = stored.entries.get(name)
        self.width = math.prod((self.x if kept is None else kept).shape[1:])

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them, some samples at a time."""
        step = max(1, _PIECE // max(1, self.width))
        for part in torch.split(self.there.nonzero()[:, 0], step):
            yield self.at(part)

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the samples ``rows``: [n, F] each."""
        kept = self.kept
        read = (
            self.x[rows.to(self.x.device)].cpu()
            if kept is None
            else torch.from_numpy(kept.read(rows.numpy()))
        )
        x = read.detach().flatten(1).double()
        if self.entries is None:
            return x, torch.ones((), dtype=torch.bool).expand(x.shape)
        return x, self.entries[rows.to(self.entries.device)].cpu().flatten(1)


def _sums(pieces: Iterable[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor]:
    """How many values of each column were observed, and their sum: [F] each."""
    count, total = torch.zeros(width, dtype=torch.int64), torch.zeros(width, dtype=torch.float64)
    for x, seen in pieces:
        # In place, because small tensors that stay between large ones that go leave holes in memory.
        count += seen.sum(0)
        total += torch.where(seen, x, 0).sum(0)
    return count, total


def _logistic(score: Tensor, there: Tensor, rate: float) -> Tensor:
    """Probabilities with mean ``rate`` over the samples ``there``, by bisection for the intercept: [N]."""
    reach = SLOPE * float(score.abs().max()) + abs(
        torch.logit(torch.tensor(rate, dtype=torch.float64)).item()
    )
    low, high = -reach, reach
    for _ in range(100):
        middle = (low + high) / 2
        if float(torch.sigmoid(middle + SLOPE * score[there]).mean()) < rate:
            low = middle
        else:
            high = middle
    return torch.sigmoid((low + high) / 2 + SLOPE * score)

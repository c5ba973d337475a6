"""Transfer of parameters and draws between two models: the same modalities in another order, or without one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.aggregate import powerset
from polyvae.core.batch import Batch
from polyvae.core.modalities import Modalities
from polyvae.core.noise import Draw
from polyvae.core.vae import MultimodalVAE
from polyvae.testing.worlds import dense, example_batch, first_step, hold, near, record


class _Map(NamedTuple):
    """Positions, in the first model, of the second one's modalities, encoded modalities, private columns and subsets of experts."""

    modalities: list[int]
    encoded: list[int]
    columns: list[int]
    subsets: list[int]


def _map(first: MultimodalVAE, second: MultimodalVAE) -> _Map:
    names = list(first.modalities)
    modalities = [names.index(name) for name in second.modalities]
    columns = [c for m in modalities for c in range(first.columns[m].start, first.columns[m].stop)]
    encoded = [first.encoded.index(m) for m in modalities if m in first.encoded]
    return _Map(modalities, encoded, columns, _subsets(len(first.encoded), encoded))


def _subsets(count: int, encoded: list[int]) -> list[int]:
    """Positions of the rows of ``powerset`` over ``encoded`` among its rows over all ``count`` encoded modalities."""

    def rows(of: int) -> list[frozenset[int]]:
        return [
            frozenset(line.nonzero()[:, 0].tolist())
            for line in powerset(torch.ones(of, 1, dtype=torch.bool))[..., 0]
        ]

    all_rows = rows(count)
    return [all_rows.index(frozenset(encoded[i] for i in row)) for row in rows(len(encoded))]


def same_model(law: str, what: str, first: MultimodalVAE, second: MultimodalVAE, *dropped: str) -> None:
    """With the first model's parameters and draws, the second has the bounds and gradients of the first without ``dropped``."""
    where = _map(first, second)
    _copy(first, second, where)
    batch = example_batch(first).drop(*dropped)
    other = Batch(
        {name: batch.data[name] for name in second.modalities},
        batch.mask[where.modalities],
        {name: observed for name, observed in batch.entries.items() if name in second.modalities},
        covariates=batch.covariates,
    )
    a, _, draws = first_step(first, batch)
    asked = record(second, other)
    for _ in range(
        3
    ):  # where subsets are drawn: first those, then the draws from the components that they make
        second.zero_grad(set_to_none=True)
        before = asked
        with noise.feed(_translate(draws, before, where)) as asked:
            b = second(other).value
        if _same_components(before, asked):
            break
    b.sum().backward()
    hold(near(a, b), law, f"{what}, the bound is {b.tolist()}; expected {a.tolist()}")
    for name, net in second.modalities.items():
        there = _by_name(first.modalities[name])
        for key, value in _by_name(net).items():
            hold(
                not value.is_floating_point()
                or near(dense(there[key].grad, value), dense(value.grad, value)),
                law,
                f"{what}, the gradient of {name!r}'s {key} differs",
            )


def _same_components(before: Mapping[str, Draw], after: Mapping[str, Draw]) -> bool:
    return all(
        torch.equal(draw.value, before[name].value)
        for name, draw in after.items()
        if name.startswith("components")
    )


def _copy(first: MultimodalVAE, second: MultimodalVAE, where: _Map) -> None:
    """Copy parameters by the name of their modality; other parameters by column (axes of size W), modality (M) or subset (2^E − 1)."""
    for name, net in second.modalities.items():
        there = _by_name(first.modalities[name])
        for key, value in _by_name(net).items():
            value.data.copy_(there[key].data)
    picks = {
        2 ** len(first.encoded) - 1: where.subsets,
        len(first.owner): where.columns,
        len(first.modalities): where.modalities,
    }
    source = dict(first.named_parameters())
    copied = {id(parameter) for net in second.modalities.values() for parameter in net.parameters()}
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if id(parameter) not in copied:
                value = source[name].detach()
                for axis, size in enumerate(value.shape):
                    if size in picks and parameter.shape[axis] == len(picks[size]):
                        value = value.index_select(axis, torch.tensor(picks[size], dtype=torch.long))
                parameter.copy_(value)


def _by_name(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by a name that contains the names of modalities and not their positions."""
    found: dict[str, Tensor] = dict(module.named_parameters(recurse=False)) | dict(
        module.named_buffers(recurse=False)
    )
    for key, child in module.items() if isinstance(module, Modalities) else module.named_children():
        found |= {f"{key}.{rest}": value for rest, value in _by_name(child).items()}
    return found


def _translate(draws: Mapping[str, Draw], asked: Mapping[str, Draw], where: _Map) -> dict[str, Draw]:
    """The first model's draws in the order of the second: modalities by name, columns of W by owner, components by their experts."""
    out = {}
    for name, (axes, like) in asked.items():
        if name.startswith("components"):
            continue
        hold(name in draws, "draws", f"one model draws {name!r} and the other does not")
        value = draws[name].value
        match = _match(_latest(draws, name), _latest(asked, name), where)
        if name.startswith("component"):
            assert match is not None
            value = _rechosen(value, match, _latest(draws, name)[1], _latest(asked, name)[1])
        for axis, letter in enumerate(axes):
            if letter == "W":
                value = value.index_select(axis, torch.tensor(where.columns, dtype=torch.long))
            elif letter in "ME":
                picks = where.encoded if letter == "E" else where.modalities
                value = value.index_select(axis, torch.tensor(picks))
            elif letter == "V" and match is not None and len(match) == like.shape[axis]:
                ends = (axis, axes.index("B"))
                value = value.movedim(ends, (0, 1))[match, torch.arange(match.shape[1])].movedim((0, 1), ends)
        out[name] = Draw(axes, value)
    return out


def _latest(draws: Mapping[str, Draw], name: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The meaning of the axis V when ``name`` was drawn: membership [V, E, B] and weights [V, B]."""
    membership = weights = None
    for key, draw in draws.items():
        if key == name:
            break
        if key.startswith("components.weights"):
            weights = draw.value
        elif key.startswith("components"):
            membership = draw.value
    return (None, None) if membership is None or weights is None else (membership, weights)


def _match(
    first: tuple[Tensor, Tensor] | tuple[None, None],
    second: tuple[Tensor, Tensor] | tuple[None, None],
    where: _Map,
) -> Tensor | None:
    """[V', B]: for every component of the second model, the first one's component of the same experts; equal ones in their order."""
    if first[0] is None or second[0] is None:
        return None
    power = 2 ** torch.arange(len(where.encoded))
    here = (first[0][:, where.encoded] * power[:, None]).sum(1).T.tolist()
    there = (second[0] * power[:, None]).sum(1).T.tolist()
    rows = []
    for old, new in zip(here, there, strict=True):
        places: dict[int, list[int]] = defaultdict(list)
        for v, members in enumerate(old):
            places[members].append(v)
        rows.append([places[members].pop(0) if places[members] else 0 for members in new])
    return torch.tensor(rows).T


def _rechosen(u: Tensor, match: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
    """The uniform numbers [K, B] with which the second model chooses the components that the first model chose."""
    assert first is not None
    assert second is not None
    with noise.feed({"choice": Draw("KB", u)}):
        chosen = noise.choice(first, len(u), "choice", "KB")  # [K, B]
    place = (match[:, None] == chosen).double().mul(second[:, None] > 0).argmax(0)  # [K, B]
    edges, columns = second.cumsum(0), torch.arange(match.shape[1])
    return (edges - second / 2)[place, columns] / edges[-1].clamp(min=1e-300)

"""Laws that all data obey, to check user-defined data and loaders.

    from polyvae.testing import check_data
    check_data(data)                             # MultimodalData, or a Loader

Each law is a function ``data_...(data)`` of MultimodalData, or ``loader_...(loader)``. It raises AssertionError with one line that names
the law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.data.loaders import Loader, SliceLoader
from polyvae.data.multimodal import MultimodalData
from polyvae.testing.worlds import hold

_ROWS = 200  # rows that are compared one by one
_STEPS = 20  # steps of an epoch of a loader that are compared


def check_data(data: MultimodalData | Loader) -> None:
    """Check data, or a loader, against all laws. Nothing is changed, and the state of torch's global generator is kept.

    Args:
        data: MultimodalData, or what ``fit`` takes its batches from.

    Raises:
        AssertionError: A law does not hold; one line names the law.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> from polyvae.testing import check_data
        >>> check_data(pv.MultimodalData({"rna": np.ones((4, 3))}))
    """
    with torch.random.fork_rng(devices=[]):
        if isinstance(data, MultimodalData):
            for law in DATA_LAWS:
                law(data)
        else:
            for check in LOADER_LAWS:
                check(data)


def data_missing(data: MultimodalData) -> None:
    """The mask and the entry masks agree, what is missing is 0, and what was observed is finite."""
    hold(data.mask.shape == (len(data.names), len(data)), "missing", "the mask is not [modalities, samples]")
    for batch in data.batches(1024):
        _check_missing(batch, "missing")
    nothing = int((~data.mask.any(0)).sum())
    hold(
        data.unobserved_rows == nothing,
        "missing",
        f"unobserved_rows is {data.unobserved_rows}; expected {nothing}",
    )


def data_indexing(data: MultimodalData) -> None:
    """Row numbers, a slice and a bool array select the same samples, in the order that is asked for; ``rows`` and ``batches``, too."""
    count = min(len(data), _ROWS)
    some = torch.randperm(len(data))[:count]
    every = torch.cat([some, some[:1]])  # a row twice
    batch = data.take(every)
    for place, row in enumerate(every.tolist()):
        _same(batch.rows(slice(place, place + 1)), data.take([row]), "indexing", f"row {row}")
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[some] = True
    ordered = data.take(some.sort().values)
    _same(data.take(chosen), ordered, "indexing", "a bool array")
    _same(data.rows(chosen).take(slice(None)), ordered, "indexing", "rows()")
    _same(data.take(slice(0, count)), data.take(range(count)), "indexing", "a slice")
    start = 0
    for part in data.batches(max(1, len(data) // 3)):
        few = min(part.size, _ROWS)
        _same(
            part.rows(slice(0, few)), data.take(slice(start, start + few)), "indexing", "a batch of batches()"
        )
        start += part.size
    hold(start == len(data), "indexing", f"batches() have {start} samples; expected {len(data)}")


def data_rows(data: MultimodalData) -> None:
    """Ids, groups, factors and attributes move with their samples."""
    order = torch.randperm(len(data))[:_ROWS]
    part = data.rows(order)
    if data.ids is not None:
        hold(
            part.ids == [data.ids[row] for row in order.tolist()],
            "rows",
            "ids are not those of their samples",
        )
        hold(len(set(data.ids)) == len(data), "rows", "an id occurs twice")
    if data.groups is not None:
        hold(
            part.groups is not None and part.groups.tolist() == data.groups[order.numpy()].tolist(),
            "rows",
            "groups are not those of their samples",
        )
    for name, own in data.factors.items():
        for key, x in own.items():
            hold(
                torch.equal(part.factors[name][key], x[order]),
                "rows",
                f"factor {key!r} of {name!r} is not that of its samples",
            )
    for name, x in data.attributes.items():
        hold(
            torch.equal(part.attributes[name], x[order]),
            "rows",
            f"attribute {name!r} is not that of its samples",
        )
        for owner, own in data.said.items():
            hold(
                torch.equal(part.said[owner][name], own[name][order]),
                "rows",
                f"what {owner!r} states of {name!r} is not that of its samples",
            )


def data_splits(data: MultimodalData) -> None:
    """Splits contain each sample once and divide no group; a random split is a function of its seed."""
    parts = {name: data.part(name) for name in data.splits}
    if parts:
        total = sum(map(len, parts.values()))
        hold(total == len(data), "splits", f"the splits have {total} samples; expected {len(data)}")
        if data.groups is not None:
            groups = [set(part.groups.tolist()) for part in parts.values() if part.groups is not None]
            distinct = len(set().union(*groups))
            hold(sum(map(len, groups)) == distinct, "splits", "a group is in two splits")
        if data.ids is not None:
            ids = {name for part in parts.values() for name in part.ids or ()}
            hold(ids == set(data.ids), "splits", "the splits do not contain every sample")
    if len(data) >= 100 and data.groups is None:
        first, again = (data.carve(0.3, seed=5)[1].take(slice(None)) for _ in range(2))
        _same(first, again, "splits", "carve() with one seed")


def data_observing(data: MultimodalData) -> None:
    """Conditioning and hiding only remove; hiding is a function of its seed, and no sample loses all that can be encoded."""
    less = data.observe(data.names[0])
    hold(
        torch.equal(less.mask[0], data.mask[0]) and not bool(less.mask[1:].any()),
        "observing",
        f"observe({data.names[0]!r}) leaves other modalities, or less of this one",
    )
    hidden, again = data.hide(0.5, seed=3), data.hide(0.5, seed=3)
    hold(torch.equal(hidden.mask, again.mask), "observing", "hide() with one seed gives two masks")
    hold(not bool((hidden.mask & ~data.mask).any()), "observing", "hide() shows what was not observed")
    seen = torch.tensor([spec.role != "target" for spec in data.modalities()], device=data.device)[:, None]
    lost = (data.mask & seen).any(0) & ~(hidden.mask & seen).any(0)
    hold(not bool(lost.any()), "observing", "hide() removes all modalities of a sample that can be encoded")
    for batch in hidden.batches(1024):
        _check_missing(batch, "observing")


def data_digest(data: MultimodalData) -> None:
    """The digest repeats, and changes with the mask and the order of samples."""
    digest = data.digest()
    hold(digest == data.digest(), "digest", "two digests of the same data differ")
    if bool(data.mask[0].any()):
        rest = data.observe(*data.names[1:])
        hold(digest != rest.digest(), "digest", "the digest does not change with the mask")
    values = [data.values(name).flatten(1) for name in data.names]
    if len(data) > 1 and any(not torch.equal(x[0], x[-1]) for x in values):
        whole = data.rows(slice(None)).digest()
        turned = data.rows(range(len(data) - 1, -1, -1)).digest()
        hold(whole != turned, "digest", "the digest does not change with the order of samples")


def data_specifications(data: MultimodalData) -> None:
    """There is a specification per modality, in order, which fits the values."""
    specs = data.modalities()
    hold(
        [spec.name for spec in specs] == list(data.names),
        "specifications",
        "they are not in the order of the data",
    )
    batch = data.take(slice(0, min(len(data), _ROWS)))
    for spec in specs:
        shape = tuple(batch.data[spec.name].shape[1:])
        hold(spec.shape == shape, "specifications", f"{spec.name!r} has shape {spec.shape}; expected {shape}")
        hold(
            spec.entries or spec.name not in batch.entries,
            "specifications",
            f"{spec.name!r} has missing entries and does not declare them",
        )


def data_loading(data: MultimodalData) -> None:
    """The laws of loaders, for batches of these data."""
    loader = SliceLoader(data, max(1, -(-len(data) // 3)), seed=7)
    visited = loader.order(1)
    hold(
        torch.equal(visited.sort().values, torch.arange(len(data))),
        "loading",
        "an epoch does not visit each sample once",
    )
    hold(
        len(data) < 20 or not torch.equal(visited, loader.order(2)),
        "loading",
        "two epochs have the same order",
    )
    for check in LOADER_LAWS:
        check(loader)


def loader_epochs(loader: Loader) -> None:
    """An epoch is a function of its number: it repeats, and from a later step on it is the rest of itself."""
    steps = min(len(loader), _STEPS)
    whole = _first(loader.epoch(1), steps)
    hold(len(whole) == steps, "epochs", f"an epoch has {len(whole)} steps; expected {steps}")
    torch.rand(3)  # what is drawn in between must not matter
    for step, (a, b) in enumerate(zip(whole, _first(loader.epoch(1), steps), strict=True)):
        _same(a, b, "epochs", f"step {step} of an epoch that is repeated")
    middle = steps // 2
    rest = _first(loader.epoch(1, middle), steps - middle)
    hold(len(rest) == steps - middle, "epochs", f"from step {middle} on there are {len(rest)} steps")
    for step, (a, b) in enumerate(zip(whole[middle:], rest, strict=True), middle):
        _same(a, b, "epochs", f"step {step} of an epoch that is continued")


def loader_batches(loader: Loader) -> None:
    """Batches are consistent, with the same modalities, and all those of an epoch together have its size."""
    names: tuple[str, ...] | None = None
    total, steps = 0, 0
    for batch in _first(loader.epoch(0), len(loader) if len(loader) <= _STEPS else _STEPS):
        hold(isinstance(batch, Batch), "batches", f"got {type(batch).__name__}; expected a Batch")
        names = batch.names if names is None else names
        hold(batch.names == names, "batches", f"got modalities {batch.names}; expected {names}, as before")
        _check_missing(batch, "batches")
        total, steps = total + batch.size, steps + 1
    if steps == len(loader):
        hold(
            total == loader.size, "batches", f"an epoch has {total} samples; expected its size, {loader.size}"
        )


DATA_LAWS: tuple[Callable[[MultimodalData], None], ...] = (
    data_missing,
    data_indexing,
    data_rows,
    data_splits,
    data_observing,
    data_digest,
    data_specifications,
    data_loading,
)
LOADER_LAWS: tuple[Callable[[Loader], None], ...] = (loader_epochs, loader_batches)


def _first(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [batch for _, batch in zip(range(count), batches, strict=False)]


def _check_missing(batch: Batch, law: str) -> None:
    hold(not batch.complete or bool(batch.mask.all()), law, "a batch with a missing modality is complete")
    for row, (name, x) in zip(batch.mask, batch.data.items(), strict=True):
        observed = row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        if name in batch.entries:
            inside = batch.entries[name]
            hold(
                inside.shape == x.shape,
                law,
                f"the entry mask of {name!r} does not have the shape of its values",
            )
            hold(
                not bool((inside & ~observed).any()),
                law,
                f"{name!r} has observed entries where it is missing",
            )
            hold(
                torch.equal(inside.flatten(1).any(1), row),
                law,
                f"{name!r} is observed in a sample in which none of its entries is",
            )
            observed = inside
        hold(not bool(x[~observed].any()), law, f"a missing value of {name!r} is not 0")
        hold(bool(x[observed].isfinite().all()), law, f"an observed value of {name!r} is not finite")


def _same(a: Batch, b: Batch, law: str, what: str) -> None:
    hold(a.names == b.names, law, f"{what}: the modalities differ")
    tensors: list[tuple[str, Tensor | None, Tensor | None]] = [("the mask", a.mask, b.mask)]
    for name in a.names:
        tensors.append((f"the values of {name!r}", a.data[name], b.data[name]))
        tensors.append((f"the entry mask of {name!r}", a.entries.get(name), b.entries.get(name)))
    labels = [batch.extra.get("labels") for batch in (a, b)]
    one, other = (x if isinstance(x, Tensor) else None for x in labels)
    for part, x, y in [*tensors, ("the labels", one, other)]:
        equal = torch.equal(x, y) if x is not None and y is not None else x is y
        hold(equal, law, f"{what}: {part} differ")

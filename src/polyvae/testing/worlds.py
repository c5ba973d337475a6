"""Small worlds for the laws: modalities, a model away from its starting point, systematically masked data, one step on prepared draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.core.noise import Draw
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.errors import InputError

Make = Callable[[Sequence[Modality]], MultimodalVAE]
Gradients = dict[str, Tensor | None]


def plain_world() -> tuple[Modality, ...]:
    """Four modalities, four likelihoods, names that are legal and awkward."""
    small = {"hidden": (6,)}
    return (
        Modality("rna.counts", (3,), "normal", params={"scale": "learned", **small}),
        Modality("values", (2, 2), "laplace", weight=0.7, params=small),
        Modality("type", (2, 3), "categorical", weight=2.0, params=small),
        Modality("forward", (3,), "bernoulli", params=small),
    )


def roles_world() -> tuple[Modality, ...]:
    """The same, where one is only encoded and one is only decoded."""
    a, b, c, d = plain_world()
    return a, replace(b, role="input"), replace(c, role="target"), d


def labels_world() -> tuple[Modality, ...]:
    """The same as two views and two labels, for a model whose ``facts.labels`` say that it knows nothing else."""
    a, b, c, d = plain_world()
    return (
        replace(a, role="target"),
        replace(b, role="input"),
        replace(c, role="target"),
        replace(d, role="input"),
    )


def default_worlds(make: Make) -> list[tuple[Modality, ...]]:
    """The worlds in which a model faces the laws: both of four; of views and labels, or of two, for one whose facts say so.

    Either of the two may be one-sided, where the model takes such modalities.
    """
    with repeatable():
        requires = next(
            found.requires
            for world in (plain_world()[:2], labels_world())
            if (found := _built(make, world)) is not None
        )
        if requires.labels:
            worlds = [labels_world()]
        elif requires.most == 2:
            sided = [
                world
                for world in (roles_world()[::2], roles_world()[1::2])
                if _built(make, world) is not None
            ]
            worlds = [plain_world()[:2], plain_world()[-2:], *sided]
        else:
            worlds = [plain_world(), roles_world()]
    return [uneven(make, world) for world in worlds]


def _built(make: Make, specs: Sequence[Modality]) -> MultimodalVAE | None:
    try:
        return make(specs)
    except InputError:
        return None


def uneven(make: Make, specs: Sequence[Modality]) -> tuple[Modality, ...]:
    """Where the model has private codes, the first modality's is wider than the others', so that columns cannot be mistaken.

    A model that refuses codes of several sizes keeps those that it has.
    """
    wider = (replace(specs[0], private=3), *specs[1:])
    with repeatable():
        if not len(make(specs).owner):
            return tuple(specs)
        try:
            make(wider)
        except InputError:
            return tuple(specs)
    return wider


def example_model(make: Make, specs: Sequence[Modality]) -> MultimodalVAE:
    """A model in training mode and float64, no parameter of which is at its starting point (r = p, for one, would hide mistakes)."""
    with repeatable():
        model = make(specs).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.train()


def example_batch(model: MultimodalVAE, entries: bool = True) -> Batch:
    """2 + 2 M rows: one complete, one of which nothing was observed, and for each modality one that lacks it and one that has only it.

    With ``entries``, the first modality has gaps inside.
    """
    count = len(model.modalities)
    eye = torch.eye(count, dtype=torch.bool)
    mask = torch.cat(
        [torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1, dtype=torch.bool), ~eye, eye], 1
    )
    with repeatable():
        data = example_data(model, mask.shape[1])
        first = next(iter(data))
        gaps = {first: torch.rand(data[first].shape) < 0.7} if entries else {}
    return Batch.of(data, mask, gaps)


def example_data(model: MultimodalVAE, size: int) -> dict[str, Tensor]:
    """Values that the modalities' likelihoods could have given."""
    return {
        name: net.likelihood.sample(torch.randn(size, *net.likelihood.output, dtype=torch.float64)).detach()
        for name, net in model.modalities.items()
    }


# ---- small words -----------------------------------------------------------------------------------------------------------------


@contextmanager
def repeatable(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def record(model: MultimodalVAE, batch: Batch) -> dict[str, Draw]:
    with repeatable(), noise.record() as draws:
        model(batch)
    return dict(draws)


def step(
    model: MultimodalVAE,
    batch: Batch,
    draws: Mapping[str, Draw],
    rows: Tensor | None = None,
    sign: int = 1,
) -> tuple[Tensor, Gradients]:
    """The bound [B] with these draws, and the gradient of its sum (over ``rows``)."""
    model.zero_grad(set_to_none=True)
    with noise.feed(draws):
        value = model(batch).value
    hold(
        value.shape == (batch.size,),
        "shape",
        f"the bound has shape {tuple(value.shape)}; expected ({batch.size},)",
    )
    (sign * (value if rows is None else value[rows]).sum()).backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}


def count_call(
    calls: dict[str, list[tuple[bool, int]]],
    key: str,
    module: nn.Module,
    given: tuple[Tensor, ...],
    *_: object,
) -> None:
    """A forward hook: was a graph made, and of how many rows?"""
    calls[key].append((torch.is_grad_enabled(), len(given[0])))


def full_name(model: MultimodalVAE, net: nn.Module, key: str) -> str:
    """The model's name of the parameter that its modality calls ``its.…``."""
    place: str = next(name for name, module in model.named_modules() if module is net)
    return place + key.removeprefix("its")


def hold(condition: bool, law: str, message: str) -> None:
    if not condition:
        raise AssertionError(f"law {law!r}: {message}")


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def near(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + a.abs())).all())


def zero(gradient: Tensor | None) -> bool:
    return gradient is None or bool((gradient == 0).all())


def dense(gradient: Tensor | None, like: Tensor | None = None) -> Tensor:
    return (torch.zeros(()) if like is None else torch.zeros_like(like)) if gradient is None else gradient


def same(a: Tensor | None, b: Tensor | None) -> bool:
    return (zero(a) and zero(b)) if a is None or b is None else torch.equal(a, b)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b

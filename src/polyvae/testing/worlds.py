"""Small examples for the laws: modalities, a model with perturbed parameters, systematically masked data, one step on prepared draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariate, Covariates
from polyvae.core.modality import Modality, ModalityNet
from polyvae.core.noise import Draw
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.errors import InputError

Make = Callable[[Sequence[Modality]], MultimodalVAE]
Gradients = dict[str, Tensor | None]


def plain_world() -> tuple[Modality, ...]:
    """Four modalities with four likelihoods, and names that are attributes or contain a dot."""
    small = {"hidden": (6,)}
    return (
        Modality("rna.counts", (3,), "normal", params={"scale": "learned", **small}),
        Modality("values", (2, 2), "laplace", weight=0.7, params=small),
        Modality("type", (2, 3), "categorical", weight=2.0, params=small),
        Modality("forward", (3,), "bernoulli", params=small),
    )


def roles_world() -> tuple[Modality, ...]:
    """``plain_world`` with one modality that is only encoded and one that is only decoded."""
    a, b, c, d = plain_world()
    return a, replace(b, role="input"), replace(c, role="target"), d


def labels_world() -> tuple[Modality, ...]:
    """``plain_world`` as two inputs and two labels, for a model whose ``facts.labels`` require it."""
    a, b, c, d = plain_world()
    return (
        replace(a, role="target"),
        replace(b, role="input"),
        replace(c, role="target"),
        replace(d, role="input"),
    )


def conditioned(specs: Sequence[Modality]) -> tuple[Modality, ...]:
    """The modalities, of which all but the last are conditioned on a batch and an age, the second on the age alone."""
    batch, age = Covariate("batch", ("a", "b", "c")), Covariate("age", mean=0.1, scale=0.7)
    return tuple(
        spec if m and m == len(specs) - 1 else replace(spec, covariates=(age,) if m == 1 else (batch, age))
        for m, spec in enumerate(specs)
    )


def default_worlds(make: Make) -> list[tuple[Modality, ...]]:
    """The modalities for which a model is checked.

    Two examples of four modalities, of which one declares missing entries; inputs and labels, or two modalities, for a model whose facts
    require it. With two modalities, also examples where one is only encoded or only decoded, if the model accepts them.
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
            first, *rest = roles_world()
            worlds = [plain_world(), (replace(first, entries=True), *rest)]
    return [uneven(make, world) for world in worlds]


def _built(make: Make, specs: Sequence[Modality]) -> MultimodalVAE | None:
    try:
        return make(specs)
    except InputError:
        return None


def uneven(make: Make, specs: Sequence[Modality]) -> tuple[Modality, ...]:
    """The modalities with a wider private latent for the first, so that no columns are mistaken for others.

    They stay as they are where the model has no private latents, or refuses different sizes.
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
    """A model in training mode and float64, with all parameters perturbed, because equal starting values (r = p) would hide mistakes."""
    with repeatable():
        model = make(specs).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.train()


def example_batch(model: MultimodalVAE, entries: bool = True) -> Batch:
    """2 + 2 M samples: one complete, one without anything, and for each modality one without it and one with it alone.

    With ``entries``, entries of the first modality are missing.
    """
    count = len(model.modalities)
    eye = torch.eye(count, dtype=torch.bool)
    mask = torch.cat(
        [torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1, dtype=torch.bool), ~eye, eye], 1
    )
    with repeatable():
        data = example_data(model, mask.shape[1])
        first = next(iter(data))
        observed = {first: torch.rand(data[first].shape) < 0.7} if entries else {}
    return Batch.of(data, mask, observed, example_covariates(model, mask.shape[1]))


def example_covariates(model: MultimodalVAE, size: int) -> Covariates:
    """Values of the covariates that the modalities declare: each level in turn, and numbers that differ."""
    declared = {one.name: one for net in model.modalities.values() for one in net.covariates}
    turn = torch.arange(size)
    return Covariates(
        {
            name: turn.double().sin() if one.levels is None else turn % len(one.levels)
            for name, one in declared.items()
        },
        {name: one.levels for name, one in declared.items() if one.levels is not None},
    )


def example_data(model: MultimodalVAE, size: int) -> dict[str, Tensor]:
    """Draws from the modalities' likelihoods, for random decoder outputs: name -> [size, *shape]."""
    return {
        name: net.likelihood.sample(torch.randn(size, *net.likelihood.output, dtype=torch.float64)).detach()
        for name, net in model.modalities.items()
    }


# ---- helpers -----------------------------------------------------------------------------------------------------------------


@contextmanager
def repeatable(seed: int = 0) -> Iterator[None]:
    """Seed torch's global generator in the context, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # manual_seed also seeds accelerators, which takes longer
        yield


def record(model: MultimodalVAE, batch: Batch) -> dict[str, Draw]:
    """The draws of one step, by name."""
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
    """The bound [B] with these draws, and the gradient of its sum over ``rows`` (None: over all samples)."""
    with noise.feed(draws):
        return _step(model, batch, rows, sign)


def first_step(
    model: MultimodalVAE, batch: Batch, rows: Tensor | None = None
) -> tuple[Tensor, Gradients, dict[str, Draw]]:
    """The draws of one step by name, as ``record`` has them, and what ``step`` gives with them."""
    with repeatable(), noise.record() as draws:
        value, gradients = _step(model, batch, rows, 1)
    return value, gradients, dict(draws)


def _step(model: MultimodalVAE, batch: Batch, rows: Tensor | None, sign: int) -> tuple[Tensor, Gradients]:
    model.zero_grad(set_to_none=True)
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
    """A forward hook that records whether gradients are enabled, and the number of rows."""
    calls[key].append((torch.is_grad_enabled(), len(given[0])))


def full_name(model: MultimodalVAE, net: nn.Module, key: str) -> str:
    """The model's name for a parameter of one modality, ``its.…``."""
    place: str = next(name for name, module in model.named_modules() if module is net)
    return place + key.removeprefix("its")


def moved_by_its_data(model: MultimodalVAE, net: ModalityNet) -> list[str]:
    """Names of parameters that only samples with this modality may train; pseudo-inputs and their encoder have other inputs too."""
    keys = [key for key, _ in net.named_parameters(prefix="its")]
    others = ("its.encoder", "its.parts.pseudo") if model.calls.pseudo_inputs else ()
    return [key for key in keys if not key.startswith(others)]


def hold(condition: bool, law: str, message: str) -> None:
    """Raise AssertionError where a law does not hold."""
    if not condition:
        raise AssertionError(f"law {law!r}: {message}")


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a - b).abs().max())


def near(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    """Whether shapes are equal and values differ by at most the tolerance, relative above 1."""
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + a.abs())).all())


def zero(gradient: Tensor | None) -> bool:
    """Whether a gradient is None or 0 everywhere."""
    return gradient is None or bool((gradient == 0).all())


def dense(gradient: Tensor | None, like: Tensor | None = None) -> Tensor:
    """The gradient, with zeros for None."""
    return (torch.zeros(()) if like is None else torch.zeros_like(like)) if gradient is None else gradient


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two gradients are equal bit for bit; None is 0."""
    return (zero(a) and zero(b)) if a is None or b is None else torch.equal(a, b)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two gradients; None is 0."""
    return b if a is None else a if b is None else a + b

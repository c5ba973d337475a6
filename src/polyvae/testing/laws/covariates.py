"""The law of covariates: they belong to their sample, and to the modalities that declare them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.core.noise import Draw
from polyvae.core.vae import MultimodalVAE
from polyvae.testing.worlds import (
    Make,
    conditioned,
    difference,
    example_batch,
    example_model,
    hold,
    near,
    record,
    repeatable,
)


def law_covariates(make: Make, specs: Sequence[Modality]) -> None:
    """Samples permuted with their covariates are permuted in the bound; those of one sample have no influence on others.

    Experts and generated data of a modality that declares none do not depend on them, given the latents.
    """
    model = example_model(make, conditioned(specs))
    batch = example_batch(model)
    with torch.no_grad():
        if model.facts.per_sample:
            _check_samples(model, batch)
        _check_modalities(model.eval(), batch)


def _check_samples(model: MultimodalVAE, batch: Batch) -> None:
    draws = record(model, batch)
    order = torch.arange(batch.size).roll(2)
    turned = {name: _rows(draw, order) for name, draw in draws.items()}
    value, permuted = _bound(model, batch, draws), _bound(model, batch.rows(order), turned)
    hold(
        near(value[order], permuted),
        "covariates",
        f"samples in another order, with their covariates, change a bound by {difference(value[order], permuted):.3g}",
    )
    other = batch.with_covariates({"age": torch.where(torch.arange(batch.size) == 0, 9.0, _age(batch))})
    changed = _bound(model, other, draws)
    hold(
        near(value[1:], changed[1:]),
        "covariates",
        f"a covariate of one sample changes the bound of another by {difference(value[1:], changed[1:]):.3g}",
    )
    hold(
        not near(value[:1], changed[:1]), "covariates", "a covariate has no influence on its complete sample"
    )


def _check_modalities(model: MultimodalVAE, batch: Batch) -> None:
    other = batch.with_covariates({"age": _age(batch) + 1, "batch": "c"})
    z, w = (experts.map(lambda x: x.detach()) for experts in model.experts(batch)[:2])
    again = model.experts(other)
    for e, m in enumerate(model.encoded):
        if not model.modalities.at(m).covariates:
            hold(
                torch.equal(z[e].loc, again.z[e].loc)
                and torch.equal(w.loc[:, model.columns[m]], again.w.loc[:, model.columns[m]]),
                "covariates",
                f"the experts of {model.specs[m].name!r}, which declares none, depend on covariates",
            )
    with repeatable():
        latents = model.draw_latents(batch)
    before = model.modalities.decode(*latents, like=batch)
    after = model.modalities.decode(*latents, like=other)
    for m, (name, net) in enumerate(model.modalities.items()):
        # The first sample is complete: all latents of a modality are then its own.
        if name in before:
            hold(
                torch.equal(before[name], after[name]) != bool(net.covariates),
                "covariates",
                f"generated data of modality number {m} {'do not depend' if net.covariates else 'depend'} on covariates",
            )
    with repeatable():
        made = model.generate(batch, covariates={"age": _age(batch) + 1, "batch": "c"})
    hold(
        all(torch.equal(made[name], x) for name, x in after.items()),
        "covariates",
        "generate(covariates=...) is not what decoders make of the latents of the samples and these covariates",
    )


def _age(batch: Batch) -> Tensor:
    return batch.covariates.values["age"]


def _rows(draw: Draw, order: Tensor) -> Draw:
    return Draw(draw.axes, draw.value.index_select(draw.axes.index("B"), order))


def _bound(model: MultimodalVAE, batch: Batch, draws: dict[str, Draw]) -> Tensor:
    with noise.feed(draws):
        value: Tensor = model(batch).value
    return value

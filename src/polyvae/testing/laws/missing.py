"""Laws of missing data and of the order of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.core.noise import Draw
from polyvae.testing.transfer import same_model
from polyvae.testing.worlds import (
    Gradients,
    Make,
    dense,
    difference,
    example_batch,
    example_covariates,
    example_data,
    example_model,
    first_step,
    full_name,
    hold,
    moved_by_its_data,
    near,
    plus,
    repeatable,
    same,
    step,
    zero,
)
from polyvae.utils.errors import InputError


def law_missing(make: Make, specs: Sequence[Modality]) -> None:
    """Unobserved values change no bit of bound and gradient, and samples without a modality give its network no gradient."""
    model = example_model(make, specs)
    clean = example_batch(model)
    value, gradients, draws = first_step(model, clean)
    seen = {
        name: row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        for row, (name, x) in zip(clean.mask, clean.data.items(), strict=True)
    }
    inside = {name: seen[name] & clean.entries.get(name, torch.tensor(True)) for name in seen}
    with repeatable():
        noisy = {name: torch.where(inside[name], x, torch.randn_like(x)) for name, x in clean.data.items()}
        huge = {name: torch.where(seen[name], x, 1e200) for name, x in clean.data.items()}
    invalid = Batch.of(
        {name: torch.where(inside[name], x, torch.nan) for name, x in clean.data.items()},
        clean.mask,
        clean.entries,
        clean.covariates,
    )
    for what, batch in (
        ("random values", clean._replace(data=noisy)),
        ("huge values", clean._replace(data=huge)),
        ("NaN", invalid),
    ):
        again, others = step(model, batch, draws)
        hold(
            torch.equal(value, again),
            "missing",
            f"{what} under the mask change the bound by {difference(value, again):.3g}",
        )
        for name, gradient in gradients.items():
            hold(
                same(gradient, others[name]),
                "missing",
                f"{what} under the mask change the gradient of {name}",
            )
    for row, (name, net) in zip(clean.mask, model.modalities.items(), strict=True):
        if model.facts.per_sample:
            _, gradients = step(model, clean, draws, ~row)
            for key in moved_by_its_data(model, net):
                hold(
                    zero(gradients[full_name(model, net, key)]),
                    "missing",
                    f"samples without {name!r} give its network's {key} a gradient",
                )


def law_entries(make: Make, specs: Sequence[Modality]) -> None:
    """Unobserved entries are absent from the likelihood; a modality without any observed entry has log-likelihood 0."""
    model = example_model(make, specs)
    with repeatable():
        data = example_data(model, 5)
        observed = {name: torch.rand(x.shape) < 0.5 for name, x in data.items()}
        z = torch.randn(2, 5, model.seen, dtype=torch.float64)
        w = torch.randn(2, 5, len(model.owner), dtype=torch.float64)
    for name in observed:
        observed[name][0] = False
    batch = Batch.of(data, None, observed, example_covariates(model, 5))
    log_x = model.log_likelihood(batch, z, w)
    for m, (name, net) in enumerate(model.modalities.items()):
        if net.decoder is None:
            hold(
                bool((log_x[m] == 0).all()),
                "entries",
                f"modality {name!r} is encoded only and has a likelihood",
            )
            continue
        counted = net.likelihood.counted(observed[name])
        each = net.likelihood.entries(
            net.decode(model.modalities.latents(m, z, w, batch)), torch.where(counted, data[name], 0), counted
        )
        by_hand = (each * counted).flatten(2).sum(-1)
        hold(
            near(log_x[m], by_hand),
            "entries",
            f"the likelihood of {name!r} is not the sum over its observed entries",
        )


def law_agree(make: Make, specs: Sequence[Modality]) -> None:
    """Entries that are all missing are a missing modality: bound, gradient, embedding and generation are the same, bit for bit."""
    model = example_model(make, specs)
    masked = example_batch(model)
    by_entries = Batch.of(
        masked.data,
        None,
        {
            name: row.view(-1, *[1] * (x.ndim - 1))
            & masked.entries.get(name, torch.ones_like(x, dtype=torch.bool))
            for row, (name, x) in zip(masked.mask, masked.data.items(), strict=True)
        },
        masked.covariates,
    )
    value, gradients, draws = first_step(model, masked)
    other, others = step(model, by_entries, draws)
    hold(
        torch.equal(value, other),
        "agree",
        f"missing by entries, not by mask, changes the bound by {difference(value, other):.3g}",
    )
    for name, gradient in gradients.items():
        hold(same(gradient, others[name]), "agree", f"missing by entries changes the gradient of {name}")
    model.eval()
    made = []
    for batch in (masked, by_entries):
        with repeatable():
            made.append({"embed": model.embed(batch), **model.generate(batch, 2)})
    for name, x in made[0].items():
        hold(torch.equal(x, made[1][name]), "agree", f"missing by entries changes what is generated ({name})")


def law_inference(make: Make, specs: Sequence[Modality]) -> None:
    """Nothing is drawn in ``posterior`` and ``private``, which are functions of what was observed, also for nine modalities."""
    worlds = [tuple(specs)]
    if len(specs) > 2:
        repeated = [
            replace(specs[m % len(specs)], name=f"{specs[m % len(specs)].name} {m}") for m in range(9)
        ]
        worlds.append(tuple(repeated))
    for world in worlds:
        try:
            model = example_model(make, world).eval()
        except InputError:  # a model for fewer modalities
            continue
        batch = example_batch(model)
        with torch.no_grad(), noise.record() as draws:
            experts = model.experts(batch)
            z = model.posterior(batch, experts).mean
            model.private(batch, experts, z, model.prior.w(z))
        hold(not draws, "inference", f"posterior or private draws {', '.join(draws)}; expected no draws")
        found = []
        for seed in (1, 2):
            with repeatable(seed):
                found.append(model.embed(batch))
        hold(
            torch.equal(*found), "inference", f"two embeddings of a sample differ by {difference(*found):.3g}"
        )


def law_empty(make: Make, specs: Sequence[Modality]) -> None:
    """A sample of which nothing was observed has bound 0, no gradient, and the prior as its posterior."""
    model = example_model(make, specs)
    some = example_batch(model)
    for batch in (some, some.observe()):
        empty = ~batch.mask.any(0)
        value, gradients, _ = first_step(model, batch, empty)
        hold(
            bool((value[empty] == 0).all()),
            "empty",
            f"the bound of samples of which nothing was observed is {value[empty].tolist()}; expected exactly 0",
        )
        for name, gradient in gradients.items():
            hold(zero(gradient), "empty", f"a sample of which nothing was observed gives {name} a gradient")
        model.eval()
        with repeatable(), torch.no_grad():
            embedded, drawn = model.embed(batch)[empty], model.draw(batch, 4)
            q_w = model.private(batch, model.experts(batch), drawn.z, model.prior.w(drawn.z))
            expected = model.prior.z().log_prob(drawn.z[:, empty]) + q_w.log_prob(drawn.w)[:, empty]
        model.train()
        mean = model.prior.z().mean.expand(len(embedded), -1) if model.shared else torch.zeros_like(embedded)
        hold(
            torch.equal(embedded, mean),
            "empty",
            "embed of a sample of which nothing was observed is not the prior's mean",
        )
        hold(
            near(drawn.log_q[:, empty], expected),
            "empty",
            "the latents of a sample of which nothing was observed are not drawn from the prior",
        )


def law_per_sample(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.per_sample``: bound and gradient of a batch with mixed masks are those of its samples, one by one."""
    model = example_model(make, specs)
    if not model.facts.per_sample:
        return
    batch = example_batch(model)
    value, gradients, draws = first_step(model, batch)
    total: Gradients = {}
    for row in range(batch.size):
        alone = {}
        for name, draw in draws.items():
            own = "B" in draw.axes and draw.value.shape[draw.axes.index("B")] == batch.size
            hold(
                own,
                "per_sample",
                f"the draw {name!r} (axes {draw.axes!r}, shape {tuple(draw.value.shape)}) is common to the samples of the batch",
            )
            alone[name] = Draw(draw.axes, draw.value.narrow(draw.axes.index("B"), row, 1))
        each, some = step(model, batch.rows(slice(row, row + 1)), alone)
        hold(
            near(value[row : row + 1], each),
            "per_sample",
            f"the bound of sample {row} is {float(value[row])!r} in the batch; expected {float(each)!r}, its value alone",
        )
        total = {name: plus(total.get(name), gradient) for name, gradient in some.items()}
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(total[name])),
            "per_sample",
            f"the samples' gradients of {name} do not sum to the batch's",
        )


def law_posterior(make: Make, specs: Sequence[Modality]) -> None:
    """The weights of the joint posterior sum to 1, and no component includes an expert that was not observed."""
    model = example_model(make, specs)
    batch = example_batch(model)
    with repeatable():
        q = model.posterior(batch, model.experts(batch))
    encoded = batch.mask[model.encoded]
    hold(bool((q.weights >= 0).all()), "posterior", "a component has a negative weight")
    total = q.weights.sum(0)
    hold(
        near(total, encoded.any(0).double()),
        "posterior",
        f"weights sum to {total.tolist()}; expected 1, or 0 where nothing was observed",
    )
    hold(
        not bool((q.membership & ~encoded).any()),
        "posterior",
        "a component includes an expert that was not observed",
    )
    hold(
        torch.equal(q.membership.any(1), q.active),
        "posterior",
        "a component without experts is active, or one with experts is not",
    )


def law_nested(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.nested``: a modality dropped by mask is equal to a model built without it."""
    big = example_model(make, specs)
    if not big.facts.nested:
        return
    for out in specs:
        rest = [spec for spec in specs if spec.name != out.name]
        if any(spec.role != "target" for spec in rest) and (
            not big.requires.labels or any(spec.role == "target" for spec in rest)
        ):
            same_model("nested", f"without {out.name!r}", big, example_model(make, rest), out.name)


def law_symmetric(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.symmetric``: permuting the modalities together with their noise changes nothing."""
    model = example_model(make, specs)
    if model.facts.symmetric:
        for order in (specs[::-1], (*specs[1:], specs[0])):
            same_model(
                "symmetric",
                f"in the order {[spec.name for spec in order]}",
                model,
                example_model(make, order),
            )

"""Laws of a training step: its draws, calls, gradients, terms and precision."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.testing.worlds import (
    Make,
    count_call,
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
    record,
    repeatable,
    step,
    zero,
)

_STEPS = 25
_REPEATS, _IMPORTANCE = 200, 1000  # draws of the objective, and of importance sampling, for each sample


def law_noise(make: Make, specs: Sequence[Modality]) -> None:
    """Every draw is made by ``polyvae.core.noise``: with prepared draws, torch's generator has no influence. A step keeps its batch."""
    model = example_model(make, specs)
    batch = example_batch(model)
    before = {name: x.clone() for name, x in batch.data.items()}
    draws = record(model, batch)
    values = []
    for seed in (1, 2):
        with repeatable(seed):
            values.append(step(model, batch, draws)[0])
    hold(torch.equal(*values), "noise", "the bound depends on draws that polyvae.core.noise did not make")
    hold(
        all(torch.equal(before[name], x) for name, x in batch.data.items()),
        "noise",
        "a step changes its batch",
    )


def law_decodes(make: Make, specs: Sequence[Modality]) -> None:
    """One encoder call and ``calls.decode`` decoder calls per modality and step, and ``calls.encode_again`` more of both.

    A modality that is not encoded or not decoded has none. ``calls.pseudo_inputs`` adds one encoder call. A call on few rows, without a
    graph, does not count.
    """
    model = example_model(make, specs)
    some = example_batch(model, entries=False)
    for batch in (some, some.rows(slice(0, 1))._replace(complete=True)):
        calls: dict[str, list[tuple[bool, int]]] = defaultdict(list)
        handles = []
        for name, net in model.modalities.items():
            for kind, module in (("encoder", net.encoder), ("decoder", net.decoder)):
                if module is not None:
                    handles.append(
                        module.register_forward_hook(partial(count_call, calls, f"{kind} of {name!r}"))
                    )
        record(model, batch)
        for handle in handles:
            handle.remove()
        for name, net in model.modalities.items():
            role = net.spec.role
            again = model.calls.encode_again if role == "both" else 0
            for kind, expected in (
                ("encoder", (1 + again + model.calls.pseudo_inputs) * (role != "target")),
                ("decoder", (model.calls.decode + again) * (role in ("both", "target"))),
            ):
                seen = calls[f"{kind} of {name!r}"]
                got = sum(graph or 2 * rows > max(seen)[1] for graph, rows in seen)
                hold(
                    got == expected,
                    "decodes",
                    f"{got} calls of the {kind} of {name!r} (role {role}) in one step; expected {expected}",
                )


def law_gradients(make: Make, specs: Sequence[Modality]) -> None:
    """Every parameter has a finite gradient.

    In training mode it is 0, not None, for parameters without data, as distributed training requires.
    """
    model = example_model(make, specs)
    batch = example_batch(model)
    _, gradients, _ = first_step(model, batch)
    for name, gradient in gradients.items():
        hold(gradient is not None and not zero(gradient), "gradients", f"{name} has no gradient")
        hold(bool(dense(gradient).isfinite().all()), "gradients", f"the gradient of {name} is not finite")
    for out, less, what in [(name, batch.drop(name), f"without {name!r}") for name in batch.names] + [
        ("", batch.observe(), "where nothing is observed")
    ]:
        _, gradients, _ = first_step(model, less)
        for name, gradient in gradients.items():
            hold(
                gradient is not None,
                "gradients",
                f"{what}, the gradient of {name} is None; expected zeros in training mode",
            )
            hold(
                bool(dense(gradient).isfinite().all()),
                "gradients",
                f"{what}, the gradient of {name} is not finite",
            )
        for key in moved_by_its_data(model, model.modalities[out]) if out else ():
            hold(
                zero(gradients[full_name(model, model.modalities[out], key)]),
                "gradients",
                f"without {out!r}, its network's {key} has a gradient",
            )


def law_trains(make: Make, specs: Sequence[Modality]) -> None:
    """Two training steps, embedding and generation give finite values of the right shapes."""
    model = example_model(make, specs)
    batch = example_batch(model)
    draws = record(model, batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    bounds = []
    for _ in range(2):
        value, _ = step(model, batch, draws, sign=-1)
        optimiser.step()
        bounds.append(value)
    hold(bool(value.isfinite().all()), "trains", f"the bound is {value.tolist()}; expected finite values")
    hold(not torch.equal(*bounds), "trains", "a step of the optimiser does not change the bound")
    model.eval()
    with repeatable():
        embedded = model.embed(batch)
        made: list[tuple[dict[str, Tensor], tuple[int, ...]]] = [
            (model.sample(4, sample=sample), (4,)) for sample in (False, True)
        ]
        for sample, resample in itertools.product((False, True), {False, model.facts.density}):
            made.append((model.generate(batch, 3, sample=sample, resample=resample), (3, batch.size)))
    width = model.shared or len(model.owner)
    right = embedded.shape == (batch.size, width) and bool(embedded.isfinite().all())
    hold(
        right,
        "trains",
        f"embed returns {tuple(embedded.shape)}; expected finite values, {(batch.size, width)}",
    )
    decoded = {name: net.spec.shape for name, net in model.modalities.items() if net.decoder is not None}
    for out, lead in made:
        hold(out.keys() == decoded.keys(), "trains", f"generated {list(out)}; expected {list(decoded)}")
        for name, shape in decoded.items():
            right = out[name].shape == (*lead, *shape) and bool(out[name].isfinite().all())
            hold(
                right,
                "trains",
                f"generated {name!r} of shape {tuple(out[name].shape)}; expected finite values, {(*lead, *shape)}",
            )


def law_bound(make: Make, specs: Sequence[Modality]) -> None:
    """Where ``facts.bound``, the expected objective is at most log p(x), by importance sampling, within five standard errors.

    For likelihood weights 1, and β = 1, or β ≥ 1 and K = 1. A few steps of training come first: they raise an objective that is no bound
    above the likelihood, which that of a random model rarely is.
    """
    model = example_model(make, [replace(spec, weight=1.0) for spec in specs])
    beta = float(model.options.get("beta", 1))
    if not (model.facts.bound and model.facts.density and model.facts.per_sample):
        return
    if beta < 1 or (beta > 1 and model.K > 1):
        return
    batch = example_batch(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    with repeatable():
        for _ in range(_STEPS):
            optimiser.zero_grad()
            (-model(batch).value.sum()).backward()
            optimiser.step()
    model.eval()
    repeated = batch.rows(torch.arange(batch.size).repeat(_REPEATS))
    with repeatable(), torch.no_grad():
        draws = model(repeated).value.view(_REPEATS, batch.size)
        truth = model.log_marginal(batch, K=_IMPORTANCE)
    excess = draws.mean(0) - truth.value
    error = torch.hypot(draws.std(0) / _REPEATS**0.5, truth.standard_error)
    # The objective of a sample of which only targets were observed is 0.
    seen = batch.mask[model.encoded].any(0)
    worst = torch.where(seen, excess - 5 * error, -torch.inf).argmax()
    hold(
        bool((excess <= 5 * error + 1e-9)[seen].all()),
        "bound",
        f"the expected objective is {float(excess[worst]):.3g} ± {float(error[worst]):.2g} above log p(x) for sample {int(worst)}; "
        "expected at most 0, because facts.bound is True",
    )


def law_terms(make: Make, specs: Sequence[Modality]) -> None:
    """Log-likelihoods, KLs and subsets among the terms sum to the bound (to at most the bound where weights are averaged: Jensen)."""
    model = example_model(make, specs)
    batch = example_batch(model)
    options = model.options
    for warm in (1.0, 0.4):
        with repeatable(), torch.no_grad():
            value, terms = model(batch, warm)
        if not all(name.startswith(("log_likelihood/", "kl/")) or name == "subsets" for name in terms):
            return
        total = terms.get("subsets", torch.zeros_like(value))
        for name, term in terms.items():
            if name.startswith("kl/"):
                total = total - warm * model.beta * term
            elif name != "subsets":
                total = total + model.modalities[name.removeprefix("log_likelihood/")].spec.weight * term
        if options.get("objective", "elbo") == "elbo":
            hold(
                near(value, total),
                "terms",
                f"the terms sum to {total.tolist()}; expected the bound, {value.tolist()}",
            )
        else:
            hold(
                bool((value >= total - 1e-9).all()),
                "terms",
                f"the terms sum to {total.tolist()}; expected at most the bound, {value.tolist()}",
            )


def law_max_rows(make: Make, specs: Sequence[Modality]) -> None:
    """Decoding in chunks changes neither bound nor gradient, and no chunk is larger. (What is encoded again is decoded in one piece.)"""
    model = example_model(make, specs)
    sizes: dict[str, list[int]] = defaultdict(list)
    batch = example_batch(model)
    value, gradients, draws = first_step(model, batch)
    model.max_rows = 3
    for name, net in model.modalities.items():
        if net.decoder is not None:
            net.decoder.register_forward_pre_hook(partial(_note_rows, sizes[name]))
    again, others = step(model, batch, draws)
    for name, rows in sizes.items():
        whole = model.calls.encode_again if model.modalities[name].spec.role == "both" else 0
        most = max(sorted(rows)[: len(rows) - whole], default=0)
        hold(
            most <= 3, "max_rows", f"with max_rows=3, {most} rows of modality {name!r} are decoded at a time"
        )
    hold(
        near(value, again, 1e-12),
        "max_rows",
        f"max_rows=3 changes the bound by {difference(value, again):.3g}",
    )
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(others[name]), 1e-12),
            "max_rows",
            f"max_rows=3 changes the gradient of {name}",
        )


def _note_rows(sizes: list[int], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sizes.append(len(inputs[0]))


def law_complete(make: Make, specs: Sequence[Modality]) -> None:
    """The fast path for complete data, which gathers no rows, is equal to the general one."""
    model = example_model(make, specs)
    with repeatable():
        batch = Batch.of(example_data(model, 4), covariates=example_covariates(model, 4))
    value, gradients, draws = first_step(model, batch)
    again, others = step(model, batch._replace(complete=False), draws)
    hold(
        near(value, again),
        "complete",
        f"the two paths for complete data differ by {difference(value, again):.3g}",
    )
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(others[name])),
            "complete",
            f"the two paths for complete data differ in the gradient of {name}",
        )


def law_precision(make: Make, specs: Sequence[Modality]) -> None:
    """float32 and float64 agree to single precision, for any dtype of the batch."""
    model = example_model(make, specs)
    batch = example_batch(model)
    value, _, draws = first_step(model, batch)
    single, _ = step(model.float(), batch, draws)
    hold(
        single.dtype == torch.float32,
        "precision",
        f"the bound of a float32 model is {single.dtype}; expected torch.float32",
    )
    hold(
        near(value, single.double(), 1e-3),
        "precision",
        f"float32 and float64 differ by {difference(value, single.double()):.3g}",
    )

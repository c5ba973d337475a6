"""The laws. Each is a function of a factory ``make(modalities) -> model`` and of the modalities of a small world."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from polyvae.config import RunConfig, read_config, write_config
from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.modality import Modality, ModalityNet
from polyvae.core.noise import Draw
from polyvae.core.vae import MultimodalVAE
from polyvae.models import MODELS
from polyvae.models.bundles import (
    describe_modality,
    load_bundle,
    load_model,
    read_modality,
    save_bundle,
    save_model,
)
from polyvae.testing.transfer import same_model
from polyvae.testing.worlds import (
    Gradients,
    Make,
    count_call,
    dense,
    example_batch,
    example_data,
    example_model,
    full_name,
    gap,
    hold,
    near,
    plus,
    record,
    repeatable,
    same,
    step,
    zero,
)

# ---- what is missing -------------------------------------------------------------------------------------------------------------


def law_missing(make: Make, specs: Sequence[Modality]) -> None:
    """Whatever stands where nothing was observed: the same bits of bound and gradient; and no gradient for a network from rows it lacks."""
    model = example_model(make, specs)
    clean = example_batch(model)
    draws = record(model, clean)
    value, gradients = step(model, clean, draws)
    seen = {
        name: row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        for row, (name, x) in zip(clean.mask, clean.data.items(), strict=True)
    }
    inside = {name: seen[name] & clean.entries.get(name, torch.tensor(True)) for name in seen}
    with repeatable():
        noisy = {name: torch.where(inside[name], x, torch.randn_like(x)) for name, x in clean.data.items()}
        huge = {name: torch.where(seen[name], x, 1e200) for name, x in clean.data.items()}
    at_the_door = Batch.of(
        {name: torch.where(inside[name], x, torch.nan) for name, x in clean.data.items()},
        clean.mask,
        clean.entries,
    )
    for what, batch in (
        ("random values", clean._replace(data=noisy)),
        ("huge values", clean._replace(data=huge)),
        ("NaN", at_the_door),
    ):
        again, others = step(model, batch, draws)
        hold(
            torch.equal(value, again),
            "missing",
            f"{what} under the mask change the bound by {gap(value, again):.3g}",
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
            for key in _moved_by_its_data(model, net):
                hold(
                    zero(gradients[full_name(model, net, key)]),
                    "missing",
                    f"rows without {name!r} reach its network's {key}",
                )


def law_nested(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.nested``: to drop a modality by mask is to have built the model without it."""
    big = example_model(make, specs)
    if not big.facts.nested:
        return
    for out in specs:
        rest = [spec for spec in specs if spec.name != out.name]
        if any(spec.role != "target" for spec in rest) and (
            not big.facts.labels or any(spec.role == "target" for spec in rest)
        ):
            same_model("nested", f"without {out.name!r}", big, example_model(make, rest), out.name)


def law_symmetric(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.symmetric``: the order of the modalities, with their noise, changes nothing."""
    model = example_model(make, specs)
    if model.facts.symmetric:
        for order in (specs[::-1], (*specs[1:], specs[0])):
            same_model(
                "symmetric",
                f"in the order {[spec.name for spec in order]}",
                model,
                example_model(make, order),
            )


def law_per_sample(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.per_sample``: a batch of mixed masks equals its rows, one by one, bound and gradient."""
    model = example_model(make, specs)
    if not model.facts.per_sample:
        return
    batch = example_batch(model)
    draws = record(model, batch)
    value, gradients = step(model, batch, draws)
    total: Gradients = {}
    for row in range(batch.size):
        alone = {}
        for name, draw in draws.items():
            own = "B" in draw.axes and draw.value.shape[draw.axes.index("B")] == batch.size
            hold(
                own,
                "per_sample",
                f"the draw {name!r} (axes {draw.axes!r}, shape {tuple(draw.value.shape)}) is shared by the batch",
            )
            alone[name] = Draw(draw.axes, draw.value.narrow(draw.axes.index("B"), row, 1))
        each, some = step(model, batch.rows(slice(row, row + 1)), alone)
        hold(
            near(value[row : row + 1], each),
            "per_sample",
            f"row {row} has {float(value[row])!r} in the batch and {float(each)!r} alone",
        )
        total = {name: plus(total.get(name), gradient) for name, gradient in some.items()}
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(total[name])),
            "per_sample",
            f"the rows' gradients of {name} do not add up to the batch's",
        )


def law_empty(make: Make, specs: Sequence[Modality]) -> None:
    """A row of which nothing was observed: bound exactly 0, no gradient, and the prior as answer."""
    model = example_model(make, specs)
    some = example_batch(model)
    for batch in (some, some.observe()):
        empty = ~batch.mask.any(0)
        value, gradients = step(model, batch, record(model, batch), empty)
        hold(
            bool((value[empty] == 0).all()),
            "empty",
            f"the bound of nothing is {value[empty].tolist()}; expected exactly 0",
        )
        for name, gradient in gradients.items():
            hold(zero(gradient), "empty", f"a row of which nothing was observed moves {name}")
        model.eval()
        with repeatable(), torch.no_grad():
            embedded, drawn = model.embed(batch)[empty], model.draw(batch, 4)
            q_w = model.private(batch, model.experts(batch), drawn.z)
            expected = model.prior.z().log_prob(drawn.z[:, empty]) + q_w.log_prob(drawn.w)[:, empty]
        model.train()
        mean = model.prior.z().mean.expand(len(embedded), -1) if model.shared else torch.zeros_like(embedded)
        hold(torch.equal(embedded, mean), "empty", "embed of nothing is not the prior's mean")
        hold(
            near(drawn.log_q[:, empty], expected),
            "empty",
            "the latents of a row of which nothing was observed are not the prior's",
        )


def law_entries(make: Make, specs: Sequence[Modality]) -> None:
    """An entry that was not observed is absent from the likelihood, and a modality without any entry counts nothing."""
    model = example_model(make, specs)
    with repeatable():
        data = example_data(model, 5)
        gaps = {name: torch.rand(x.shape) < 0.5 for name, x in data.items()}
        z = torch.randn(2, 5, model.seen, dtype=torch.float64)
        w = torch.randn(2, 5, len(model.owner), dtype=torch.float64)
    for name in gaps:
        gaps[name][0] = False
    log_x = model.log_likelihood(Batch.of(data, None, gaps), z, w)
    for m, (name, net) in enumerate(model.modalities.items()):
        if net.decoder is None:
            hold(bool((log_x[m] == 0).all()), "entries", f"the source {name!r} has a likelihood")
            continue
        observed = net.likelihood.counted(gaps[name])
        each = net.likelihood.entries(
            net.decode(model.code(m, z, w)), torch.where(observed, data[name], 0), observed
        )
        by_hand = (each * observed).flatten(2).sum(-1)
        hold(
            near(log_x[m], by_hand),
            "entries",
            f"the likelihood of {name!r} is not the sum over its observed entries",
        )


def law_posterior(make: Make, specs: Sequence[Modality]) -> None:
    """The joint posterior is a distribution over what was observed: weights sum to 1, nothing unobserved is included."""
    model = example_model(make, specs)
    batch = example_batch(model)
    with repeatable():
        q = model.posterior(batch, model.experts(batch))
    sources = batch.mask[model.encoded]
    hold(bool((q.weights >= 0).all()), "posterior", "a view has a negative weight")
    total = q.weights.sum(0)
    hold(
        near(total, sources.any(0).double()),
        "posterior",
        f"weights sum to {total.tolist()}; expected 1, or 0 for nothing",
    )
    hold(
        not bool((q.membership & ~sources).any()),
        "posterior",
        "a view includes an expert that was not observed",
    )
    hold(
        torch.equal(q.membership.any(1), q.active),
        "posterior",
        "a view counts without a member, or has members and does not count",
    )


# ---- how it computes -------------------------------------------------------------------------------------------------------------


def law_noise(make: Make, specs: Sequence[Modality]) -> None:
    """Every draw goes through ``polyvae.core.noise``: with prepared draws torch's generator has no influence.

    A step leaves its batch as it was.
    """
    model = example_model(make, specs)
    batch = example_batch(model)
    before = {name: x.clone() for name, x in batch.data.items()}
    draws = record(model, batch)
    values = []
    for seed in (1, 2):
        with repeatable(seed):
            values.append(step(model, batch, draws)[0])
    hold(
        torch.equal(*values), "noise", "the bound depends on draws that do not go through polyvae.core.noise"
    )
    hold(
        all(torch.equal(before[name], x) for name, x in batch.data.items()),
        "noise",
        "a step changes the batch it was given",
    )


def law_decodes(make: Make, specs: Sequence[Modality]) -> None:
    """One encoder call and ``facts.decodes`` decoder calls per modality and step, ``facts.again`` more of both; none by role.

    ``facts.pseudo_inputs``: one more encoder call, for those. A first look at few rows, without a graph, is no call.
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
            again = model.facts.again if role == "both" else 0
            for kind, expected in (
                ("encoder", (1 + again + model.facts.pseudo_inputs) * (role != "target")),
                ("decoder", (model.facts.decodes + again) * (role != "source")),
            ):
                seen = calls[f"{kind} of {name!r}"]
                got = sum(graph or 2 * rows > max(seen)[1] for graph, rows in seen)
                hold(
                    got == expected,
                    "decodes",
                    f"{got} calls of the {kind} of {name!r} (role {role}) in one step; expected {expected}",
                )


def law_gradients(make: Make, specs: Sequence[Modality]) -> None:
    """Gradients reach every parameter and are finite; in training, parameters without data get zeros, never None (else DDP dies)."""
    model = example_model(make, specs)
    batch = example_batch(model)
    _, gradients = step(model, batch, record(model, batch))
    for name, gradient in gradients.items():
        hold(gradient is not None and not zero(gradient), "gradients", f"no gradient reaches {name}")
        hold(bool(dense(gradient).isfinite().all()), "gradients", f"the gradient of {name} is not finite")
    for less, what in [(batch.drop(name), f"without {name!r}") for name in batch.names] + [
        (batch.observe(), "with nothing observed")
    ]:
        _, gradients = step(model, less, record(model, less))
        for name, gradient in gradients.items():
            hold(
                gradient is not None,
                "gradients",
                f"{what}, {name} gets None; expected zeros in training mode",
            )
            hold(
                bool(dense(gradient).isfinite().all()),
                "gradients",
                f"{what}, the gradient of {name} is not finite",
            )
    for name, net in model.modalities.items():
        less = batch.drop(name)
        _, gradients = step(model, less, record(model, less))
        for key in _moved_by_its_data(model, net):
            hold(
                zero(gradients[full_name(model, net, key)]),
                "gradients",
                f"without {name!r}, its network's {key} is moved",
            )


def _moved_by_its_data(model: MultimodalVAE, net: ModalityNet) -> list[str]:
    """Parameters that rows without this modality must leave alone; pseudo-inputs, and the encoder that sees them, stand for such rows."""
    keys = [key for key, _ in net.named_parameters(prefix="its")]
    imagined = ("its.encoder", "its.parts.pseudo") if model.facts.pseudo_inputs else ()
    return [key for key in keys if not key.startswith(imagined)]


def law_trains(make: Make, specs: Sequence[Modality]) -> None:
    """It trains two steps under random masks, embeds and generates: finite values of the right shapes."""
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
        for sample, again in itertools.product((False, True), {False, model.facts.density}):
            made.append((model.generate(batch, 3, sample=sample, resample=again), (3, batch.size)))
    width = model.shared or len(model.owner)
    right = embedded.shape == (batch.size, width) and bool(embedded.isfinite().all())
    hold(
        right,
        "trains",
        f"embed gives {tuple(embedded.shape)} or is not finite; expected {(batch.size, width)}",
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


def law_terms(make: Make, specs: Sequence[Modality]) -> None:
    """Where a bound names its likelihoods, KLs and subsets, they add up to it (to no more than it, where weights are averaged: Jensen)."""
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
                f"the terms add up to {total.tolist()}; the bound is {value.tolist()}",
            )
        else:
            hold(
                bool((value >= total - 1e-9).all()),
                "terms",
                f"the terms add up to {total.tolist()}, above the bound {value.tolist()}",
            )


def law_max_rows(make: Make, specs: Sequence[Modality]) -> None:
    """To decode in chunks changes neither bound nor gradient; no chunk is larger. (What is encoded again is decoded in one piece.)"""
    model = example_model(make, specs)
    sizes: dict[str, list[int]] = defaultdict(list)
    batch = example_batch(model)
    draws = record(model, batch)
    value, gradients = step(model, batch, draws)
    model.max_rows = 3
    for name, net in model.modalities.items():
        if net.decoder is not None:
            net.decoder.register_forward_pre_hook(partial(_note_rows, sizes[name]))
    again, others = step(model, batch, draws)
    for name, rows in sizes.items():
        whole = model.facts.again if model.modalities[name].spec.role == "both" else 0
        most = max(sorted(rows)[: len(rows) - whole], default=0)
        hold(
            most <= 3, "max_rows", f"with max_rows=3, {most} rows of modality {name!r} are decoded at a time"
        )
    hold(near(value, again, 1e-12), "max_rows", f"max_rows=3 changes the bound by {gap(value, again):.3g}")
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(others[name]), 1e-12),
            "max_rows",
            f"max_rows=3 changes the gradient of {name}",
        )


def _note_rows(sizes: list[int], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sizes.append(len(inputs[0]))


def law_complete(make: Make, specs: Sequence[Modality]) -> None:
    """Complete data by the fast road (nothing gathered) is complete data by the general one."""
    model = example_model(make, specs)
    with repeatable():
        batch = Batch.of(example_data(model, 4))
    draws = record(model, batch)
    (value, gradients), (again, others) = (
        step(model, batch, draws),
        step(model, batch._replace(complete=False), draws),
    )
    hold(near(value, again), "complete", f"the two roads for complete data differ by {gap(value, again):.3g}")
    for name, gradient in gradients.items():
        hold(
            near(dense(gradient), dense(others[name])),
            "complete",
            f"the two roads for complete data differ in the gradient of {name}",
        )


def law_precision(make: Make, specs: Sequence[Modality]) -> None:
    """float32 and float64 agree to single precision, whatever dtype the batch has."""
    model = example_model(make, specs)
    batch = example_batch(model)
    draws = record(model, batch)
    value, _ = step(model, batch, draws)
    single, _ = step(model.float(), batch, draws)
    hold(single.dtype == torch.float32, "precision", f"a float32 model answers in {single.dtype}")
    hold(
        near(value, single.double(), 1e-3),
        "precision",
        f"float32 and float64 differ by {gap(value, single.double()):.3g}",
    )


def law_options(make: Make, specs: Sequence[Modality]) -> None:
    """``options`` are the constructor's: built from them, the model is the same."""
    model = example_model(make, specs)
    again = type(model)(model.specs, **model.options)
    hold(
        again.options == model.options,
        "options",
        f"built from its options, {model.options}, the model has {again.options}",
    )
    hold(again.specs == list(specs), "options", "the model's specs are not those it was built from")
    here, there = ({name: tuple(p.shape) for name, p in each.named_parameters()} for each in (model, again))
    hold(here == there, "options", "built from its options, the model has other parameters")


def law_storage(make: Make, specs: Sequence[Modality]) -> None:
    """Save → load: the same bits, from a file that nothing is unpickled from."""
    model = example_model(make, specs).eval()
    batch = example_batch(model)
    draws = record(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if MODELS.get(model.name) is type(model):
            save_model(model, path)
            again = load_model(path)
        else:  # the laws also hold a class that stands in a notebook, and has no path yet
            save_bundle(
                path,
                model_name=model.name,
                config={"options": model.options},
                state=model.state_dict(),
                extra={},
            )
            again = make(specs).double().eval()
            again.load_state_dict(load_bundle(path).state)
    with torch.no_grad(), noise.feed(draws):
        before = model(batch).value
    with torch.no_grad(), noise.feed(draws):
        after = again(batch).value
    hold(torch.equal(before, after), "storage", f"loaded, the bound differs by {gap(before, after):.3g}")
    hold(
        again.options == model.options, "storage", f"saved with {model.options}, loaded with {again.options}"
    )


def law_toml(make: Make, specs: Sequence[Modality]) -> None:
    """Model → TOML → model: the same options and modalities."""
    model = example_model(make, specs)
    tables = [
        json.loads(json.dumps(describe_modality(spec))) for spec in model.specs
    ]  # TOML and JSON know lists, not tuples
    config = RunConfig.check({"model": {"name": model.name, **model.options}, "modality": tables})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(write_config(config))
        read = read_config(path)
    again = type(model)(
        [read_modality(table.model_dump(exclude_none=True)) for table in read.modality], **read.model.options
    )
    hold(again.options == model.options, "toml", f"written with {model.options}, read with {again.options}")
    found = [describe_modality(spec) for spec in again.specs]
    hold(found == tables, "toml", f"written with modalities {tables}, read with {found}")


LAWS: tuple[Callable[[Make, Sequence[Modality]], None], ...] = (
    law_options,
    law_noise,
    law_per_sample,
    law_missing,
    law_empty,
    law_posterior,
    law_entries,
    law_decodes,
    law_gradients,
    law_terms,
    law_nested,
    law_symmetric,
    law_complete,
    law_max_rows,
    law_precision,
    law_trains,
    law_storage,
    law_toml,
)

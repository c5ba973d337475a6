"""The laws that every model obeys, for the registry and for anybody's own model.

    from polyvae.testing import check_model
    check_model(MyModel, K=3)                    # a class, a name in MODELS, or any callable (modalities, **options) -> model

Each law is a function ``law_...(make, modalities)`` of a factory ``make(modalities) -> model`` and the modalities of a small world. It
raises AssertionError with one line that names the law. A model is exempt from a law only by its ``facts``. Everything is computed in
float64 on the CPU, on randomly perturbed parameters and systematically masked data; torch's global generator is left as it was.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyvae import noise
from polyvae.batch import Batch
from polyvae.modality import Modality
from polyvae.models import build
from polyvae.noise import Draw
from polyvae.vae import MultimodalVAE

Make = Callable[[Sequence[Modality]], MultimodalVAE]
Gradients = dict[str, Tensor | None]


def check_model(model: str | Callable[..., MultimodalVAE], *, modalities: Sequence[Modality] | None = None, **options: object) -> None:
    """Hold a model to all laws, in the worlds of ``modalities`` (default: two, the second with a source and a target).

    Raises AssertionError, whose one line names the law that does not hold.
    """
    def make(specs: Sequence[Modality]) -> MultimodalVAE:
        return build(model, specs, **options) if isinstance(model, str) else model(specs, **options)

    worlds = [tuple(modalities)] if modalities is not None else [uneven(make, plain_world()), uneven(make, roles_world())]
    for specs, law in itertools.product(worlds, LAWS):
        law(make, specs)


# ---- worlds ----------------------------------------------------------------------------------------------------------------------


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
    return a, replace(b, role="source"), replace(c, role="target"), d


def uneven(make: Make, specs: Sequence[Modality]) -> tuple[Modality, ...]:
    """Where the model has private codes, the first modality's is wider than the others', so that columns cannot be mistaken."""
    with _repeatable():
        wide = bool(len(make(specs).owner))
    return (replace(specs[0], private=3), *specs[1:]) if wide else tuple(specs)


def example_model(make: Make, specs: Sequence[Modality]) -> MultimodalVAE:
    """A model in training mode and float64, no parameter of which is at its starting point (r = p, for one, would hide mistakes)."""
    with _repeatable():
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
    mask = torch.cat([torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1, dtype=torch.bool), ~eye, eye], 1)
    with _repeatable():
        data = example_data(model, mask.shape[1])
        first = next(iter(data))
        gaps = {first: torch.rand(data[first].shape) < 0.7} if entries else {}
    return Batch.of(data, mask, gaps)


def example_data(model: MultimodalVAE, size: int) -> dict[str, Tensor]:
    """Values that the modalities' likelihoods could have given."""
    return {name: net.likelihood.sample(torch.randn(size, *net.likelihood.output, dtype=torch.float64)).detach()
            for name, net in model.modalities.items()}


# ---- what is missing -------------------------------------------------------------------------------------------------------------


def law_missing(make: Make, specs: Sequence[Modality]) -> None:
    """Whatever stands where nothing was observed: the same bits of bound and gradient; and no gradient for a network from rows it lacks."""
    model = example_model(make, specs)
    clean = example_batch(model)
    draws = _record(model, clean)
    value, gradients = _step(model, clean, draws)
    seen = {name: row.view(-1, *[1] * (x.ndim - 1)).expand_as(x) for row, (name, x) in zip(clean.mask, clean.data.items(), strict=True)}
    inside = {name: seen[name] & clean.entries.get(name, torch.tensor(True)) for name in seen}
    with _repeatable():
        noisy = {name: torch.where(inside[name], x, torch.randn_like(x)) for name, x in clean.data.items()}
        huge = {name: torch.where(seen[name], x, 1e200) for name, x in clean.data.items()}
    at_the_door = Batch.of({name: torch.where(inside[name], x, torch.nan) for name, x in clean.data.items()}, clean.mask, clean.entries)
    for what, batch in (("random values", clean._replace(data=noisy)), ("huge values", clean._replace(data=huge)), ("NaN", at_the_door)):
        again, others = _step(model, batch, draws)
        _hold(torch.equal(value, again), "missing", f"{what} under the mask change the bound by {_gap(value, again):.3g}")
        for name, gradient in gradients.items():
            _hold(_same(gradient, others[name]), "missing", f"{what} under the mask change the gradient of {name}")
    for row, (name, net) in zip(clean.mask, model.modalities.items(), strict=True):
        if model.facts.per_datum:
            _, gradients = _step(model, clean, draws, ~row)
            for key, _ in net.named_parameters(prefix="its"):
                _hold(_zero(gradients[_full(model, net, key)]), "missing", f"rows without {name!r} reach its network's {key}")


def law_nested(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.nested``: to drop a modality by mask is to have built the model without it."""
    big = example_model(make, specs)
    if not big.facts.nested:
        return
    for out in specs:
        rest = [spec for spec in specs if spec.name != out.name]
        if any(spec.role != "target" for spec in rest):
            _same_model("nested", f"without {out.name!r}", big, example_model(make, rest), out.name)


def law_symmetric(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.symmetric``: the order of the modalities, with their noise, changes nothing."""
    model = example_model(make, specs)
    if model.facts.symmetric:
        for order in (specs[::-1], (*specs[1:], specs[0])):
            _same_model("symmetric", f"in the order {[spec.name for spec in order]}", model, example_model(make, order))


def law_per_datum(make: Make, specs: Sequence[Modality]) -> None:
    """``facts.per_datum``: a batch of mixed masks equals its rows, one by one, bound and gradient."""
    model = example_model(make, specs)
    if not model.facts.per_datum:
        return
    batch = example_batch(model)
    draws = _record(model, batch)
    value, gradients = _step(model, batch, draws)
    total: Gradients = {}
    for row in range(batch.size):
        alone = {}
        for name, draw in draws.items():
            own = "B" in draw.axes and draw.value.shape[draw.axes.index("B")] == batch.size
            _hold(own, "per_datum", f"the draw {name!r} (axes {draw.axes!r}, shape {tuple(draw.value.shape)}) is shared by the batch")
            alone[name] = Draw(draw.axes, draw.value.narrow(draw.axes.index("B"), row, 1))
        each, some = _step(model, batch.rows(slice(row, row + 1)), alone)
        _hold(_near(value[row : row + 1], each), "per_datum", f"row {row} has {float(value[row])!r} in the batch and {float(each)!r} alone")
        total = {name: _plus(total.get(name), gradient) for name, gradient in some.items()}
    for name, gradient in gradients.items():
        _hold(_near(_dense(gradient), _dense(total[name])), "per_datum", f"the rows' gradients of {name} do not add up to the batch's")


def law_empty(make: Make, specs: Sequence[Modality]) -> None:
    """A row of which nothing was observed: bound exactly 0, no gradient, and the prior as answer."""
    model = example_model(make, specs)
    some = example_batch(model)
    for batch in (some, some.observe()):
        empty = ~batch.mask.any(0)
        value, gradients = _step(model, batch, _record(model, batch), empty)
        _hold(bool((value[empty] == 0).all()), "empty", f"the bound of nothing is {value[empty].tolist()}; expected exactly 0")
        for name, gradient in gradients.items():
            _hold(_zero(gradient), "empty", f"a row of which nothing was observed moves {name}")
        model.eval()
        with _repeatable(), torch.no_grad():
            embedded, drawn = model.embed(batch)[empty], model.draw(batch, 4)
            q_w = model.private(batch, model.experts(batch), drawn.z)
            expected = model.prior.z().log_prob(drawn.z[:, empty]) + q_w.log_prob(drawn.w)[:, empty]
        model.train()
        _hold(bool((embedded == 0).all()), "empty", "embed of nothing is not the prior's mean, 0")
        _hold(_near(drawn.log_q[:, empty], expected), "empty", "the latents of a row of which nothing was observed are not the prior's")


def law_entries(make: Make, specs: Sequence[Modality]) -> None:
    """An entry that was not observed is absent from the likelihood, and a modality without any entry counts nothing."""
    model = example_model(make, specs)
    with _repeatable():
        data = example_data(model, 5)
        gaps = {name: torch.rand(x.shape) < 0.5 for name, x in data.items()}
        z = torch.randn(2, 5, model.seen, dtype=torch.float64)
        w = torch.randn(2, 5, len(model.owner), dtype=torch.float64)
    for name in gaps:
        gaps[name][0] = False
    log_x = model.log_likelihood(Batch.of(data, None, gaps), z, w)
    for m, (name, net) in enumerate(model.modalities.items()):
        if net.decoder is None:
            _hold(bool((log_x[m] == 0).all()), "entries", f"the source {name!r} has a likelihood")
            continue
        observed = gaps[name] if net.spec.likelihood != "categorical" else gaps[name].all(-1, keepdim=True).expand_as(gaps[name])
        each = net.likelihood.entries(net.decode(model.code(m, z, w)), torch.where(observed, data[name], 0))
        by_hand = (each * observed).flatten(2).sum(-1)
        _hold(_near(log_x[m], by_hand), "entries", f"the likelihood of {name!r} is not the sum over its observed entries")


def law_posterior(make: Make, specs: Sequence[Modality]) -> None:
    """The joint posterior is a distribution over what was observed: weights sum to 1, nothing unobserved is included."""
    model = example_model(make, specs)
    batch = example_batch(model)
    with _repeatable():
        q = model.posterior(batch, model.experts(batch))
    sources = batch.mask[model.sources]
    _hold(bool((q.weights >= 0).all()), "posterior", "a view has a negative weight")
    total = q.weights.sum(0)
    _hold(_near(total, sources.any(0).double()), "posterior", f"weights sum to {total.tolist()}; expected 1, or 0 for nothing")
    _hold(not bool((q.include & ~sources).any()), "posterior", "a view includes an expert that was not observed")
    _hold(torch.equal(q.include.any(1), q.live), "posterior", "a view counts without a member, or has members and does not count")


# ---- how it computes -------------------------------------------------------------------------------------------------------------


def law_noise(make: Make, specs: Sequence[Modality]) -> None:
    """Every draw goes through ``polyvae.noise``: with prepared draws the generator has no influence; a step leaves its batch as it was."""
    model = example_model(make, specs)
    batch = example_batch(model)
    before = {name: x.clone() for name, x in batch.data.items()}
    draws = _record(model, batch)
    values = []
    for seed in (1, 2):
        with _repeatable(seed):
            values.append(_step(model, batch, draws)[0])
    _hold(torch.equal(*values), "noise", "the bound depends on draws that do not go through polyvae.noise")
    _hold(all(torch.equal(before[name], x) for name, x in batch.data.items()), "noise", "a step changes the batch it was given")


def law_decodes(make: Make, specs: Sequence[Modality]) -> None:
    """One encoder call and ``facts.decodes`` decoder calls per modality and step; none where the role says so."""
    model = example_model(make, specs)
    some = example_batch(model, entries=False)
    for batch in (some, some.rows(slice(0, 1))._replace(whole=True)):
        calls: dict[str, int] = defaultdict(int)
        handles = []
        for name, net in model.modalities.items():
            for kind, module in (("encoder", net.encoder), ("decoder", net.decoder)):
                if module is not None:
                    handles.append(module.register_forward_hook(partial(_count, calls, f"{kind} of {name!r}")))
        _record(model, batch)
        for handle in handles:
            handle.remove()
        for name, net in model.modalities.items():
            role = net.spec.role
            for kind, expected in (("encoder", int(role != "target")), ("decoder", model.facts.decodes * (role != "source"))):
                got = calls[f"{kind} of {name!r}"]
                _hold(got == expected, "decodes", f"{got} calls of the {kind} of {name!r} (role {role}) in one step; expected {expected}")


def law_gradients(make: Make, specs: Sequence[Modality]) -> None:
    """Gradients reach every parameter and are finite; in training, parameters without data get zeros, never None (else DDP dies)."""
    model = example_model(make, specs)
    batch = example_batch(model)
    _, gradients = _step(model, batch, _record(model, batch))
    for name, gradient in gradients.items():
        _hold(gradient is not None and not _zero(gradient), "gradients", f"no gradient reaches {name}")
        _hold(bool(_dense(gradient).isfinite().all()), "gradients", f"the gradient of {name} is not finite")
    for less, what in [(batch.drop(name), f"without {name!r}") for name in batch.names] + [(batch.observe(), "with nothing observed")]:
        _, gradients = _step(model, less, _record(model, less))
        for name, gradient in gradients.items():
            _hold(gradient is not None, "gradients", f"{what}, {name} gets None; expected zeros in training mode")
            _hold(bool(_dense(gradient).isfinite().all()), "gradients", f"{what}, the gradient of {name} is not finite")
    for name, net in model.modalities.items():
        less = batch.drop(name)
        _, gradients = _step(model, less, _record(model, less))
        for key, _ in net.named_parameters(prefix="its"):
            _hold(_zero(gradients[_full(model, net, key)]), "gradients", f"without {name!r}, its network's {key} is moved")


def law_trains(make: Make, specs: Sequence[Modality]) -> None:
    """It trains two steps under random masks, embeds and generates: finite values of the right shapes."""
    model = example_model(make, specs)
    batch = example_batch(model)
    draws = _record(model, batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    bounds = []
    for _ in range(2):
        value, _ = _step(model, batch, draws, sign=-1)
        optimiser.step()
        bounds.append(value)
    _hold(bool(value.isfinite().all()), "trains", f"the bound is {value.tolist()}; expected finite values")
    _hold(not torch.equal(*bounds), "trains", "a step of the optimiser does not change the bound")
    model.eval()
    with _repeatable():
        embedded = model.embed(batch)
        made: list[tuple[dict[str, Tensor], tuple[int, ...]]] = [(model.sample(4, sample=sample), (4,)) for sample in (False, True)]
        for sample, again in itertools.product((False, True), repeat=2):
            made.append((model.generate(batch, 3, sample=sample, resample=again), (3, batch.size)))
    width = model.seen or len(model.owner)
    right = embedded.shape == (batch.size, width) and bool(embedded.isfinite().all())
    _hold(right, "trains", f"embed gives {tuple(embedded.shape)} or is not finite; expected {(batch.size, width)}")
    decoded = {name: net.spec.shape for name, net in model.modalities.items() if net.decoder is not None}
    for out, lead in made:
        _hold(out.keys() == decoded.keys(), "trains", f"generated {list(out)}; expected {list(decoded)}")
        for name, shape in decoded.items():
            right = out[name].shape == (*lead, *shape) and bool(out[name].isfinite().all())
            _hold(right, "trains", f"generated {name!r} of shape {tuple(out[name].shape)}; expected finite values, {(*lead, *shape)}")


def law_terms(make: Make, specs: Sequence[Modality]) -> None:
    """Where a bound names its likelihoods, KLs and subsets, they add up to it (to no more than it, where weights are averaged: Jensen)."""
    model = example_model(make, specs)
    batch = example_batch(model)
    options = model.options
    for warm in (1.0, 0.4):
        with _repeatable(), torch.no_grad():
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
            _hold(_near(value, total), "terms", f"the terms add up to {total.tolist()}; the bound is {value.tolist()}")
        else:
            _hold(bool((value >= total - 1e-9).all()), "terms", f"the terms add up to {total.tolist()}, above the bound {value.tolist()}")


def law_max_rows(make: Make, specs: Sequence[Modality]) -> None:
    """To decode in chunks changes neither bound nor gradient."""
    model = example_model(make, specs)
    batch = example_batch(model)
    draws = _record(model, batch)
    value, gradients = _step(model, batch, draws)
    model.max_rows = 3
    again, others = _step(model, batch, draws)
    _hold(_near(value, again, 1e-12), "max_rows", f"max_rows=3 changes the bound by {_gap(value, again):.3g}")
    for name, gradient in gradients.items():
        _hold(_near(_dense(gradient), _dense(others[name]), 1e-12), "max_rows", f"max_rows=3 changes the gradient of {name}")


def law_whole(make: Make, specs: Sequence[Modality]) -> None:
    """Complete data by the fast road (nothing gathered) is complete data by the general one."""
    model = example_model(make, specs)
    with _repeatable():
        batch = Batch.of(example_data(model, 4))
    draws = _record(model, batch)
    (value, gradients), (again, others) = _step(model, batch, draws), _step(model, batch._replace(whole=False), draws)
    _hold(_near(value, again), "whole", f"the two roads for complete data differ by {_gap(value, again):.3g}")
    for name, gradient in gradients.items():
        _hold(_near(_dense(gradient), _dense(others[name])), "whole", f"the two roads for complete data differ in the gradient of {name}")


def law_precision(make: Make, specs: Sequence[Modality]) -> None:
    """float32 and float64 agree to single precision, whatever dtype the batch has."""
    model = example_model(make, specs)
    batch = example_batch(model)
    draws = _record(model, batch)
    value, _ = _step(model, batch, draws)
    single, _ = _step(model.float(), batch, draws)
    _hold(single.dtype == torch.float32, "precision", f"a float32 model answers in {single.dtype}")
    _hold(_near(value, single.double(), 1e-3), "precision", f"float32 and float64 differ by {_gap(value, single.double()):.3g}")


def law_options(make: Make, specs: Sequence[Modality]) -> None:
    """``options`` are the constructor's: built from them, the model is the same."""
    model = example_model(make, specs)
    again = type(model)(model.specs, **model.options)
    _hold(again.options == model.options, "options", f"built from its options, {model.options}, the model has {again.options}")
    _hold(again.specs == list(specs), "options", "the model's specs are not those it was built from")
    here, there = ({name: tuple(p.shape) for name, p in each.named_parameters()} for each in (model, again))
    _hold(here == there, "options", "built from its options, the model has other parameters")


# The laws of storage (save → load: the same bits) and of configuration (model → TOML → model) join this list with their rooms.
LAWS: tuple[Callable[[Make, Sequence[Modality]], None], ...] = (
    law_options, law_noise, law_per_datum, law_missing, law_empty, law_posterior, law_entries, law_decodes, law_gradients, law_terms,
    law_nested, law_symmetric, law_whole, law_max_rows, law_precision, law_trains,
)


# ---- one model's draws in another's terms ----------------------------------------------------------------------------------------


class _Map(NamedTuple):
    """Where the second model's modalities, sources and private columns stand in the first."""

    modalities: list[int]
    sources: list[int]
    columns: list[int]


def _map(first: MultimodalVAE, second: MultimodalVAE) -> _Map:
    names = list(first.modalities)
    modalities = [names.index(name) for name in second.modalities]
    columns = [c for m in modalities for c in range(first.columns[m].start, first.columns[m].stop)]
    return _Map(modalities, [first.sources.index(m) for m in modalities if m in first.sources], columns)


def _same_model(law: str, what: str, first: MultimodalVAE, second: MultimodalVAE, *dropped: str) -> None:
    """The second model, with the first one's parameters and draws, has the same bounds and gradients as the first without ``dropped``."""
    where = _map(first, second)
    _copy(first, second, where)
    batch = example_batch(first).drop(*dropped)
    other = Batch({name: batch.data[name] for name in second.modalities}, batch.mask[where.modalities],
                  {name: gaps for name, gaps in batch.entries.items() if name in second.modalities})
    draws = _record(first, batch)
    a, gradients = _step(first, batch, draws)
    asked = _record(second, other)
    for _ in range(2):                                  # once for the drawn subsets, and once for what is drawn in the views they make
        with noise.feed(_translate(draws, asked, where)) as asked:
            second(other)
    b, others = _step(second, other, asked)
    _hold(_near(a, b), law, f"{what}, the bound is {b.tolist()}; expected {a.tolist()}")
    for name, net in second.modalities.items():
        for key, parameter in net.named_parameters(prefix="its"):
            here = gradients[_full(first, first.modalities[name], key)]
            _hold(_near(_dense(here, parameter), _dense(others[_full(second, net, key)], parameter)), law,
                  f"{what}, the gradient of {name!r}'s {key} differs")


def _copy(first: MultimodalVAE, second: MultimodalVAE, where: _Map) -> None:
    """Parameters by the name of their modality; of those outside the modalities, axes of size W by column and of size M by modality."""
    for name, net in second.modalities.items():
        net.load_state_dict(first.modalities[name].state_dict())
    picks = {len(first.owner): where.columns, len(first.modalities): where.modalities}
    source = dict(first.named_parameters())
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if not name.startswith("modalities."):
                value = source[name].detach()
                for axis, size in enumerate(value.shape):
                    if size in picks and parameter.shape[axis] == len(picks[size]):
                        value = value.index_select(axis, torch.tensor(picks[size], dtype=torch.long))
                parameter.copy_(value)


def _translate(draws: Mapping[str, Draw], asked: Mapping[str, Draw], where: _Map) -> dict[str, Draw]:
    """The first model's draws as the second needs them: rows of M and columns of W by owner, views by the experts that made them."""
    out = {}
    for name, (axes, like) in asked.items():
        if name.startswith("views"):
            continue
        _hold(name in draws, "draws", f"one model draws {name!r}, the other does not")
        value = draws[name].value
        match = _match(_latest(draws, name), _latest(asked, name), where)
        if name.startswith("component"):
            assert match is not None
            value = _rechosen(value, match, _latest(draws, name)[1], _latest(asked, name)[1])
        for axis, letter in enumerate(axes):
            if letter == "W":
                value = value.index_select(axis, torch.tensor(where.columns, dtype=torch.long))
            elif letter == "M":
                picks = where.sources if like.shape[axis] == len(where.sources) else where.modalities
                value = value.index_select(axis, torch.tensor(picks))
            elif letter == "V" and match is not None and len(match) == like.shape[axis]:
                ends = (axis, axes.index("B"))
                value = value.movedim(ends, (0, 1))[match, torch.arange(match.shape[1])].movedim((0, 1), ends)
        out[name] = Draw(axes, value)
    return out


def _latest(draws: Mapping[str, Draw], name: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """What the axis V stood for when ``name`` was drawn: include [V, M, B] and weights [V, B]."""
    include = weights = None
    for key, draw in draws.items():
        if key == name:
            break
        if key.startswith("views.weights"):
            weights = draw.value
        elif key.startswith("views"):
            include = draw.value
    return (None, None) if include is None or weights is None else (include, weights)


def _match(
    first: tuple[Tensor, Tensor] | tuple[None, None], second: tuple[Tensor, Tensor] | tuple[None, None], where: _Map,
) -> Tensor | None:
    """[V', B]: which view of the first model has the experts that the second model's view has; equal ones in their order."""
    if first[0] is None or second[0] is None:
        return None
    power = 2 ** torch.arange(len(where.sources))
    here = (first[0][:, where.sources] * power[:, None]).sum(1).T.tolist()
    there = (second[0] * power[:, None]).sum(1).T.tolist()
    rows = []
    for old, new in zip(here, there, strict=True):
        places: dict[int, list[int]] = defaultdict(list)
        for v, members in enumerate(old):
            places[members].append(v)
        rows.append([places[members].pop(0) if places[members] else 0 for members in new])
    return torch.tensor(rows).T


def _rechosen(u: Tensor, match: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
    """The uniform numbers [K, B] with which the second model chooses the views that the first chose."""
    assert first is not None
    assert second is not None
    with noise.feed({"choice": Draw("KB", u)}):
        chosen = noise.choice(first, len(u), "choice", "KB")                                            # [K, B]
    place = (match[:, None] == chosen).double().mul(second[:, None] > 0).argmax(0)                      # [K, B]
    edges, columns = second.cumsum(0), torch.arange(match.shape[1])
    return (edges - second / 2)[place, columns] / edges[-1].clamp(min=1e-300)


# ---- small words -----------------------------------------------------------------------------------------------------------------


@contextmanager
def _repeatable(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _record(model: MultimodalVAE, batch: Batch) -> dict[str, Draw]:
    with _repeatable(), noise.record() as draws:
        model(batch)
    return dict(draws)


def _step(
    model: MultimodalVAE, batch: Batch, draws: Mapping[str, Draw], rows: Tensor | None = None, sign: int = 1,
) -> tuple[Tensor, Gradients]:
    """The bound [B] with these draws, and the gradient of its sum (over ``rows``)."""
    model.zero_grad(set_to_none=True)
    with noise.feed(draws):
        value = model(batch).value
    _hold(value.shape == (batch.size,), "shape", f"the bound has shape {tuple(value.shape)}; expected one value per datum, ({batch.size},)")
    (sign * (value if rows is None else value[rows]).sum()).backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}


def _count(calls: dict[str, int], key: str, *_: object) -> None:
    calls[key] += 1


def _full(model: MultimodalVAE, net: nn.Module, key: str) -> str:
    """The model's name of the parameter that its modality calls ``its.…``."""
    place: str = next(name for name, module in model.named_modules() if module is net)
    return place + key.removeprefix("its")


def _hold(condition: bool, law: str, message: str) -> None:
    if not condition:
        raise AssertionError(f"law {law!r}: {message}")


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _near(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + a.abs())).all())


def _zero(gradient: Tensor | None) -> bool:
    return gradient is None or bool((gradient == 0).all())


def _dense(gradient: Tensor | None, like: Tensor | None = None) -> Tensor:
    return (torch.zeros(()) if like is None else torch.zeros_like(like)) if gradient is None else gradient


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return (_zero(a) and _zero(b)) if a is None or b is None else torch.equal(a, b)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b

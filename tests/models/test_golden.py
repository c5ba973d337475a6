"""Golden numbers: the authors' public objectives and their gradients, recorded once in float64; sources and guards stand in golden/*.json.

Every input is written by a formula, so numbers are all that is kept: locations and scales of experts and priors (after the authors' own
maps), decoders, data, noise. Their objectives sum or average over the batch, with either sign; ``value`` is always the sum to maximise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from polyvae import Batch, Modality, build
from polyvae.core import noise
from polyvae.core.bounds import iwae, log_over_components, over_components
from polyvae.core.distributions import softplus_scale
from polyvae.core.vae import MultimodalVAE
from tests.helpers.golden import (
    DOUBLE,
    LIKELIHOODS,
    D,
    Decoder,
    Given,
    Leaves,
    W,
    by_position,
    close,
    likelihood_weight,
    networks,
    parameters,
    raw,
    read_cases,
    real_data,
    wave,
)

# ---- the formulas ----------------------------------------------------------------------------------------------------------------


def leaves(
    sizes: Sequence[int], B: int, private: int = 0, calls: Sequence[int] | None = None, latent: int = D
) -> Leaves:
    """What an objective depends on, by name. ``m.out`` [calls, size], zeros added to a decoder's output, has that output's gradient."""
    values = {"prior_scale": (0.4 * wave((latent,), 0.3)).exp(), **networks(sizes, B, latent, private)}
    for m, size in enumerate(sizes):
        if private:
            values[f"{m}.r_scale"] = (0.4 * wave((private,), 8.8 + m)).exp()
        if calls is not None:
            values[f"{m}.out"] = torch.zeros(*calls, size, dtype=DOUBLE)
    return parameters(values)


def binary_data(sizes: Sequence[int], B: int) -> list[Tensor]:
    return [(x > 0).to(DOUBLE) for x in real_data(sizes, B)]


def eps_z(*shape: int) -> Tensor:
    return wave(shape, 0.15)


def eps_w(*shape: int) -> Tensor:
    return wave(shape, 0.85)


def labels(B: int, classes: int) -> Tensor:
    return torch.arange(B) * 7 % classes


# ---- our models on these inputs --------------------------------------------------------------------------------------------------


def specs(
    of: Leaves,
    sizes: Sequence[int],
    private: int = 0,
    weights: Sequence[float] | None = None,
    likelihoods: Sequence[str] | None = None,
) -> list[Modality]:
    out = []
    for m, size in enumerate(sizes):
        name, scale = LIKELIHOODS[m % 2]
        params = {"scale": scale} if likelihoods is None else {}
        out.append(
            Modality(
                f"m{m}",
                (size,),
                name if likelihoods is None else likelihoods[m],
                private=private or None,
                params=params,
                weight=1.0 if weights is None else weights[m],
                encoder=partial(Given, of, m),
                decoder=partial(Decoder, of, m),
            )
        )
    return out


def batch_of(xs: Sequence[Tensor]) -> Batch:
    return Batch.of({f"m{m}": x for m, x in enumerate(xs)})


def mapped(model: MultimodalVAE, of: Leaves) -> dict[str, tuple[Tensor, slice]]:
    """Leaves that the model holds before a map of its own: name -> (parameter, columns)."""
    held = dict(model.named_parameters())
    out = {"prior_scale": (held["prior.raw_scale"], slice(None))} if "prior.raw_scale" in held else {}
    if "raw_r" in held:
        out |= {f"{m}.r_scale": (held["raw_r"], span) for m, span in enumerate(model.columns)}
    return out


def make(name: str, of: Leaves, modalities: Sequence[Modality], **options: object) -> MultimodalVAE:
    model = build(name, modalities, **{"latent": D, **options}).double()
    with torch.no_grad():
        for leaf, (parameter, columns) in mapped(model, of).items():
            parameter[columns] = raw(of[leaf])
    return model


def gradients(model: MultimodalVAE, of: Leaves, value: Tensor) -> Leaves:
    """∂value/∂leaf; zeros where there is none."""
    held = mapped(model, of)
    for parameter in [*of.values(), *model.parameters()]:
        parameter.grad = None
    value.backward(retain_graph=True)
    out = {}
    for name, leaf in of.items():
        parameter, columns = held.get(name, (leaf, slice(None)))
        grad = torch.zeros_like(leaf) if parameter.grad is None else parameter.grad[columns]
        if name in held:
            at = parameter.detach()[columns].requires_grad_()
            (slope,) = torch.autograd.grad(softplus_scale(at).sum(), at)
            grad = grad / slope
        out[name] = grad
    return out


# ---- the recorded numbers --------------------------------------------------------------------------------------------------------


def cases(name: str, result: str | None = None) -> pytest.MarkDecorator:
    """All cases of a file, or those with a result of that name."""
    of = [case for case in read_cases(name) if result is None or result in case["results"]]
    return pytest.mark.parametrize("case", of, ids=[case["name"] for case in of])


def same_gradients(ours: Leaves, result: Mapping, skip: Sequence[str] = ()) -> None:
    """All that was recorded is equal; what was not recorded was zero, but for what the case names as omitted."""
    theirs = result["gradients"]
    assert len(theirs) >= 4
    for name, grad in ours.items():
        kind = name.split(".")[-1]
        if kind in skip or name in result.get("omitted", ()):
            continue
        close(grad, theirs.get(name, torch.zeros_like(grad)), f"gradient of {name}")


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    return x.logsumexp(dim) - math.log(x.shape[dim])


# ---- mmvae+ ----------------------------------------------------------------------------------------------------------------------


class Plus:
    """An MMVAE+ case: 3 data, M modalities of 3 entries."""

    B, size = 3, 3

    def __init__(self, case: Mapping) -> None:
        self.case, self.M, self.K = case, case["M"], case["K"]
        sizes = [self.size] * self.M
        self.leaves = leaves(sizes, self.B, W, (self.K, self.M, self.B))
        self.batch = batch_of(real_data(sizes, self.B))
        self.noise = {"z": eps_z(self.K, self.M, self.B, D), "w": self.private_noise()}

    def private_noise(self) -> Tensor:
        """[K, V, B, M W]. Their MMVAE_f decodes n with one draw of w_n in every view; their 2023 evaluation draws one w for all n ≠ m."""
        own = eps_w(self.K, self.M, self.B, self.M, W)  # by view and owner
        if self.case["cross"] == "posterior-published":
            own = own[:, :1].expand_as(own)
        if self.case["shared_w"]:
            view = torch.arange(self.M)
            shared = own[..., :1, :].expand_as(own) + 0.1
            own = torch.where((view[:, None] == view)[None, :, None, :, None], own, shared)
        return own.flatten(-2)

    def model(self, **options: object) -> MultimodalVAE:
        weights = [likelihood_weight(m) for m in range(self.M)]
        of = (
            self.leaves
            if options.get("source_experts") != "random"
            else {k: v for k, v in self.leaves.items() if ".out" not in k}
        )
        return make(
            "mmvae+",
            self.leaves,
            specs(of, [self.size] * self.M, W, weights),
            beta=self.case["beta"],
            family=self.case["family"],
            cross=self.case["cross"],
            **options,
        )

    def value(self, objective: str) -> tuple[Tensor, Leaves]:
        """The bound [B], and the gradients of its sum."""
        model = self.model(objective=objective, K=self.K)
        with noise.feed(self.noise):
            value = model(self.batch).value
        return value, gradients(model, self.leaves, value.sum())

    @torch.no_grad()
    def log_weights(self) -> Tensor:
        """l^{mk}: [M, K, B], one expert and one sample at a time."""
        model = self.model(source_experts="random")
        rows = []
        for m in range(self.M):
            for k in range(self.K):
                draws = {name: draw[k : k + 1, m : m + 1] for name, draw in self.noise.items()}
                with noise.feed(draws | {"component": torch.full((1, self.B), (m + 0.5) / self.M)}):
                    rows.append(model(self.batch).value)
        return torch.stack(rows).view(self.M, self.K, self.B)


@cases("mmvaeplus")
def test_mmvaeplus(case):
    """Their "elbo" is our "iwae" (with K = 1 our "elbo", too); our "elbo" is the mean of their log-weights."""
    plus = Plus(case)
    log_weight = torch.tensor(case["log_weights"], dtype=DOUBLE).view(plus.M, plus.K, plus.B)
    close(plus.log_weights(), log_weight, "log-weights")
    for theirs, ours in [
        ("m_elbo", "iwae"),
        ("mean", "elbo"),
        *([("m_elbo", "elbo")] if plus.K == 1 else []),
    ]:
        if theirs in case["results"]:
            value, grads = plus.value(ours)
            close(
                value,
                log_mean_exp(log_weight, 1).mean(0) if ours == "iwae" else log_weight.mean((0, 1)),
                f"{ours}, per datum",
            )
            close(value.sum(), case["results"][theirs]["value"], ours)
            same_gradients(grads, case["results"][theirs])


@cases("mmvaeplus", "m_dreg")
def test_mmvaeplus_dreg_as_published_has_the_gradient_of_iwae(case):
    """Their hook sits on a tensor that is not in the loss, and their densities are not detached. What they log is Σ_k ŵ l, not the bound.

    Ours differs from it in the encoders alone.
    """
    plus, result = Plus(case), case["results"]["m_dreg"]
    log_weight = plus.log_weights()
    close((log_weight.softmax(1) * log_weight).sum(1).mean(0).sum(), result["value"], "what they log")
    same_gradients(plus.value("iwae")[1], result)
    same_gradients(plus.value("dreg")[1], result, ("z_loc", "z_scale", "w_loc", "w_scale"))


# ---- mmvae -----------------------------------------------------------------------------------------------------------------------


class Shared:
    """An MMVAE case: 3 data, M modalities of 3 entries, a learnt prior scale."""

    B, size = 3, 3

    def __init__(self, case: Mapping) -> None:
        self.case, self.M, self.K = case, case["M"], case["K"]
        sizes = [self.size] * self.M
        self.leaves = leaves(sizes, self.B, calls=(self.K, self.M, self.B))
        self.batch = batch_of(real_data(sizes, self.B))
        self.noise = {"z": eps_z(self.K, self.M, self.B, D)}

    def model(self, **options: object) -> MultimodalVAE:
        weights = [likelihood_weight(m) for m in range(self.M)]
        return make(
            "mmvae",
            self.leaves,
            specs(self.leaves, [self.size] * self.M, weights=weights),
            family=self.case["family"],
            learn_prior=True,
            K=self.K,
            **options,
        )

    def value(self, **options: object) -> tuple[Tensor, Leaves]:
        model = self.model(**options)
        with noise.feed(self.noise):
            value = model(self.batch).value
        return value, gradients(model, self.leaves, value.sum())


@cases("mmvae")
def test_mmvae(case):
    """Looser, tight, and the mean of their log-weights, which is our "elbo" (theirs is another objective)."""
    shared = Shared(case)
    log_weight = torch.tensor(case["log_weights"], dtype=DOUBLE).view(shared.M, shared.K, shared.B)
    for theirs, per_sample, options in [
        ("m_iwae_looser", log_mean_exp(log_weight, 1).mean(0), {"objective": "iwae"}),
        ("mean", log_weight.mean((0, 1)), {"objective": "elbo"}),
        ("m_iwae", log_mean_exp(log_weight.flatten(0, 1), 0), {"objective": "iwae", "tight": True}),
    ]:
        if theirs not in case["results"]:
            continue
        value, grads = shared.value(**options)
        close(value, per_sample, f"{theirs}, per datum")
        close(value.sum(), case["results"][theirs]["value"], theirs)
        same_gradients(grads, case["results"][theirs])


@cases("mmvae")
@pytest.mark.parametrize("tight", [False, True])
def test_mmvae_dreg_as_published_has_detached_densities_and_no_hook(case, tight):
    """So it is our pieces without a hook; ours differs in the encoders alone, and nowhere for one expert's only sample."""
    shared = Shared(case)
    result = case["results"]["m_dreg" if tight else "m_dreg_looser"]
    model = shared.model()
    q = model.posterior(shared.batch, model.experts(shared.batch))
    with noise.feed(shared.noise):
        z = q.stratified(shared.K)
    log_x = model.log_likelihood(shared.batch, z, z[..., :0])
    log_weight = model.weighted(log_x) + model.prior.z().log_prob(z) - q.detach().log_prob(z)  # [K, V, B]
    value = (log_over_components if tight else over_components)(q.weights, iwae(log_weight)).sum()
    same_gradients(gradients(model, shared.leaves, value), result)
    share = (
        log_weight.flatten(0, 1).softmax(0).view_as(log_weight) if tight else log_weight.softmax(0) / shared.M
    )
    close((share * log_weight).sum(), result["value"], "what they log")
    _, grads = shared.value(objective="dreg", tight=tight)
    same_gradients(grads, result, () if shared.K == 1 and not tight else ("z_loc", "z_scale"))


@cases("mmvae", "m_elbo_naive")
def test_mmvae_naive_elbo(case):
    """Theirs charges each expert's own KL, exact, in place of the mixture's: expected log-likelihoods less the mean KL of the experts."""
    shared = Shared(case)
    model = shared.model(beta=0.0)
    with noise.feed(shared.noise):
        log_x = model(shared.batch).value
    value = (log_x - model.experts(shared.batch).z.kl(model.prior.z()).mean(0)).sum()
    close(value, case["results"]["m_elbo_naive"]["value"], "naive elbo")
    same_gradients(gradients(model, shared.leaves, value), case["results"]["m_elbo_naive"])


# ---- mopoe -----------------------------------------------------------------------------------------------------------------------


@cases("mopoe")
def test_mopoe(case):
    """The prior among the experts of the full set; subsets by position; private codes; a modality that is missing."""
    M, B, seen, private = case["M"], case["B"], case["seen"], case["private"]
    sizes = [3] * M
    of = leaves(sizes, B, private)
    weights = [likelihood_weight(m) for m in range(M)]
    model = make(
        "mopoe",
        of,
        specs(of, sizes, private, weights),
        beta=case["beta"],
        prior_expert="full" if seen == M else "none",
    )
    batch = batch_of(real_data(sizes, B)).observe(*(f"m{m}" for m in range(seen)))
    views = 2**seen - 1  # the choice counts live views only, in order: the smallest subsets first
    draws = {
        "component": ((by_position(B, views) + 0.5) / views)[None],
        "z": eps_z(1, B, D),
        "w": eps_w(1, 1, B, M * private),
    }
    with noise.feed(draws):
        value = model(batch).value
    close(value.sum(), case["results"]["total_loss"]["value"], "bound")
    same_gradients(gradients(model, of, value.sum()), case["results"]["total_loss"])


# ---- mvae ------------------------------------------------------------------------------------------------------------------------


@cases("mvae")
def test_mvae(case):
    """One prior expert in every product; everything, each alone, and the recorded random subset."""
    sizes, B, kinds = case["sizes"], case["B"], case["likelihoods"]
    M = len(sizes)
    of = leaves(sizes, B)
    subsets = case["subsets"]
    model = make(
        "mvae", of, specs(of, sizes, weights=case["weights"], likelihoods=kinds), subsets=len(subsets)
    )
    xs = binary_data(sizes, B)
    xs = [
        functional.one_hot(labels(B, size), size).to(DOUBLE) if kind == "categorical" else x
        for x, size, kind in zip(xs, sizes, kinds, strict=True)
    ]
    draws = {"z": eps_z(1, 1 + M + len(subsets), B, D)}
    score = torch.full((len(subsets), M, B), 0.9, dtype=DOUBLE)
    size = torch.zeros((len(subsets), B), dtype=DOUBLE)
    for j, members in enumerate(subsets):
        score[j, members] = torch.arange(len(members), dtype=DOUBLE)[:, None] / 10
        size[j] = (len(members) - 0.5) / M
    with noise.feed(draws | {"subset": score, "subset.size": size}):
        value = model(batch_of(xs), case["annealing"]).value
    close(value.sum(), case["results"]["loss"]["value"], "bound")
    same_gradients(gradients(model, of, value.sum()), case["results"]["loss"])

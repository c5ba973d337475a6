"""Gradients of the objectives: which are the same, which are equal in expectation, and which are biased by how they are made."""

from __future__ import annotations

import pytest
import torch

from polyvae import Batch, build
from polyvae.core import noise
from polyvae.core.bounds import dreg, elbo, iwae
from polyvae.testing import default_worlds, example_batch, example_model
from polyvae.testing.worlds import record, step
from tests.helpers.cases import CASES
from tests.helpers.worlds import World


def test_the_mean_of_one_is_its_log_mean_exp():
    log_weight = torch.randn(1, 4, 5, dtype=torch.float64)
    assert torch.equal(iwae(log_weight), elbo(log_weight))


@pytest.mark.parametrize("name", ["mmvae", "mmvae+"])
def test_iwae_with_one_sample_is_the_elbo(name):
    world = World(private=int(name == "mmvae+"))
    batch = world.every_mask()
    results = []
    for objective in ("elbo", "iwae"):
        model = world.model(name, objective=objective)
        torch.manual_seed(3)
        value = model(batch).value
        value.sum().backward()
        results.append((value.detach(), [p.grad for p in model.parameters()]))
    (a, grads_a), (b, grads_b) = results
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for x, y in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


FIXED = {
    "jnf": "the joint posterior, for the flows",
    "meme": "the weights of samples",
    "mfm": "the joint posterior, for the surrogate",
    "nexus": "the codes, for what lies above them",
}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, options in CASES if options.get("objective") != "dreg"],
    ids=lambda case: case if isinstance(case, str) else "-".join(map(str, case.values())),
)
def test_the_gradient_is_the_values_slope(name, options):
    """Along a random direction in all parameters, by central differences.

    Where the paper holds something fixed they differ, which alone would allow any gradient: their formulas have tests of their own.
    """

    def make(specs):
        return build(name, specs, latent=2, **options)

    model = example_model(make, default_worlds(make)[-1])
    batch = example_batch(model)
    draws = record(model, batch)
    _, gradients = step(model, batch, draws)
    direction = {key: torch.randn(p.shape, dtype=p.dtype) for key, p in model.named_parameters()}
    slope = sum(float((gradients[key] * d).sum()) for key, d in direction.items())
    values = []
    with torch.no_grad():
        for size in (1e-6, -1e-6):
            for key, p in model.named_parameters():
                p += size * direction[key]
            with noise.feed(draws):
                values.append(float(model(batch).value.sum()))
            for key, p in model.named_parameters():
                p -= size * direction[key]
    found = (values[0] - values[1]) / 2e-6
    assert (found == pytest.approx(slope, rel=1e-5)) != (name in FIXED), f"{found!r} and {slope!r}"


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.5])
def test_the_multiplier_by_hand(beta):
    """∂/∂h_k = ((1 − β) ŵ_k + β ŵ_k²) f'(h_k); columns whose density is not in the weight keep ŵ_k f'; the value is iwae's."""
    hooked = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    partly = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    free = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    columns = torch.tensor([True, False])
    log_weight = -(hooked.square() + partly.square() + free.square()).sum(-1)  # [K, B], slope −2 h
    value = dreg(log_weight, {hooked: None, partly: columns}, beta)
    value.sum().backward()
    w = log_weight.detach().softmax(0)[..., None]
    scaled = ((1 - beta) * w + beta * w**2).expand(-1, -1, 2)
    torch.testing.assert_close(value, iwae(log_weight))
    torch.testing.assert_close(hooked.grad, -2 * hooked.detach() * scaled)
    torch.testing.assert_close(partly.grad, -2 * partly.detach() * torch.where(columns, scaled, w))
    torch.testing.assert_close(free.grad, -2 * free.detach() * w)


def test_the_multiplier_where_the_outer_bound_normalises_over_more():
    draws = torch.randn(3, 2, 4, 1, dtype=torch.float64, requires_grad=True)
    log_weight = -draws.square().sum(-1)  # [K, V, B]
    share = log_weight.detach().flatten(0, 1).softmax(0).view_as(log_weight)
    inner = dreg(log_weight, {draws: None}, 2.5, share)  # [V, B]
    inner.logsumexp(0).sum().backward()
    torch.testing.assert_close(draws.grad, -2 * draws.detach() * (share * (1 - 2.5 + 2.5 * share))[..., None])


def test_draws_without_a_gradient_are_left_alone():
    log_weight = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(dreg(log_weight, {torch.randn(3, 2, 1): None}, 1.0), iwae(log_weight))


def gradients_on_the_same_noise(world, name, batch, **options):
    """Value, and name -> gradient, of iwae and of dreg."""
    models = [world.model(name, objective=objective, **options) for objective in ("iwae", "dreg")]
    models[1].load_state_dict(models[0].state_dict())
    out = []
    with noise.record() as draws:
        models[0](batch)
    for model in models:
        if getattr(model, "raw_r", None) is not None:
            model.raw_r.data.copy_(torch.tensor([-0.6, 0.4, 0.8]))
        with noise.feed(draws):
            value = model(batch).value
        value.sum().backward()
        out.append((value.detach(), {key: p.grad for key, p in model.named_parameters()}))
    return out


@pytest.mark.parametrize(
    ("name", "options", "untouched"),
    [
        ("mmvae+", {}, ("decoder", "raw_r")),
        ("mmvae+", {"source_experts": "random"}, ("decoder", "raw_r")),
        ("mmvae+", {"corrected": True}, ("decoder",)),
        ("mmvae+", {"cross": "posterior"}, ("decoder",)),
        ("mmvae+", {"prior_components": 3}, ("decoder", "raw_r", "prior.loc", "prior.logits")),
        ("mmvae", {"learn_prior": True}, ("decoder", "prior.raw_scale")),
        ("mmvae", {"learn_prior": True, "tight": True}, ("decoder", "prior.raw_scale")),
        ("vae", {}, ("decoder",)),
    ],
)
def test_decoders_priors_and_r_keep_the_single_weight(name, options, untouched):
    """On the same noise, dreg has the value of iwae, and its gradient except for the encoders'."""
    world = World(private=1, latent=0) if name == "vae" else World(private=int(name == "mmvae+"))
    (a, first), (b, second) = gradients_on_the_same_noise(
        world, name, world.every_mask(), K=3, beta=2.5, **options
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for key in first:
        if any(part in key for part in untouched):
            torch.testing.assert_close(
                first[key], second[key], rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}"
            )
        elif "encoder" in key:
            assert not torch.allclose(first[key], second[key], rtol=1e-3), key


def encoder_gradients(model, batch, rounds):
    """[rounds, 3 encoders x 4 biases] gradients of the mean bound, each round on new draws."""
    out = []
    for _ in range(rounds):
        model.zero_grad()
        model(batch).value.mean().backward()
        parts = [net.encoder.bias.grad for net in model.modalities.values()]
        if getattr(model, "raw_r", None) is not None:
            parts.append(model.raw_r.grad)
        out.append(torch.cat(parts))
    return torch.stack(out)


OFF = {
    "a": (0.5, 0.4),
    "b": (-0.4, 0.5),
    "c": (0.4, -0.4),
}  # experts that are off have gradients worth comparing


NARROW = {"a": (0.0, -2.0)}  # one narrow expert inside another's wide one


def compare(world, name, batch, rounds, off=OFF, **options):
    """Difference of the mean gradients, dreg − iwae, in standard errors and in themselves; experts are ``off`` by (location, raw scale)."""
    results = []
    for objective in ("iwae", "dreg"):
        model = world.model(name, objective=objective, **options)
        for key, (loc, raw) in off.items():
            net = model.modalities[key]
            net.encoder.bias.data[0::2] += loc
            net.encoder.bias.data[1::2] += raw
        results.append(encoder_gradients(model, batch, rounds))
    a, b = results
    gap = b.mean(0) - a.mean(0)
    spread = ((a.var(0) + b.var(0)) / rounds).sqrt()
    return gap / spread.clamp(min=1e-12), gap, a.mean(0)


def copies(world, count, *names):
    x = world.data(1)
    return Batch.of({name: value.expand(count, -1) for name, value in x.items()}).observe(*names)


@pytest.mark.parametrize("beta", [1.0, 2.5])
@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "family"), [("mmvae+", "normal"), ("mmvae+", "laplace"), ("vae", "normal"), ("mmvae", "normal")]
)
def test_dreg_is_unbiased_for_one_expert(name, family, K, beta):
    world = World(private=1, latent=0) if name == "vae" else World(private=int(name == "mmvae+"))
    ratio, gap, exact = compare(world, name, copies(world, 1000, "a"), 30, K=K, beta=beta, family=family)
    assert (ratio.abs() < 5).all(), ratio
    assert exact.abs().max() > 0.02
    assert gap.abs().max() < 0.1


def private_part(world, vector):
    """The gradients of w's location and scale, and of r."""
    return torch.cat([vector[:12].view(3, 4)[:, 2:].flatten(), vector[12:]])


@pytest.mark.parametrize("corrected", [False, True])
def test_dreg_is_unbiased_for_private_codes_in_a_mixture(corrected):
    """The sampler of w_m is its density, so also with K > 1 and several experts; that of r_n, too, when its density is in the weight."""
    world = World(private=1)
    ratio, gap, _ = compare(
        world, "mmvae+", copies(world, 1000, "a", "b", "c"), 40, K=3, beta=2.5, corrected=corrected
    )
    assert (private_part(world, ratio).abs() < 5).all(), private_part(world, ratio)
    assert private_part(world, gap).abs().max() < 0.05


def test_dreg_is_unbiased_for_a_mixture_with_one_sample():
    world = World()
    for off in (OFF, NARROW):
        ratio, _, _ = compare(world, "mmvae", copies(world, 1000, "a", "c"), 40, off, K=1, family="normal")
        assert (ratio.abs() < 5).all(), ratio


@pytest.mark.parametrize(("K", "tight"), [(3, False), (1, True)])
def test_dreg_is_biased_for_stratified_mixtures(K, tight):
    """Documented, not wished for: the density in the weight is the mixture's, the sampler is one expert (K > 1; tight already at K = 1)."""
    world = World(experts="exact")
    ratio, gap, _ = compare(
        world, "mmvae", copies(world, 1000, "a", "c"), 60, NARROW, K=K, tight=tight, family="normal"
    )
    assert ratio.abs().max() > 8, ratio
    assert gap.abs().max() < 0.1


def relative_bias(world, name, count, off, **options):
    """The norm of the mean difference of the gradients, dreg − iwae, over that of iwae's; its standard error; both on the same draws."""
    found = []
    for objective in ("iwae", "dreg"):
        model = world.model(name, objective=objective, **options)
        for key, (loc, raw) in off.items():
            net = model.modalities[key]
            net.encoder.bias.data[0::2] += loc
            net.encoder.bias.data[1::2] += raw
        torch.manual_seed(1)
        found.append(encoder_gradients(model, copies(world, count, *world.names), 10))
    exact, gaps = found[0].mean(0), found[1] - found[0]
    error = (gaps.var(0).sum() / len(gaps)).sqrt()
    return float(gaps.mean(0).norm() / exact.norm()), float(error / exact.norm())


@pytest.mark.parametrize(
    ("name", "K", "off", "bias"),
    [
        ("mmvae", 1, {}, 0.0),
        ("mmvae", 5, {}, 0.32),
        pytest.param("mmvae+", 10, OFF, 0.10, marks=pytest.mark.slow),
        pytest.param("mmvae", 20, {}, 0.88, marks=pytest.mark.slow),
    ],
)
def test_the_bias_of_dreg_is_the_one_that_is_documented(name, K, off, bias):
    """Of all three experts observed, as a share of the norm of the gradient of the encoders: it grows with K."""
    world = World(private=int(name == "mmvae+"))
    family = {} if name == "mmvae+" else {"family": "normal"}
    found, error = relative_bias(world, name, 5000, off, K=K, **family)
    assert error < 0.04
    assert abs(found - bias) < 0.01 + 3 * error


def test_tight_reweights_experts_by_their_weights():
    """The exact gradient of log mean exp over experts and samples: Σ ŵ ∇l, with ŵ normalised over both."""
    world = World()
    batch = copies(world, 1, "a", "b", "c")
    for objective in ("iwae", "dreg"):
        model = world.model("mmvae", objective=objective, K=3, tight=True, family="normal")
        with noise.record() as draws:
            value = model(batch).value
        value.sum().backward()
        z = model.modalities["a"].decoder.bias.grad
        with torch.no_grad():
            q = model.posterior(batch, model.experts(batch))
            points = q.components.loc + q.components.scale * draws["z"].value  # [K, V, 1, 1]
            log_x = model.log_likelihood(batch, points, points[..., :0])
            log_weight = (log_x.sum(0) + model.prior.z().log_prob(points) - q.log_prob(points))[..., 0]
            share = log_weight.flatten().softmax(0)
            mean = model.modalities["a"].mean(points).reshape(-1, 2)
            expected = (share[:, None] * (batch.data["a"] - mean) / world.s[0] ** 2).sum(0)
        torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-12)

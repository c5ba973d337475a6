"""JNF: the formula, products of flows in closed form, and exact draws of single flows."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyvae import Batch, InputError, Modality, Normal, build
from polyvae.core import noise
from polyvae.core.aggregate import Experts
from polyvae.models.parts.hmc import hmc
from polyvae.testing import example_batch, example_model, plain_world
from polyvae.testing.worlds import record, step
from tests.helpers.golden import D, eps, recorded, wave
from tests.helpers.golden_joint import hold, with_joint
from tests.helpers.hand import NONE, WORLDS, Hand, decodes, kl_normal
from tests.helpers.worlds import small

DOUBLE = torch.float64


class Bent(nn.Module):
    """A flow of two columns by formula, which theirs was recorded with: z + bend tanh(z), and a shear of the second column."""

    def __init__(self, of: dict[str, Tensor], m: int) -> None:
        super().__init__()
        self.bend, self.shear = of[f"{m}.bend"], of[f"{m}.shear"]

    def forward(self, context: Tensor | None) -> Bent:
        return self

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        t = z.tanh()
        u = z + self.bend * t
        out = torch.stack([u[..., 0], u[..., 1] + self.shear[0] * u[..., 0]], -1)
        return out, (1 + self.bend * (1 - t * t)).log().sum(-1)


@recorded("jnf")
def test_jnf_is_the_authors(case):
    model, of = with_joint("jnf", case, hidden=(4,), conditional=False)
    for m, net in enumerate(model.modalities.values()):
        of[f"{m}.bend"] = nn.Parameter(0.4 * wave((D,), 8.1 + m))
        of[f"{m}.shear"] = nn.Parameter(wave((1,), 8.6 + m))
        net.parts["flow"].transform = Bent(of, m)
    hold(model, case, of, {"z": eps(0.15, case["B"], D)[None, None]})


@torch.no_grad()
def joint_of_observed(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """The joint network, from the features of what was observed."""
    total = 0
    for m in hand.S:
        name = hand.names[m]
        x = hand.batch.data[name][hand.b : hand.b + 1]
        if name in hand.batch.entries:
            x = x * hand.batch.entries[name][hand.b : hand.b + 1]
        total = total + hand.model.modalities[name].parts["joint"](x)[0]
    hidden = total.clamp(min=0)
    scale = hand.model.modalities[hand.names[0]].scale
    return hand.model.joint.loc(hidden).numpy(), scale(hand.model.joint.raw(hidden)).numpy()


def log_flow(hand: Hand, m: int, z: np.ndarray) -> float:
    """log q_m(z | x_m): the expert's density at f(z), and the determinant of the Jacobian matrix of f as a whole."""
    flow, (loc, scale) = hand.model.modalities[hand.names[m]].parts["flow"], hand.z[m]
    context = torch.from_numpy(np.concatenate([loc, np.log(scale)])) if flow.conditional else None
    f = flow.transform(context)
    jacobian = torch.autograd.functional.jacobian(f, torch.from_numpy(z))
    with torch.no_grad():
        return hand.log(f(torch.from_numpy(z)).numpy(), loc, scale) + float(jacobian.slogdet()[1])


@pytest.mark.parametrize(("world", "conditional"), list(zip(WORLDS, (True, False), strict=True)))
def test_jnf(world, conditional):
    hand = Hand(world, "jnf", K=2, beta=1.5, joint_width=5, hidden=(4,), conditional=conditional)

    def value() -> float:
        q = joint_of_observed(hand)
        total = -hand.beta * kl_normal(*q)
        for k in range(2):
            z = q[0] + q[1] * hand.draws["z"][k, 0, hand.b]
            total += sum(hand.log_x(n, z, NONE) for n in filter(partial(decodes, hand), hand.A)) / 2
            total -= sum(hand.log(z, *q) - log_flow(hand, m, z) for m in hand.S) / 2
        return total

    hand.check(value)


def test_the_flows_do_not_move_the_joint_encoder_and_the_decoders():
    """Their gradients are those of the ELBO, and experts and flows have none of it."""
    model = example_model(lambda specs: build("jnf", specs, latent=2, hidden=(4,)), plain_world())
    batch = example_batch(model)
    draws = record(model, batch)
    _, whole = step(model, batch, draws)
    for net in model.modalities.values():
        for module in (net.encoder, net.parts["flow"]):
            module.requires_grad_(False)
    _, rest = step(model, batch, draws)
    for name, gradient in rest.items():
        fitted = ".encoder." in name or ".flow." in name
        assert (gradient is None) == fitted, name
        if not fitted:
            torch.testing.assert_close(gradient, whole[name], rtol=1e-12, atol=1e-12)


# ---- products of flows in closed form ------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    """Flows that are linear in z, so each q_m is a correlated normal distribution; subsets of 1, 2 and 3 of 4 modalities."""
    torch.manual_seed(4)
    model = build("jnf", small(4), latent=2, hidden=(), steps=20, leapfrog=4).double()
    for net in model.modalities.values():
        for name, weight in net.parts["flow"].named_parameters():
            weight.data = 0.4 * torch.randn_like(weight)
            if name.endswith("weight"):
                weight.data[1::2] = 0.0  # what scales a column is constant
    mask = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    z = Normal(torch.randn(4, 3, 2, dtype=DOUBLE), 0.6 + 0.3 * torch.rand(4, 3, 2, dtype=DOUBLE))
    z = z.where(mask[..., None], Normal.unit((4, 3, 2), z.loc))
    experts = Experts(z, Normal.unit((3, 0), z.loc), mask)
    batch = Batch.of({f"m{m}": torch.zeros(3, 2, dtype=DOUBLE) for m in range(4)}, mask)
    return model, batch, experts


def closed_form(model, experts: Experts, b: int, divided: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z)^{−divided} Π_m q_m(z | x_m)."""
    precision, pull = -divided * np.eye(2), np.zeros(2)
    for e, net in enumerate(model.modalities.values()):
        if experts.mask[e, b]:
            expert = experts.z[e, b]
            f = net.parts["flow"].transform(torch.cat([expert.loc, expert.scale.log()]))
            zero = torch.zeros(2, dtype=DOUBLE)
            A = torch.autograd.functional.jacobian(f, zero).numpy()  # f(z) = A z + c
            each = A.T @ np.diag(expert.scale.numpy() ** -2) @ A
            precision = precision + each
            pull = pull + each @ np.linalg.solve(A, expert.loc.numpy() - f(zero).detach().numpy())
    covariance = np.linalg.inv(precision)
    return covariance @ pull, covariance


def distance(z: Tensor, mean: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """The largest error of the mean and of the covariance, in standard errors of independent draws."""
    draws, K = z.numpy(), len(z)
    spread = np.sqrt(np.diag(covariance))
    of_mean = np.abs(draws.mean(0) - mean) / (spread / np.sqrt(K))
    error = np.sqrt((covariance**2 + np.outer(spread, spread) ** 2) / K)
    return float(of_mean.max()), float((np.abs(np.cov(draws.T) - covariance) / error).max())


def test_the_posterior_of_a_subset_is_the_closed_form(linear):
    model, batch, experts = linear
    torch.manual_seed(0)
    z, log_q = model.draw_shared(batch, experts, 2000)
    for b, size in enumerate((1, 2, 3)):
        mean, covariance = closed_form(model, experts, b, size - 1)
        assert (np.linalg.eigvalsh(covariance) > 0).all()
        correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert abs(correlation) > 0.05  # a diagonal approximation would be wrong
        assert max(distance(z[:, b].detach(), mean, covariance)) < 5, size
    assert log_q[:, 0].isfinite().all()
    assert log_q[:, 1:].isnan().all()
    once = closed_form(model, experts, 2, 1)  # the public code divides by the prior once
    assert max(distance(z[:, 2].detach(), *once)) > 10


def test_the_log_density_of_a_product_is_the_closed_form_up_to_a_constant(linear):
    model, _, experts = linear
    z = torch.randn(6, 3, 2, dtype=DOUBLE)
    with torch.no_grad():
        found = model.log_product(z, experts).numpy()
    for b, size in enumerate((1, 2, 3)):
        mean, covariance = closed_form(model, experts, b, size - 1)
        gap = z[:, b].numpy() - mean
        expected = -0.5 * np.einsum("ki,ij,kj->k", gap, np.linalg.inv(covariance), gap)
        assert found[:, b] - found[0, b] == pytest.approx(expected - expected[0], abs=1e-9)


def test_the_normal_approximation_has_the_moments_of_a_single_flow(linear):
    """With linear flows the mean is exact; the variances are those of 32 fixed points."""
    model, batch, experts = linear
    q = model.posterior(batch, experts)
    mean, covariance = closed_form(model, experts, 0, 0)
    assert q.mean[0].detach().numpy() == pytest.approx(mean, abs=1e-9)
    assert q.components.scale[0, 0].detach().numpy() == pytest.approx(np.sqrt(np.diag(covariance)), rel=0.1)


def test_draws_of_one_modality_are_those_of_its_flow(linear):
    """f(z) is the expert's draw, and log_q the density of the flow."""
    model, batch, experts = linear
    with torch.no_grad(), noise.record() as draws:
        z, log_q = model.draw_shared(
            batch.rows(slice(0, 1)),
            Experts(experts.z[:, :1], experts.w[:1], experts.mask[:, :1]),
            5,
        )
    flow, expert = model.modalities["m0"].parts["flow"], experts.z[0, :1]
    assert list(draws) == ["z"]
    with torch.no_grad():
        base = flow.transform(flow._context(expert))(z)
        torch.testing.assert_close(base, expert.loc + expert.scale * draws["z"].value)
        torch.testing.assert_close(log_q, flow.log_prob(z, expert))


def test_all_modalities_have_the_draws_of_the_joint_encoder():
    model = build("jnf", small(3), latent=2).double()
    batch = Batch.of({f"m{m}": torch.randn(4, 2, dtype=DOUBLE) for m in range(3)})
    with torch.no_grad(), noise.record() as draws:
        found = model.draw(batch, 3)
    q = model.posterior(batch, model.experts(batch)).components[0]
    torch.testing.assert_close(found.z, (q.loc + q.scale * draws["z"].value).detach())
    torch.testing.assert_close(found.log_q, q.log_prob(found.z).detach())


def test_draws_do_not_depend_on_the_other_samples(linear):
    """The chain of a sample, and its step size, depend on that sample alone."""
    model, batch, experts = linear
    with noise.record() as draws:
        z, _ = model.draw_shared(batch, experts, 2)
    alone = {
        name: draw.value.narrow(draw.axes.index("B"), -1, 1) for name, draw in draws.items()
    }  # chains exist for the last two samples only
    last = Experts(experts.z[:, 2:], experts.w[2:], experts.mask[:, 2:])
    with noise.feed(alone):
        again, _ = model.draw_shared(batch.rows(slice(2, 3)), last, 2)
    torch.testing.assert_close(again[:, 0], z[:, 2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_chains_compute_gradients_where_the_caller_has_none(linear, mode):
    model, batch, _ = linear
    with mode():
        found = model.generate(batch.rows(slice(1, 3)), 2)
    assert all(x.isfinite().all() for x in found.values())


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_chains_adapt_their_steps(scale):
    """Also where the first step size is far too large; starts are far off."""
    torch.manual_seed(1)
    target = Normal(torch.full((2,), 0.5, dtype=DOUBLE), torch.full((2,), scale, dtype=DOUBLE))
    u = hmc(target.log_prob, 0.5 + torch.zeros(500, 2, 2, dtype=DOUBLE), steps=60, leapfrog=5)
    assert u.mean((0, 1)).numpy() == pytest.approx(0.5, abs=5 * scale / 1000**0.5)
    assert (u.std((0, 1)) / scale).numpy() == pytest.approx(1, abs=5 / 2000**0.5)


def test_proposals_of_no_finite_energy_are_rejected():
    half = torch.full((3, 1, 1), 0.5, dtype=DOUBLE)
    u = hmc(lambda u: torch.where(u > 0, -u.square() / 2, torch.nan).sum(-1), half, steps=20, leapfrog=3)
    assert (u > 0).all()


# ---- what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "jnf: got steps=0; expected"),
        ({"hidden": (4, 0)}, "jnf: got hidden=0; expected"),
        ({"hidden": (2000,)}, "jnf: got hidden=2000; expected at most 1024"),
        ({"latent": 2000}, "jnf: got latent=2000; expected at most 1024"),
        ({"conditional": "no"}, "jnf: got conditional='no'; expected True or False"),
    ],
)
def test_a_jnf_that_cannot_be(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        build("jnf", small(2), **options)


def test_without_zuko_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(InputError, match=r"^jnf: [^\n]*pip install 'polyvae\[flow\]'$"):
        build("jnf", [Modality("x", (2,))], latent=2)

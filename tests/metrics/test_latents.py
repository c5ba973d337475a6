"""Probes, active units and the KL of each column, against scikit-learn and against worlds where they are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression, Ridge

from polyvae import InputError, MultimodalData, evaluate
from polyvae.data.sets.polydigits import _TRAIN, NAMES, backgrounds, base_digits, brightness, pair, polydigits
from polyvae.metrics.context import Context
from polyvae.metrics.latents import Usage, encode, latents, probe, usage
from tests.helpers.probed import COUNT, reader, told
from tests.helpers.worlds import GRID, World

# ---- factors that data carry -----------------------------------------------------------------------------------------------------


def test_factors_stay_with_their_rows():
    count = 20
    x = torch.arange(count, dtype=torch.float32)[:, None]
    data = MultimodalData(
        {"a": x, "b": x},
        factors={"b": {"site": range(count), "age": x[:, 0] / 2}},
        splits={"train": range(5, count), "test": range(5)},
    )
    for part in (
        data,
        data.train,
        data.test,
        data.train.rows([3, 1]),
        data.hide(0.5),
        data.split(seed=1).test,
        data.observe("a"),
    ):
        assert part.factors.keys() == {"b"}
        assert torch.equal(part.factors["b"]["site"], part.factors["b"]["age"].mul(2).long())
        assert len(part.factors["b"]["site"]) == len(part)
    assert torch.equal(
        data.train.rows([3, 1]).factors["b"]["site"], data.train.rows([3, 1]).values("b")[:, 0].long()
    )


def test_a_factor_does_not_change_the_digest():
    x = torch.ones(4, 1)
    assert (
        MultimodalData({"a": x}, factors={"a": {"site": [0, 1, 0, 1]}}).digest()
        == MultimodalData({"a": x}).digest()
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"aa": {"site": [0] * 4}}, "factors: modality 'aa' is not in the data"),
        ({"a": {"site": [0] * 3}}, r"factor 'site' of modality 'a': got shape \(3,\); expected \(4,\)"),
        ({"a": {"site": list("abcd")}}, "factor 'site' of modality 'a': got <U1; expected integers"),
        (
            {"a": {"age": [0.0, np.nan, 1.0, np.inf]}},
            "factor 'age' of modality 'a': got 2 values that are NaN or infinite",
        ),
    ],
)
def test_factors_that_cannot_be_are_refused(factors, message):
    with pytest.raises(InputError, match=message):
        MultimodalData({"a": torch.ones(4, 1)}, factors=factors)


def test_brightness_is_the_mean_of_the_crop():
    pairing = pair(base_digits().train, 300, 0, _TRAIN)
    found = brightness(pairing)
    for name, crop in backgrounds(pairing).items():
        assert found[name] == pytest.approx(crop.reshape(300, -1).mean(1) / 255, abs=1e-12)
    data = polydigits(train=300, test=10)
    assert {name: list(own) for name, own in data.factors.items()} == {name: ["brightness"] for name in NAMES}
    assert data.train.factors["m3"]["brightness"].numpy() == pytest.approx(found["m3"])


# ---- probes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["samples", "means"])
def test_leakage_is_seen_both_ways(on):
    data = told()
    right = latents(Context.of(reader(), data.test, train=data.train), on=on)
    wrong = latents(Context.of(reader(swapped=True), data.test, train=data.train), on=on)
    for result, full, empty in ((right, "z", "w"), (wrong, "w", "z")):
        assert result[f"probe_{full}_shared"] == 1
        assert result[f"probe_{empty}_private"] == 1  # site: ten apart, age moves it by one half
        for whose, score in (
            ("shared", result[f"probe_{empty}_shared"]),
            ("private", result[f"probe_{full}_private"]),
        ):
            chance = result[f"probe_{whose}_chance"]
            assert abs(score - chance) <= 5 * np.sqrt(chance * (1 - chance) / 200)
        assert result[f"probe_{full}_private_r2"] < 0.02
        assert result[f"probe_{empty}_private_r2"] < 0.2  # the site's ten drown it, for a linear reader
    assert right["probe_z_shared_joint"] == 1
    assert right["probed"] == f"posterior {on}"
    assert set(right["probes"]["z"]) == {"a", "b", "a,b"}
    assert set(right["probes"]["z"]["a,b"]) == {"label", "a/site", "a/age", "b/site", "b/age"}
    assert set(right["probes"]["w"]["b"]) == {"label", "b/site", "b/age"}


def test_a_probe_is_scikit_learns():
    """On means, which nothing is drawn for: fitted by hand from ``embed``."""
    data = told()
    model = World(private=1).model("mmvae+").eval()  # a [2], b [1], c [2]: only a is here
    part = MultimodalData(
        {"a": data.values("a")},
        labels=data.labels,
        factors={"a": data.factors["a"]},
        splits={"train": range(400), "test": range(400, COUNT)},
    )
    result = latents(Context.of(model, part.test, train=part.train), on="means")
    fit, judge = (
        model.embed(piece.take(slice(None)), private=True).numpy()[:, :2] for piece in (part.train, part.test)
    )
    age = [piece.factors["a"]["age"].numpy() for piece in (part.train, part.test)]
    for code, column in (("z", [0]), ("w", [1])):
        line = result["probes"][code]["a"]
        classes = LogisticRegression(max_iter=1000).fit(fit[:, column], part.train.labels)
        assert line["label"]["score"] == classes.score(judge[:, column], part.test.labels)
        assert line["a/age"]["score"] == pytest.approx(
            Ridge().fit(fit[:, column], age[0]).score(judge[:, column], age[1]), abs=1e-12
        )
        top = np.bincount(part.train.labels).argmax()
        assert line["label"]["chance"] == float((part.test.labels == top).double().mean())
    assert result["probe_z_shared"] == result["probes"]["z"]["a"]["label"]["score"]


def test_a_probe_of_nothing_is_none():
    x = np.zeros((5, 1))
    assert probe(x, np.zeros(5, int), x, np.zeros(5, int)) is None  # one class
    assert probe(x[:, :0], np.arange(5), x[:, :0], np.arange(5)) is None  # no column


def test_samples_have_the_posteriors_moments_and_repeat():
    model, data = reader(), told()
    first, again, other = (encode(model, data.test, ("a",), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.z, other.z)
    x = data.test.values("a")
    assert float((first.z[:, 0] - x[:, 0]).std()) == pytest.approx(0.01, rel=0.25)
    assert float((first.w[:, 0] - x[:, 1]).std()) == pytest.approx(0.01, rel=0.25)


def test_only_samples_that_have_it_are_probed():
    data = told()
    mask = torch.ones(2, COUNT, dtype=torch.bool)
    mask[0, ::2] = False
    mask[1, 1::4] = False
    gappy = MultimodalData(
        {name: data.values(name) for name in "ab"},
        mask=mask,
        labels=data.labels,
        factors=data.factors,
        splits={"train": range(400), "test": range(400, COUNT)},
    )
    result = latents(Context.of(reader(), gappy.test, train=gappy.train))
    assert {key: line["label"]["rows"] for key, line in result["probes"]["z"].items()} == {
        "a": 100,
        "b": 150,
        "a,b": 200,
    }
    assert result["probes"]["z"]["a,b"]["a/site"]["rows"] == 100
    assert result["probe_z_shared"] == 1
    assert result["probe_w_private"] == 1


def test_what_does_not_exist_is_left_out():
    data = told()
    bare = MultimodalData(
        {name: data.values(name) for name in "ab"}, splits={"train": range(400), "test": range(400, COUNT)}
    )
    assert not any(
        key.startswith("probe") for key in latents(Context.of(reader(), bare.test, train=bare.train))
    )
    assert not any(key.startswith("probe") for key in latents(Context.of(reader(), data.test)))
    alone = latents(
        Context.of(World(latent=0, private=1).model("vae").eval(), MultimodalData(World().data(50)))
    )
    assert set(alone) == {"active_units_w", "kl_w", "units"}
    assert set(alone["units"]) == {"w"}
    shared = latents(
        Context.of(World().model("mmvae", family="normal").eval(), MultimodalData(World().data(50)))
    )
    assert set(shared) == {"active_units_z", "kl_z", "units"}
    with pytest.raises(InputError, match="on='mean'; expected 'samples' or 'means'"):
        latents(Context.of(reader(), data.test), on="mean")


def test_evaluate_hands_on_the_training_part():
    data = told()
    assert evaluate(reader(), data, metrics=["latents"], show=False)["probe_z_shared"] == 1
    assert evaluate(reader(), data.test, metrics=["latents"], show=False)["probe_z_shared"] == 1
    assert "probe_z_shared" not in evaluate(
        reader(), data.rows(range(COUNT)), metrics=["latents"], show=False
    )


# ---- units -----------------------------------------------------------------------------------------------------------------------


def kl_normal(loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """KL of a normal against the standard one, in nats."""
    return 0.5 * (scale**2 + loc**2 - 1) - np.log(scale)


def test_one_expert_has_the_exact_units_and_divergence():
    world = World(private=1, latent=2, experts="exact")
    x = world.data(300)
    z, w = usage(world.model("mmvae+").eval(), MultimodalData(x), ("b",), batch_size=64)
    gain_z, scale_z, gain_w, scale_w = world.posterior(1)
    rest = x["b"].numpy() - world.b[1]
    for found, gain, scale in ((z, gain_z, scale_z), (w["b"], gain_w, scale_w)):
        loc = rest @ gain.T
        assert found.exact
        assert found.variance.numpy() == pytest.approx(loc.var(0, ddof=1), rel=1e-9)
        assert found.kl.numpy() == pytest.approx(kl_normal(loc, scale).mean(0), abs=1e-6)
        assert found.total == pytest.approx(kl_normal(loc, scale).mean(0).sum(), abs=1e-6)


def test_a_product_has_the_exact_units_and_divergence():
    """The product of likelihood factors and the prior is the exact posterior."""
    world = World(latent=2, experts="factor")
    x = world.data(200)
    z, _ = usage(world.model("mvae").eval(), MultimodalData(x), world.names)
    A, s = (
        np.concatenate(world.A),
        np.concatenate([np.full(len(b), s) for b, s in zip(world.b, world.s, strict=True)]),
    )
    precision = np.eye(2) + A.T @ np.diag(s**-2.0) @ A
    rest = np.concatenate([x[name].numpy() - world.b[m] for m, name in enumerate(world.names)], 1)
    loc = rest @ np.diag(s**-2.0) @ A @ np.linalg.inv(precision)
    assert z.exact
    assert z.variance.numpy() == pytest.approx(loc.var(0, ddof=1), rel=1e-5)
    assert z.kl.numpy() == pytest.approx(kl_normal(loc, np.diag(precision) ** -0.5).mean(0), rel=1e-4)


def quadrature(
    world: World, x: dict[str, torch.Tensor], seen: np.ndarray, log_p: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of log q(z)/p(z) under the mixture of the observed experts, for each datum: seen [3, B]."""
    step = GRID[1] - GRID[0]
    out = []
    for row in range(seen.shape[1]):
        each = []
        for m, name in enumerate(world.names):
            if seen[m, row]:
                weight, bias = world.encoder(m)
                loc, scale = (
                    weight[0] @ x[name][row].numpy() + bias[0],
                    np.log1p(np.exp(bias[1] + np.log(np.e - 1))),
                )
                each.append(norm(loc, scale).logpdf(GRID))
        log_q = logsumexp(each, 0) - np.log(len(each))
        ratio, mass = log_q - log_p, np.exp(log_q) * step
        mean = (mass * ratio).sum()
        out.append((mean, (mass * (ratio - mean) ** 2).sum()))
    return tuple(np.array(out).T)


@pytest.mark.parametrize("components", [0, 2])
def test_a_mixtures_divergence_is_the_quadratures(components):
    world = World(private=1)
    model = world.model("mmvae+", prior_components=components).eval()
    log_p = norm(0, 1).logpdf(GRID)
    if components:
        model.prior.loc.data = torch.tensor([[-2.0], [1.5]], dtype=torch.float64)
        log_p = np.log(0.5 * norm(-2, 1).pdf(GRID) + 0.5 * norm(1.5, 1).pdf(GRID))
    x = world.data(200)
    mask = torch.ones(3, 200, dtype=torch.bool)
    mask[0, ::3] = False
    mask[2, 1::3] = False
    z, _ = usage(model, MultimodalData(x, mask=mask), world.names, batch_size=60)
    mean, variance = quadrature(world, x, mask.numpy(), log_p)
    assert not z.exact
    assert z.asdict()["how"] == "Monte Carlo, 10 draws per sample"
    assert abs(z.total - mean.mean()) <= 5 * np.sqrt(variance.mean() / (10 * 200))
    assert float(z.kl[0]) == pytest.approx(z.total, abs=1e-12)  # one column is its own marginal
    alone, _ = usage(model, MultimodalData(x, mask=mask), ("a",))
    assert alone.exact is not bool(components)


def test_a_column_that_is_never_used_is_not_active():
    world = World(private=1, latent=2)
    model = world.model("mmvae+").eval()
    for net in model.modalities.values():
        net.encoder.weight.data[1] = 0
        net.encoder.bias.data[[1, 3]] = 0  # z's second column: the prior
    result = latents(Context.of(model, MultimodalData(world.data(400))))
    alone = result["units"]["z"]["a"]
    assert (alone["active"], alone["columns"]) == (1, 2)
    assert alone["variance"][1] == 0
    assert alone["kl"][1] == pytest.approx(0, abs=1e-12)
    assert result["active_units_z"] == 1
    assert result["active_units_w"] == sum(line["active"] for line in result["units"]["w"].values())
    assert result["kl_w"] == pytest.approx(sum(line["kl_total"] for line in result["units"]["w"].values()))


def test_a_unit_is_active_above_a_hundredth():
    assert Usage(torch.tensor([0.0099, 0.0101]), torch.zeros(2), 0.0, True).asdict()["active"] == 1


def test_units_of_a_modality_are_those_of_the_samples_that_have_it():
    world = World(private=1)
    x = world.data(90)
    mask = torch.ones(3, 90, dtype=torch.bool)
    mask[0, 30:] = False
    model = world.model("mmvae+").eval()
    gappy, few = MultimodalData(x, mask=mask), MultimodalData({name: value[:30] for name, value in x.items()})
    _, w = usage(model, gappy, world.names)
    _, expected = usage(model, few, world.names)
    assert torch.equal(w["a"].variance, expected["a"].variance)
    assert torch.equal(w["a"].kl, expected["a"].kl)
    assert not torch.equal(w["b"].kl, expected["b"].kl)


def test_a_divergence_is_exact_only_if_it_is_so_for_all_samples():
    """Some rows of a batch have one expert, and the last batch has no others."""
    world = World(private=1)
    x, model = world.data(60), world.model("mmvae+").eval()
    mask = torch.ones(3, 60, dtype=torch.bool)
    mask[1:, 20:] = False
    for batch_size, exact in ((60, False), (30, False), (20, False)):
        z, _ = usage(model, MultimodalData(x, mask=mask), world.names, batch_size=batch_size)
        assert z.exact is exact
        assert z.asdict()["how"].startswith("Monte Carlo")
    one = MultimodalData(x, mask=mask).rows(slice(20, 60))
    z, _ = usage(model, one, world.names, batch_size=20)
    assert (z.exact, z.asdict()["how"]) == (True, "exact")

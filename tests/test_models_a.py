"""mmJSD, MVTCAE, CRMVAE and MMVM: the authors' numbers, the formulas by hand, and the traps.

Golden inputs are written by formulas, so that only numbers are kept (golden/*.json, with source, commit and the guards that were set to 0).
Their losses are averages over the batch, to be minimised; ``value`` is the sum over the batch, to be maximised.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from inputs import (
    DOUBLE,
    LIKELIHOODS,
    D,
    Decoder,
    Given,
    Leaves,
    by_position,
    close,
    likelihood_weight,
    networks,
    parameters,
    read_cases,
    real_data,
    wave,
)
from scipy.stats import chisquare, norm
from test_formulas import WORLDS, Hand, kl_normal, product
from torch import Tensor
from worlds import GRID, World

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.testing import example_model, plain_world, roles_world

SIZE = 3  # of every x_m

# ---- golden: the inputs ----------------------------------------------------------------------------------------------------------


def leaves(M: int, B: int, latent: int = D, private: int = 0) -> Leaves:
    """What an objective depends on, by name."""
    return parameters(networks([SIZE] * M, B, latent, private))


def data_of(M: int, B: int) -> list[Tensor]:
    return real_data([SIZE] * M, B)


def eps(phase: float, *shape: int) -> Tensor:
    return wave(shape, phase)


# ---- golden: our models on them --------------------------------------------------------------------------------------------------


def recorded(name: str) -> pytest.MarkDecorator:
    of = read_cases(name)
    return pytest.mark.parametrize("case", of, ids=[case["name"] for case in of])


def hold_golden(
    name: str, case: dict, draws: dict[str, Tensor], latent: int = D, warm: float = 1.0, **options: object
) -> None:
    """The bound and all its gradients, relative error ≤ 1e-8; what is 1e-4 of the largest may be off by 1e-12 of it."""
    M, B, private = case["M"], case["B"], case.get("private", 0)
    of = leaves(M, B, latent, private)
    kinds = [LIKELIHOODS[m % 2] for m in range(M)] if name != "mmvm" else [LIKELIHOODS[0]] * M
    specs = [
        Modality(
            f"m{m}",
            (SIZE,),
            kind,
            private=private or None,
            weight=likelihood_weight(m),
            params={"scale": scale},
            encoder=partial(Given, of, m),
            decoder=partial(Decoder, of, m),
        )
        for m, (kind, scale) in enumerate(kinds)
    ]
    model = build(name, specs, latent=latent or private, beta=case["beta"] / warm, **options).double()
    with noise.feed(draws):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(M, B))}), warm).value.sum()
    value.backward()

    close(value, case["value"], "bound")
    assert set(case["gradients"]) == set(of)
    for key, leaf in of.items():
        close(leaf.grad, case["gradients"][key], f"gradient of {key}")


@recorded("mmjsd")
def test_mmjsd_is_the_authors(case):
    """Three modalities, the expert by position in the batch, the prior's own KL among the M + 1."""
    M, B, private = case["M"], case["B"], case["private"]
    draws = {
        "component": ((by_position(B, M) + 0.5) / M)[None],
        "z": eps(0.15, 1, B, D),
        "w": eps(0.85, 1, 1, B, M * private),
    }
    hold_golden("mmjsd", case, draws)


@recorded("mvtcae")
def test_mvtcae_is_the_authors(case):
    hold_golden("mvtcae", case, {"z": eps(0.15, 1, 1, case["B"], D)}, alpha=case["alpha"])


@recorded("crmvae")
def test_crmvae_is_the_port(case):
    hold_golden("crmvae", case, {"z": eps(0.15, 1, 1 + case["M"], case["B"], D)}, variant="multivae")


@recorded("mmvm")
@pytest.mark.parametrize("annealed", [False, True])
def test_mmvm_is_the_authors(case, annealed):
    """Their α is our share, given or reached by warm-up (where warm also multiplies β, so β is divided by it)."""
    M, B, private, share = case["M"], case["B"], case["private"], case["share"]
    if annealed and share == 1:
        return
    draws = {"z": torch.zeros(1, 1, B, 0), "w": eps(0.85, 1, B, M * private), "component": torch.zeros(1, B)}
    warm, options = (1 - share, {"anneal": True}) if annealed else (1.0, {"prior_share": share})
    hold_golden("mmvm", case, draws, 0, warm, divergence="pairwise", **options)


# ---- the formulas, one datum, one expert, one sample at a time -------------------------------------------------------------------


def kl(a, b) -> float:
    """KL(a || b) of normals (location, scale), by the textbook."""
    return float((np.log(b[1] / a[1]) + (a[1] ** 2 + (a[0] - b[0]) ** 2) / (2 * b[1] ** 2) - 0.5).sum())


def decodes(hand: Hand, n: int) -> bool:
    return hand.model.specs[n].role != "source"


def is_target(hand: Hand, n: int) -> bool:
    return n not in hand.model.encoded


UNIT = np.zeros(2), np.ones(2)


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize("stratified", [True, False])
def test_mmjsd(stratified, private, monkeypatch):
    monkeypatch.setitem(
        WORLDS, "private", lambda: tuple(replace(spec, private=private) for spec in roles_world())
    )
    hand = Hand("private", "mmjsd", stratified=stratified, K=2, beta=1.5)
    model = hand.model

    def value() -> float:
        n = len(hand.S) + 1
        precision = (1 + sum(hand.z[m][1] ** -2 for m in hand.S)) / n
        f = sum(hand.z[m][0] * hand.z[m][1] ** -2 for m in hand.S) / n / precision, precision**-0.5
        total = -hand.beta / n * (kl(UNIT, f) + sum(kl(hand.z[m], f) for m in hand.S))
        total -= hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        for k in range(2):
            experts = (
                hand.S if stratified else [hand.S[int(hand.draws["component"][k, hand.b] * len(hand.S))]]
            )
            for m in experts:
                v = model.encoded.index(m) if stratified else 0
                eps = hand.draws["z"][k, v, hand.b] if stratified else hand.draws["z"][k, hand.b]
                z = hand.z[m][0] + hand.z[m][1] * eps
                for t in filter(partial(decodes, hand), hand.A):
                    loc, scale = hand.w.get(t, (np.zeros(private), np.ones(private)))
                    w = loc + scale * hand.draws["w"][k, v, hand.b, model.columns[t]]
                    total += hand.log_x(t, z, w) / len(experts) / 2
        return total

    hand.check(value)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("alpha", "K"), [(5 / 6, 1), (0.3, 2), (0.0, 1), (1.0, 1)])
def test_mvtcae(world, alpha, K):
    """As its derivation: (1 − α) of the joint bottleneck and α/M of each conditional one, which predicts all the others."""
    hand = Hand(world, "mvtcae", alpha=alpha, K=K, beta=1.5)

    def value() -> float:
        q, count = product([hand.z[m] for m in hand.S]), len(hand.S)
        total = -hand.beta * (1 - alpha) * kl_normal(*q)
        for k in range(K):
            z = q[0] + q[1] * hand.draws["z"][k, 0, hand.b]
            log_x = {n: hand.log_x(n, z, np.zeros(0)) / K for n in hand.A if decodes(hand, n)}
            total += (1 - alpha) * sum(log_x.values())
            total += sum(alpha / count * log for m in hand.S for n, log in log_x.items() if n != m)
        return total - hand.beta * alpha / count * sum(kl(q, hand.z[m]) for m in hand.S)

    hand.check(value)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("variant", "K"), [("paper", 2), ("multivae", 1)])
def test_crmvae(world, variant, K):
    hand = Hand(world, "crmvae", variant=variant, K=K, beta=1.5)

    def expected(q, v: int, targets: list[int]) -> float:
        draws = [q[0] + q[1] * hand.draws["z"][k, v, hand.b] for k in range(K)]
        return float(
            np.mean([sum(hand.log_x(n, z, np.zeros(0)) for n in targets if decodes(hand, n)) for z in draws])
        )

    def value() -> float:
        q, others = product([hand.z[m] for m in hand.S]), [n for n in hand.A if is_target(hand, n)]
        half = 0.5 if variant == "multivae" else 1
        total = half * expected(q, 0, hand.A) - hand.beta * kl_normal(*q)
        for m in hand.S:
            total += half * expected(
                hand.z[m], 1 + hand.model.encoded.index(m), [m, *others]
            ) - hand.beta * kl(q, hand.z[m])
            if variant == "paper":
                total -= hand.beta * kl_normal(*hand.z[m])
        return total / (1 + len(hand.S))

    hand.check(value)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("divergence", "options"),
    [
        ("mixture", {"K": 2}),
        ("mixture", {"prior_share": 0.3}),
        ("pairwise", {"K": 2}),
        ("pairwise", {"prior_share": 0.1, "anneal": True}),
    ],
)
def test_mmvm(world, divergence, options):
    """Warm-up stands at 0.7. A target is decoded from the code of one of the observed, drawn per datum and sample."""
    hand = Hand(world, "mmvm", divergence=divergence, beta=1.5, **options)
    model, K = hand.model, hand.model.K
    share = model.prior_share + 0.3 * (1 - model.prior_share) * model.anneal

    def value() -> float:
        total = 0.0
        for k in range(K):
            at = hand.draws["w"][k, hand.b]
            for n in hand.A:
                q = (
                    hand.w[n]
                    if n in hand.S
                    else hand.w[hand.S[int(hand.draws["component"][k, hand.b] * len(hand.S))]]
                )
                code = q[0] + q[1] * at[model.columns[n]]
                total += hand.log_x(n, np.zeros(0), code) / K if decodes(hand, n) else 0
                if n in hand.S and divergence == "mixture":
                    h = np.mean([np.exp(hand.log(code, *hand.w[m])) for m in hand.S])
                    prior = np.log((1 - share) * h + share * np.exp(hand.log(code, 0, 1)))
                    total -= hand.beta * (hand.log(code, *q) - prior) / K
                elif n in hand.S:
                    pairs = np.mean([kl(q, hand.w[m]) for m in hand.S])
                    total -= hand.beta * ((1 - share) * pairs + share * kl_normal(*q)) / K
        return total

    hand.check(value)


# ---- mmjsd -----------------------------------------------------------------------------------------------------------------------


def test_the_dynamic_prior_is_the_geometric_mean_by_quadrature():
    """f ∝ exp of the mean log-density of the observed experts and the prior; the divergence is the mean KL to it, the prior's included."""
    world = World()
    model = world.model("mmjsd")
    batch = world.every_mask()
    with torch.no_grad():
        experts, terms = model.experts(batch), model(batch).terms
        f = model.dynamic_prior(experts)
    step = GRID[1] - GRID[0]
    for row in range(7):
        q = [
            (float(experts.z.loc[m, row, 0]), float(experts.z.scale[m, row, 0]))
            for m in range(3)
            if batch.mask[m, row]
        ]
        logs = [norm(*each).logpdf(GRID) for each in [*q, (0, 1)]]
        mean = np.mean(logs, 0)
        log_f = mean - np.log(np.exp(mean).sum() * step)
        assert norm(float(f.loc[row, 0]), float(f.scale[row, 0])).logpdf(GRID) == pytest.approx(
            log_f, abs=1e-6
        )
        divergence = np.mean([(np.exp(log) * (log - log_f)).sum() * step for log in logs])
        assert float(terms["kl/z"][row]) == pytest.approx(divergence, abs=1e-8)


def test_a_small_batch_trains_every_expert_of_mmjsd():
    """The expert is drawn per datum, whatever its place: two rows reach all four of them (by position, only the last would be)."""
    model = example_model(lambda specs: build("mmjsd", specs, latent=2, beta=0.0), plain_world())
    batch = Batch.of(
        {name: torch.rand(2, *net.spec.shape, dtype=DOUBLE).round() for name, net in model.modalities.items()}
    )
    trained = torch.zeros(4, 2, dtype=torch.bool)
    for _ in range(40):
        for row in range(2):
            model.zero_grad()
            model(batch).value[row].backward()
            reached = [
                any(bool(p.grad.any()) for p in net.encoder.parameters()) for net in model.modalities.values()
            ]
            trained[:, row] |= torch.tensor(reached)
    assert bool(trained.all()), trained


# ---- truth -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "private"), [("mmjsd", 0), ("mmjsd", 1), ("mvtcae", 0), ("crmvae", 0)])
def test_the_likelihood_is_the_truth(name, private):
    """Within 5 standard errors, for every mask."""
    world = World(private)
    batch = world.every_mask()
    estimate = world.model(name).log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(batch)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.06).all(), spread.round(3)


def expected_bound(model, world, copies=800):
    with torch.no_grad():
        value = model(world.every_mask(copies)).value.view(7, copies)
    return value.mean(1).numpy(), (value.std(1) / copies**0.5).numpy()


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_mvtcae_without_its_conditional_bottlenecks_is_a_bound(beta, experts):
    world = World(experts=experts)
    truth = world.log_p(world.every_mask())
    mean, spread = expected_bound(world.model("mvtcae", alpha=0.0, beta=beta), world)
    assert (mean <= truth + 5 * spread).all(), (mean - truth).round(3)


ALONE = [0, 1, 3]  # the masks with one modality


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [("mvtcae", {"alpha": 0.0}, 1), ("mvtcae", {"alpha": 0.25}, 0.75), ("crmvae", {}, 1)],
)
def test_with_one_exact_expert_the_objective_is_its_share_of_the_truth(name, options, share):
    """The product is the expert, the coordination 0: MVTCAE is (1 − α) ELBO, CRMVAE the mean of two equal ELBOs; both are tight."""
    world = World(experts="exact")
    truth = world.log_p(world.every_mask())[ALONE]
    mean, spread = expected_bound(world.model(name, beta=1.0, **options), world)
    assert (np.abs(mean[ALONE] - share * truth) <= 5 * spread[ALONE]).all(), (
        mean[ALONE] - share * truth
    ).round(3)


# ---- mmvm ------------------------------------------------------------------------------------------------------------------------


def mmvm(**options):
    return example_model(lambda specs: build("mmvm", specs, latent=1, **options), plain_world())


def some(model, B: int) -> Batch:
    return Batch.of(
        {name: torch.rand(B, *net.spec.shape, dtype=DOUBLE).round() for name, net in model.modalities.items()}
    )


@pytest.mark.parametrize("divergence", ["mixture", "pairwise"])
def test_mmvm_with_one_observed_modality_has_no_divergence(divergence):
    """Its prior is its posterior; only a share of N(0, I) charges anything: all of that KL, or that share of it."""
    model = mmvm(divergence=divergence)
    batch = some(model, 3).observe("values")
    assert bool((model(batch).terms["kl/w"] == 0).all())
    q = model.modalities["values"].encode(batch.data["values"]).w
    exact = kl_normal(q.loc.detach().numpy(), q.scale.detach().numpy())
    model.prior_share = 1.0 if divergence == "mixture" else 0.25
    model.K = 20000 if divergence == "mixture" else 1
    charged = float(model(batch).terms["kl/w"].sum())
    assert charged == pytest.approx(exact * model.prior_share, rel=0.1 if divergence == "mixture" else 1e-12)


def test_the_divergence_of_mmvm_by_quadrature():
    """The sampled KL to the mixture has the exact one as its mean; the pairwise one is above it, by convexity."""
    model, count = mmvm(), 4000
    batch = some(model, 1).observe("values", "type", "forward")
    many = batch.rows(torch.zeros(count, dtype=torch.long))
    with torch.no_grad():
        sampled = model(many).terms["kl/w"]
        model.divergence = "pairwise"
        pairs = float(model(batch).terms["kl/w"])
        experts = [
            model.modalities[name].encode(batch.data[name]).w for name in ("values", "type", "forward")
        ]
    densities = np.array([norm(float(q.loc), float(q.scale)).pdf(GRID) for q in experts])
    inside = densities * (np.log(densities + 1e-300) - np.log(densities.mean(0) + 1e-300))
    exact = inside.sum() * (GRID[1] - GRID[0])
    assert abs(float(sampled.mean()) - exact) <= 5 * float(sampled.std()) / count**0.5
    assert pairs > exact > 0


def test_mmvm_under_the_prior_alone_is_independent_vaes():
    model = mmvm(divergence="pairwise", prior_share=1.0, beta=1.5)
    vae = build("vae", plain_world(), latent=1, beta=1.5).double()
    vae.load_state_dict(model.state_dict())
    batch = some(model, 5)
    eps_w = torch.randn(1, 5, 4, dtype=DOUBLE)
    nothing = torch.zeros(1, 1, 5, 0)
    with noise.feed({"z": nothing, "w": eps_w, "component": torch.rand(1, 5)}):
        value = model(batch).value
    with noise.feed({"z": nothing, "w": eps_w[:, None]}):
        torch.testing.assert_close(value, vae(batch).value, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_mmvm_decodes_an_observed_code_with_the_decoder_of_what_is_missing():
    """n from m: z_m, decoded by n; from several, the source is drawn per datum and sample; what was observed is decoded from its own."""
    model = mmvm().eval()
    batch = some(model, 50).observe("values", "forward")
    with noise.record() as draws:
        made = model.generate(batch, K=40)
    own = {name: model.modalities[name].encode(batch.data[name]).w for name in ("values", "forward")}
    columns = dict(zip(model.modalities, model.columns, strict=True))
    drawn = draws["w"].value

    def decode(name: str, source: str) -> Tensor:
        return model.modalities[name].mean(own[source].loc + own[source].scale * drawn[..., columns[name]])

    for name in own:
        torch.testing.assert_close(made[name], decode(name, name))
    first = draws["component"].value < 0.5  # [K, B]
    for name in ("rna.counts", "type"):
        each = first.view(*first.shape, *[1] * (made[name].ndim - 2))
        torch.testing.assert_close(
            made[name], torch.where(each, decode(name, "values"), decode(name, "forward"))
        )
    assert 0.4 < float(first.double().mean()) < 0.6
    assert bool((first.any(0) & ~first.all(0)).all())
    assert bool((first.any(1) & ~first.all(1)).all())


@torch.no_grad()
def test_mmvm_embeds_what_is_missing_as_the_mean_of_what_is_there():
    model = mmvm().eval()
    batch = some(model, 4).observe("values", "forward")
    embedded = model.embed(batch)
    loc = {name: model.modalities[name].encode(batch.data[name]).w.loc for name in ("values", "forward")}
    middle = (loc["values"] + loc["forward"]) / 2
    torch.testing.assert_close(embedded, torch.cat([middle, loc["values"], middle, loc["forward"]], 1))
    assert torch.equal(embedded, model.embed(batch))


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mvtcae", {"alpha": 1.2}, "mvtcae: got alpha=1.2; expected a number from 0"),
        ("crmvae", {"variant": "multivea"}, "unknown variant 'multivea'; did you mean 'multivae'"),
        ("mmvm", {"divergence": "pairs"}, "unknown divergence 'pairs'"),
        ("mmvm", {"prior_share": -0.1}, "got prior_share=-0.1; expected a number from 0 to 1"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        build(name, plain_world(), latent=2, **options)


def test_mmvm_refuses_codes_of_several_sizes_and_what_needs_a_joint_density():
    specs = plain_world()
    with pytest.raises(InputError, match="expected one size, for every decoder takes every code"):
        build("mmvm", (replace(specs[0], private=3), *specs[1:]), latent=2)
    model = mmvm()
    for what in (partial(model.log_marginal, K=100), partial(model.generate, resample=True)):
        with pytest.raises(InputError, match="got mmvm, a model without a joint density"):
            what(some(model, 2))


# ---- mopoe: the trap --------------------------------------------------------------------------------------------------------------


def test_a_batch_of_eight_trains_all_31_subsets():
    """By position in the batch, as the authors' code has it, eight rows would train one subset of five: here all are drawn alike."""
    model = build("mopoe", [Modality(f"m{m}", (2,), params={"hidden": (3,)}) for m in range(5)], latent=2)
    batch, counts = Batch.of({f"m{m}": torch.randn(8, 2) for m in range(5)}), np.zeros(31)
    for _ in range(100):
        with noise.record() as draws:
            model(batch)
        chosen = (draws["component"].value[0] * 31).long()  # equal weights, in order
        assert len(set(chosen.tolist())) > 1
        counts += np.bincount(chosen.numpy(), minlength=31)
    assert counts.min() > 0
    assert chisquare(counts).pvalue > 1e-4

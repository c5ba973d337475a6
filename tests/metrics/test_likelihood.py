"""The likelihood metric in linear worlds: joint, marginal and conditional, complete and with gaps, against the exact values."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from polyvae import Batch, InputError, MultimodalData, build, evaluate
from polyvae.core.inference import Estimate
from polyvae.metrics.context import Context
from polyvae.metrics.likelihood import _ratio, _summary, likelihood
from tests.helpers.worlds import World

ROWS = 7


def gaps() -> torch.Tensor:
    """Every mask of three modalities but the empty one: [3, 7]."""
    return torch.tensor([[bool(bits >> m & 1) for bits in range(1, 8)] for m in range(3)])


def exact(world: World, x: dict[str, torch.Tensor], mask: torch.Tensor, family: str = "normal"):
    """(names, rows) -> log p of these modalities, as far as they were observed: [B]."""
    batch = Batch.of(x, mask)
    return lambda *names: np.where(
        batch.observe(*names).mask.any(0), world.log_p(batch.observe(*names), family), 0
    )


def assert_near(line: dict[str, float], truth: np.ndarray, seen: np.ndarray) -> None:
    assert line["rows"] == seen.sum()
    assert abs(line["mean"] - truth[seen].mean()) <= 5 * line["sampling_error"], (line, truth[seen].mean())
    assert 1e-5 < line["sampling_error"] < 0.05


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mmvae+", {"private": 1}, {}),
        ("mmvae+", {"private": 1}, {"family": "laplace"}),
        ("mopoe", {}, {}),
        ("mvae", {}, {}),
        ("vae", {"latent": 0, "private": 1}, {}),
    ],
)
def test_every_likelihood_is_the_truth(name, shape, options, masked):
    world = World(**shape)
    x = world.data(ROWS)
    mask = gaps() if masked else torch.ones(3, ROWS, dtype=torch.bool)
    log_p, seen = (
        exact(world, x, mask, options.get("family", "normal")),
        dict(zip(world.names, mask.numpy(), strict=True)),
    )
    model, data = world.model(name, **options).eval(), MultimodalData(x, mask=mask)
    result = likelihood(Context.of(model, data, likelihood_samples=4000, likelihood_conditional="pairs"))

    assert_near(result["log_likelihood_joint"], log_p(*world.names), np.ones(ROWS, dtype=bool))
    assert result["log_likelihood"] == result["log_likelihood_joint"]["mean"]
    assert set(result["log_likelihood_by_modality"]) == set(world.names)
    for key, line in result["log_likelihood_by_modality"].items():
        assert_near(line, log_p(key), seen[key])
    conditions = {"a|b,c": ("b", "c"), "b|a,c": ("a", "c"), "c|a,b": ("a", "b")}
    conditions |= {f"{one}|{other}": (other,) for one, other in permutations(world.names, 2)}
    assert set(result["log_likelihood_by_condition"]) == set(conditions)
    for key, given in conditions.items():
        both = seen[key[0]] & np.any([seen[other] for other in given], 0)
        assert_near(result["log_likelihood_by_condition"][key], log_p(key[0], *given) - log_p(*given), both)
    rest = [result["log_likelihood_by_condition"][key]["mean"] for key in ("a|b,c", "b|a,c", "c|a,b")]
    assert result["log_likelihood_conditional"] == pytest.approx(sum(rest) / 3)


def test_a_shared_code_makes_the_others_tell_something():
    """log p(x_m | rest) − log p(x_m) is what the others tell: nothing in independent models, something in the mean otherwise."""
    told = {}
    for name, shape in (("mvae", {"experts": "factor"}), ("vae", {"latent": 0, "private": 1})):
        world = World(**shape)
        result = likelihood(
            Context.of(
                world.model(name).eval(),
                MultimodalData(world.data(100)),
                likelihood_samples=500,
                likelihood_conditional="rest",
            ),
        )
        told[name] = [
            line["mean"] - result["log_likelihood_by_modality"][key[0]]["mean"]
            for key, line in result["log_likelihood_by_condition"].items()
        ]
    assert min(told["mvae"]) > 0.1
    assert np.abs(told["vae"]).max() < 0.02


def test_a_target_has_a_likelihood_and_a_source_has_none():
    """c is only encoded and b only decoded: log p(a, b), log p(b | a), and nothing about c, not even in samples that show it alone."""
    world = World()
    roles = {"a": "both", "b": "target", "c": "input"}
    model = (
        build("mopoe", [replace(spec, role=roles[spec.name]) for spec in world.modalities()], latent=1)
        .double()
        .eval()
    )
    x, mask = world.data(ROWS), gaps()
    log_p = exact(world, x, mask)
    a, b, _ = mask.numpy()
    result = likelihood(
        Context.of(
            model, MultimodalData(x, mask=mask), likelihood_samples=4000, likelihood_conditional="rest"
        )
    )
    assert_near(result["log_likelihood_joint"], log_p("a", "b"), a | b)
    assert set(result["log_likelihood_by_modality"]) == {"a", "b"}
    assert_near(result["log_likelihood_by_modality"]["b"], log_p("b"), b)
    assert set(result["log_likelihood_by_condition"]) == {"b|a", "a|b"}
    assert_near(result["log_likelihood_by_condition"]["b|a"], log_p("a", "b") - log_p("a"), a & b)


def test_what_does_not_exist_is_left_out():
    world = World()
    model, x = world.model("mopoe").eval(), world.data(ROWS)
    none = likelihood(Context.of(model, MultimodalData(x), likelihood_samples=50))
    assert none["log_likelihood_by_condition"] == {}
    assert "log_likelihood_conditional" not in none
    mask = torch.zeros(3, ROWS, dtype=torch.bool)
    mask[0, :3] = mask[1, 3:] = True  # a and b never together, c never
    result = likelihood(
        Context.of(model, MultimodalData(x, mask=mask), likelihood_samples=50, likelihood_conditional="pairs")
    )
    assert set(result["log_likelihood_by_modality"]) == {"a", "b"}
    assert result["log_likelihood_by_condition"] == {}
    nothing = MultimodalData(x, mask=torch.zeros(3, ROWS, dtype=torch.bool))
    assert likelihood(Context.of(model, nothing)) == {}
    with pytest.raises(InputError, match="conditional: got 'all'; expected 'none', 'rest' or 'pairs'"):
        evaluate(model, MultimodalData(x), metrics=["likelihood"], likelihood_conditional="all", show=False)


def test_errors_and_effective_samples_by_hand():
    """Of a mean: independent errors add in squares. Of a difference: likewise. The effective size is the median, and the smaller of two."""
    seen = torch.tensor([True, True, True, False])
    one = Estimate(
        torch.tensor([1.0, 2, 6, 100]), torch.tensor([0.3, 0.4, 1.2, 9]), torch.tensor([1.0, 5, 30, 7])
    )
    line = _summary(one, seen)
    assert line["sampling_error"] == pytest.approx(1.3 / 3)
    assert line["standard_error"] == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))
    assert (line["mean"], line["effective_samples"], line["rows"]) == (3, 5, 3)
    other = Estimate(
        torch.tensor([0.5, 1, 2, 0]), torch.tensor([0.4, 0.3, 0.5, 1]), torch.tensor([2.0, 4, 40, 1])
    )
    both = _ratio(one, other)
    assert both.value.tolist() == [0.5, 1, 4, 100]
    assert both.standard_error.tolist() == pytest.approx([0.5, 0.5, 1.3, np.sqrt(82)])
    assert both.effective_samples.tolist() == [1, 4, 30, 1]

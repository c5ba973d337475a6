"""Coherence, where the answer is known: decoders that say a class, judges that read it without fault."""

from __future__ import annotations

import pytest
import torch

from polyvae import Modality, MultimodalData, build
from polyvae.metrics import Context, Judges, evaluate
from polyvae.metrics.coherence import coherence, entropy
from polyvae.metrics.generation import conditional
from tests.helpers.judged import Bright, Signs

NAMES = ("a", "b", "c")


def model_of(columns: dict[str, int], private: int = 1):
    """One column of z, and one of w_m each (of the last ``private``); a modality shows the sign of z (0) or of its own w (1)."""
    specs = [
        Modality(
            name,
            (1, 8, 8),
            encoder=lambda shape, out: Signs(0, out),
            decoder=lambda shape, out, c=column: Signs(c, out),
            private=private if name == "c" else 1,
        )
        for name, column in columns.items()
    ]
    return build("mmvae+", specs, latent=1, family="normal").eval()


@pytest.fixture(scope="module")
def data():
    labels = torch.arange(3000) % 2
    image = (2.0 * labels - 1)[:, None, None, None].expand(-1, 1, 8, 8)
    return MultimodalData(
        dict.fromkeys(NAMES, image), labels=labels, splits={"train": range(1000), "test": range(1000, 3000)}
    )


@pytest.fixture(scope="module")
def judges():
    return Judges(
        {name: Bright() for name in NAMES}, torch.arange(2), dict.fromkeys(NAMES, 1.0), 1.0, "by hand", 0.0
    )


def test_what_z_says_is_coherent_and_what_w_says_is_chance(data, judges):
    found = coherence(Context.of(model_of({"a": 0, "b": 0, "c": 1}), data.test, judges, draws=4000))
    matrix = found["coherence_matrix"]
    assert {source: set(row) for source, row in matrix.items()} == {
        name: set(NAMES) - {name} for name in NAMES
    }
    assert (matrix["a"]["b"], matrix["b"]["a"], matrix["c"]["a"]) == (1, 1, 1)
    assert matrix["a"]["c"] == pytest.approx(0.5, abs=0.05)
    assert found["conditional_coherence"] == pytest.approx(
        sum(value for row in matrix.values() for value in row.values()) / 6
    )
    # Of sets of two: (a, b) -> c by chance, (a, c) -> b and (b, c) -> a always.
    assert found["coherence_by_observed"]["2"] == pytest.approx(2.5 / 3, abs=0.02)
    # All three agree where w happens to have the sign of z.
    assert found["unconditional_coherence"] == pytest.approx(0.5, abs=0.04)
    assert sum(found["unconditional_histogram"].values()) == round(4000 * found["unconditional_coherence"])


def test_where_nothing_that_is_decoded_can_be_judged_there_is_no_coherence(data):
    other = Judges({"d": Bright()}, torch.arange(2), {"d": 1.0}, 1.0, "by hand", 0.0)
    assert coherence(Context.of(model_of({"a": 0, "b": 0, "c": 1}), data.test, other, draws=10)) == {}


def test_the_published_protocol_shares_one_w(data, judges):
    """Two modalities that show only their w agree by chance, and always where they share one draw, as in the code of 2023."""
    model = model_of({"a": 1, "b": 1, "c": 1})
    agreed = {
        protocol: coherence(Context.of(model, data.test, judges, draws=4000, protocol=protocol))[
            "unconditional_coherence"
        ]
        for protocol in ("sound", "published")
    }
    assert agreed["sound"] == pytest.approx(1 / 4, abs=0.04)
    assert agreed["published"] == 1
    uneven = model_of({"a": 1, "b": 1, "c": 1}, private=2)
    assert (
        coherence(Context.of(uneven, data.test, judges, draws=4000, protocol="published"))[
            "unconditional_coherence"
        ]
        < 0.3
    )


def test_the_protocol_stands_beside_the_numbers(data, judges):
    model = model_of({"a": 0, "b": 0, "c": 1})
    for protocol, word in (("sound", "draw of its own"), ("published", "shared by all")):
        found = evaluate(
            model,
            data,
            metrics=["coherence"],
            judges=judges,
            fitted_prior={"components": 0},
            draws=100,
            seed=4,
            protocol=protocol,
            show=False,
        )
        assert word in found["protocol"]["private_codes"]
        assert (found["protocol"]["name"], found["protocol"]["seed"]) == (protocol, 4)
        assert found["protocol"]["images"]["held_out"] == 2000


def test_entropy_is_one_where_even_and_none_where_there_is_one_class():
    assert entropy([5, 5, 5, 5]) == pytest.approx(1)
    assert entropy([7, 0, 0]) == 0
    assert entropy([1, 1, 0, 0]) == pytest.approx(0.5)
    assert entropy([]) == 0


def test_the_target_and_what_is_not_observed_say_nothing(data, judges):
    """b shows the other class. Given a alone, all follow a; a model that also saw b would follow it half of the time."""
    x = {name: data.values(name) * (-1 if name == "b" else 1) for name in NAMES}
    mixed = MultimodalData(x, labels=data.labels, splits={"train": range(1000), "test": range(1000, 3000)})
    found = coherence(Context.of(model_of({"a": 0, "b": 0, "c": 0}), mixed.test, judges, draws=10))
    assert found["coherence_matrix"] == {
        "a": {"b": 1, "c": 1},
        "b": {"a": 0, "c": 0},
        "c": {"a": 1, "b": 1},
    }


def test_the_shared_w_of_the_published_protocol_is_not_the_posterior_s(data):
    """w of a, which is observed, is near −14; that of b and c is one draw of p(w), so half of them are positive."""
    model = model_of({"a": 1, "b": 1, "c": 1})
    for number, protocol in enumerate(("published", "sound")):
        context = Context.of(model, data.test, protocol=protocol)
        made = [given.made for given in conditional(context, ("a",), NAMES, seed=number)]
        a, b, c = (torch.cat([x[name][0, :, 0, 0, 0] for x in made]) for name in NAMES)
        assert bool((a == -1).all())
        for other in (b, c):
            assert float((other > 0).double().mean()) == pytest.approx(0.5, abs=0.05)
        assert bool((b == c).all()) is (protocol == "published")


@pytest.mark.parametrize("kind", ["gmm", pytest.param("mld", marks=pytest.mark.slow)])
def test_independent_vaes_agree_with_a_prior_that_is_fitted_to_all_latents(data, judges, kind):
    """Every modality shows the sign of its own w, and all have the class of the sample: chance alone, 1 with conditional draws."""
    specs = [
        Modality(
            name,
            (1, 8, 8),
            encoder=lambda shape, out: Signs(0, out),
            decoder=lambda shape, out: Signs(0, out),
            private=1,
        )
        for name in NAMES
    ]
    found = evaluate(
        build("vae", specs, latent=1).eval(),
        data.test.rows(slice(0, 400)),
        metrics=["coherence", "quality"],
        judges=judges,
        fitted_prior={"kind": kind, "latents": "all", "components": 2, "steps": 150},
        draws=300,
        measures="frechet",
        show=False,
    )
    assert found["conditional_coherence"] == pytest.approx(0.5, abs=0.06)
    assert found["unconditional_coherence"] == pytest.approx(0.25, abs=0.1)
    least = 1 if kind == "gmm" else 0.95
    assert found["conditional_coherence_fitted"] >= least
    assert found["unconditional_coherence_fitted"] >= least
    assert set(found["coherence_by_observed_fitted"]) == {"1", "2"}
    assert min(found["coherence_by_observed_fitted"].values()) >= least
    assert set(found["coherence_matrix_fitted"]["a"]) == {"b", "c"}
    assert found["conditional_frechet_distance_fitted"] == pytest.approx(
        found["conditional_frechet_distance"], abs=0.3
    )


def test_a_prior_without_conditional_draws_has_no_conditional_coherence(data, judges):
    found = evaluate(
        model_of({"a": 0, "b": 0, "c": 1}),
        data,
        metrics=["coherence"],
        judges=judges,
        fitted_prior={"kind": "flow", "latents": "all", "transforms": 1},
        draws=20,
        inputs=1,
        show=False,
    )
    assert "conditional_coherence_fitted" not in found
    assert any("'flow' has no conditional draws" in note for note in found["notes"])

"""Values that are possible under their likelihood and that do not suit it: one line with the remedy; silence where they do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.data.suitable import unsuited
from tests.helpers.likelihoods import NUMBERS, fitting, required

RANDOM = np.random.default_rng(0)


def said(name: str, x, observed=None, decoded: bool = True, **params) -> str:
    x = torch.as_tensor(np.asarray(x, dtype=np.float32))
    seen = torch.ones_like(x, dtype=torch.bool) if observed is None else torch.as_tensor(observed)
    likelihood = LIKELIHOODS[name](tuple(x.shape[1:]), **params)
    text = unsuited("a", likelihood, x, seen, decoded)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["normal", "laplace", "student_t"])
@pytest.mark.parametrize(
    ("x", "params", "says"),
    [
        (1000 * RANDOM.normal(size=(200, 3)), {}, "root mean square is 997"),
        (500 + RANDOM.normal(size=(200, 3)), {"scale": "learned"}, "standardise them"),
        (RANDOM.normal(size=(200, 3)), {"scale": 0.001}, "far from the scale"),
        (0.001 * RANDOM.normal(size=(200, 3)), {}, "standard deviation is 0.001 for a likelihood of scale 1"),
        (5 + 0.01 * RANDOM.normal(size=(200, 3)), {}, "or set scale='learned'"),
        (RANDOM.poisson(3, (200, 3)), {"scale": "learned"}, "whole numbers from 0 to "),
        (
            RANDOM.integers(0, 2, (200, 3)),
            {},
            "all values are 0 or 1; expected real numbers; choose 'bernoulli'",
        ),
        (np.eye(3)[RANDOM.integers(0, 3, 200)], {}, "choose 'categorical', since rows sum to 1"),
        (RANDOM.integers(0, 256, (40, 1, 4, 4)), {}, "scale={'a': 1/255}"),
    ],
)
def test_real_numbers(name, x, params, says):
    assert says in said(name, x, **params)
    assert said(name, x, **params).startswith(f"modality 'a' ({name}): ")


@pytest.mark.parametrize(
    ("name", "x", "params"),
    [
        ("normal", RANDOM.normal(size=(200, 3)), {}),
        ("normal", 0.001 * RANDOM.normal(size=(200, 3)), {"scale": "per_entry"}),
        ("normal", 0.01 * RANDOM.normal(size=(40, 5000)), {}),
        ("normal", RANDOM.random((40, 3, 8, 8)), {"scale": 0.1}),
        ("normal", RANDOM.poisson(3, (200, 3)) - 3, {}),
        ("normal", np.zeros((200, 3)), {}),
        ("normal", RANDOM.integers(0, 2, (5, 3)), {}),
        ("bernoulli", RANDOM.random((200, 3)).round(1), {}),
        ("poisson", RANDOM.poisson(500, (200, 3)), {}),
        ("discretised_logistic", RANDOM.integers(0, 256, (40, 8)) / 255, {}),
    ],
)
def test_usual_data_are_no_warning(name, x, params):
    assert said(name, x, **params) == ""


@pytest.mark.parametrize("name", NUMBERS)
def test_what_a_likelihood_can_have_produced_suits_it(name):
    shape = (6,) if name == "mixed" else (2, 3)
    assert said(name, fitting(name, shape, 50, np.random.default_rng(1)), **required(name, shape[-1])) == ""


def test_whole_numbers_of_a_table_are_chosen_a_likelihood_for_and_standardised_ones_are_silent():
    x = RANDOM.poisson(3, (200, 3))
    assert "data.modalities(likelihood=\"auto\"), or --set 'modality.*.likelihood=auto'" in said("normal", x)
    assert "auto" not in said("normal", RANDOM.poisson(3, (200, 1, 2, 2)))
    assert said("normal", 1000 + x, center=[1003.0] * 3, std=[1.7] * 3) == ""


def test_bounded_values():
    assert "none is 0 or 1" in said("bernoulli", RANDOM.random((200, 3)))
    assert "0.39 % of the range" in said("discretised_logistic", RANDOM.integers(0, 2, (200, 3)) / 255)


def test_missing_entries_do_not_count_and_an_input_has_no_likelihood():
    x = np.where(RANDOM.random((200, 3)) < 0.5, 1e6, RANDOM.normal(size=(200, 3)))
    assert said("normal", x, x < 1e5) == ""
    assert said("normal", RANDOM.integers(0, 2, (200, 3)), decoded=False) == ""
    assert "root mean square" in said("normal", x, decoded=False)


def test_a_part_of_a_table_is_named():
    x = np.column_stack([RANDOM.normal(size=(200, 2)), RANDOM.integers(0, 2, 200)])
    text = said("mixed", x, parts=[["normal", 2], ["normal", 1]])
    assert text.startswith("modality 'a' (mixed): in part 1 ('normal', column 2) all values are 0 or 1")
    assert said("mixed", x, parts=[["normal", 2], ["bernoulli", 1]]) == ""


def test_fit_warns_once_for_each_modality_that_its_likelihood_does_not_suit():
    small = {"hidden": [4]}
    data = pv.MultimodalData(
        {
            "counts": RANDOM.poisson(3, (60, 4)),
            "fine": RANDOM.normal(size=(60, 3)),
            "flag": RANDOM.integers(0, 2, (60, 2)),
        }
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pv.fit(pv.MVAE(data.modalities(params=small), latent=1), data, epochs=1, validation=0.0, show=False)
    found = [str(one.message) for one in caught]
    assert [text.split(":")[1] for text in found] == [
        " modality 'counts' (normal)",
        " modality 'flag' (normal)",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["polydigits", "polydigits_quadrant", "shapes_captions"])
def test_embedded_data_suit_their_likelihoods(name):
    data = pv.load_dataset(name, train=100, test=10)
    model, batch = pv.MVAE(data.modalities(), latent=1), data.take(slice(0, 100))
    for key, net in model.modalities.items():
        x = batch.data[key]
        seen = batch.entries.get(key, torch.ones_like(x, dtype=torch.bool))
        assert unsuited(key, net.likelihood, x, seen) == ""

"""A table whose columns have different likelihoods: the sum of its parts, entry by entry; what is wrong names the part and its columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from polyvae import Batch, InputError, Modality, MultimodalData, build, evaluate, fit, load_model
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.report import write_report
from polyvae.testing import check_model, law_entries, law_missing, law_per_sample

pytestmark = pytest.mark.usefixtures("double")

PARTS = [
    ["normal", 2, {"scale": "per_entry"}],
    ["bernoulli", 1],
    ["categorical", 3],
    ["categorical", 2],
    ["ordinal", 1, {"levels": 4}],
    ["poisson", 2, {"library": "none"}],
    ["negative_binomial", 3, {"library": 30.0}],
    ["zero_inflated_negative_binomial", 1, {"library": "none"}],
    ["student_t", 1, {"df": "learned", "scale": "learned"}],
    ["beta", 1],
    ["beta_binomial", 2, {"total": 6}],
    ["discretised_logistic", 1],
]
COLUMNS = sum(count for _, count, *_ in PARTS)  # 20


def mixed():
    torch.manual_seed(4)
    likelihood = LIKELIHOODS["mixed"]((COLUMNS,), parts=PARTS)
    for parameter in likelihood.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return likelihood


def alone(likelihood):
    """Each part as a likelihood of its own, with its columns and its decoder outputs."""
    start = place = 0
    for (name, count, *params), part in zip(PARTS, likelihood.parts, strict=True):
        own = LIKELIHOODS[name]((count,), **(params[0] if params else {}))
        own.load_state_dict(part.state_dict())
        size = int(np.prod(own.output))
        yield own, slice(start, start + count), slice(place, place + size)
        start, place = start + count, place + size


def test_a_mixed_likelihood_is_the_sum_of_its_parts():
    likelihood = mixed()
    assert likelihood.output == (COLUMNS + 1,)
    assert likelihood.width >= COLUMNS + 1
    assert likelihood.largest == 255
    out = torch.randn(3, 6, COLUMNS + 1)
    x = likelihood.sample(out)[0]
    assert likelihood.invalid(x, torch.ones_like(x, dtype=torch.bool)) == ""
    observed = torch.rand(6, COLUMNS) < 0.6
    for seen in (None, observed):
        total, entries, features = 0, [], []
        for own, columns, place in alone(likelihood):
            given = (
                out[..., place].unflatten(-1, own.output),
                x[:, columns],
                None if seen is None else seen[:, columns],
            )
            total = total + own.log_prob(*given)
            entries.append(own.entries(*given))
            features.append(own.features(x[:, columns]))
        assert torch.equal(likelihood.log_prob(out, x, seen), total)
        assert torch.equal(likelihood.entries(out, x, seen), torch.cat(entries, -1))
        assert torch.equal(likelihood.features(x), torch.cat(features, -1))
    means = [own.mean(out[..., place].unflatten(-1, own.output)) for own, _, place in alone(likelihood)]
    assert torch.equal(likelihood.mean(out), torch.cat(means, -1))


def test_missing_entries_have_no_influence_and_joined_columns_stay_joined():
    likelihood = mixed()
    out = torch.randn(6, COLUMNS + 1, requires_grad=True)
    x = likelihood.sample(out.detach())
    observed = torch.rand(6, COLUMNS) < 0.6
    observed[0] = False
    observed[1] = True
    counted = likelihood.counted(observed)
    for classes in (slice(3, 6), slice(6, 8)):
        assert torch.equal(
            counted[:, classes], observed[:, classes].all(1, keepdim=True).expand_as(counted[:, classes])
        )
    rest = [*range(3), *range(8, COLUMNS)]
    assert torch.equal(counted[:, rest], observed[:, rest])
    total = likelihood.log_prob(out, torch.where(observed, x, 1e30), observed)
    torch.testing.assert_close(
        total, likelihood.log_prob(out, torch.where(observed, x, -7.5), observed), rtol=0, atol=0
    )
    torch.testing.assert_close(total, torch.where(counted, likelihood.entries(out, x, observed), 0).sum(-1))
    assert float(total[0].detach()) == 0
    torch.testing.assert_close(total[1:2], likelihood.log_prob(out[1:2], x[1:2]))
    total.sum().backward()
    assert bool(out.grad.isfinite().all())
    assert bool((out.grad[0] == 0).all())


def test_draws_of_each_part_have_its_mean():
    likelihood = LIKELIHOODS["mixed"](
        (9,), parts=[["normal", 1], ["categorical", 3], ["ordinal", 1, {"levels": 4}], ["poisson", 4]]
    )
    out = torch.randn(9)
    draws = likelihood.sample(out.expand(20_000, 9))
    mean, error = likelihood.mean(out).detach(), draws.std(0) / 20_000**0.5
    assert bool(((draws.mean(0) - mean).abs() <= 5 * error).all())
    assert torch.equal(draws[:, 1:4].sum(1), torch.ones(20_000))


def test_parts_of_counts_have_their_own_library_sizes():
    parts = [
        ["poisson", 2],
        ["normal", 1],
        ["negative_binomial", 2, {"library": 8.0}],
        ["poisson", 1, {"library": "none"}],
    ]
    model = build(
        "vae", [Modality("x", (6,), "mixed", params={"parts": parts, "hidden": [4]})], latent=2
    ).eval()
    x = torch.tensor([[30.0, 70.0, 0.5, 3.0, 1.0, 2.0], [0.0, 5.0, 0.5, 0.0, 40.0, 2.0]])
    made = model.generate(Batch.of({"x": x}))["x"][0]
    assert made[:, :2].sum(1).tolist() == pytest.approx([100, 5])
    assert made[:, 3:5].sum(1).tolist() == pytest.approx([4, 40])
    free = model.sample(3)["x"]
    assert free[:, :2].sum(1).tolist() == pytest.approx([10_000] * 3)
    assert free[:, 3:5].sum(1).tolist() == pytest.approx([8] * 3)
    without = LIKELIHOODS["mixed"]((2,), parts=[["normal", 1], ["poisson", 1, {"library": "none"}]])
    assert without.library_of(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)) is None


def test_what_is_wrong_names_the_part_and_its_columns():
    likelihood = mixed()
    x = likelihood.sample(torch.randn(4, COLUMNS + 1))
    seen = torch.ones_like(x, dtype=torch.bool)
    for column, value, says in (
        (
            2,
            7.0,
            r"in part 1 ('bernoulli', column 2) 1 value of 4 that cannot occur, such as 7; expected 0 to 1; rescale it",
        ),
        (4, 0.5, "in part 2 ('categorical', columns 3 to 5) fractions or rows that do not sum to 1"),
        (
            8,
            4.0,
            "in part 4 ('ordinal', column 8) 1 value of 4 that cannot occur, such as 4; expected ranks, whole numbers from 0 to 3",
        ),
        (16, 1.0, "in part 9 ('beta', column 16) 1 value of 4"),
    ):
        wrong = x.clone()
        wrong[1, column] = value
        assert likelihood.invalid(wrong, seen).startswith(says)
        hidden = seen.clone()
        hidden[1, column] = False
        assert likelihood.invalid(wrong, hidden) == ""
    model = build(
        "mvae", [Modality("t", (2,), "mixed", params={"parts": [["bernoulli", 1], ["normal", 1]]})], latent=1
    )
    with pytest.raises(
        InputError,
        match=r"^modality 't' \(mixed\): got in part 0 \('bernoulli', column 0\) 1 value of 1 .*from 0$",
    ):
        model.embed(Batch.of({"t": torch.tensor([[3.0, 1.0]])}))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (None, "got parts=None; expected a list of"),
        ([], r"got parts=\[\]; expected a list of"),
        ("normal", "got parts='normal'; expected a list of"),
        ([["normal"]], r"part 0: got \['normal'\]; expected \[likelihood, number of columns\]"),
        ([["normal", 3], ["gauss", 1]], "part 1: unknown likelihood 'gauss'"),
        ([["mixed", 4]], "part 0: unknown likelihood 'mixed'"),
        ([["tokens", 4]], "part 0: unknown likelihood 'tokens'"),
        ([["normal", 0]], r"part 0 \('normal'\): got columns=0"),
        ([["normal", 4, 3]], r"part 0 \('normal'\): got params=3"),
        ([["normal", 3]], "got parts of 3 columns in all for a table of 4"),
        ([["normal", 3], ["ordinal", 1]], r"part 1 \('ordinal', column 3\): got no 'levels'"),
        (
            [["normal", 2], ["ordinal", 2, {"level": 3}]],
            r"part 1 \('ordinal', columns 2 to 3\): unknown parameter 'level'; did you mean",
        ),
        (
            [["normal", 2, {"scale": 0}], ["normal", 2]],
            r"part 0 \('normal', columns 0 to 1\): likelihood: got scale=0",
        ),
        (
            [["segmentation", 4]],
            r"part 0 \('segmentation', columns 0 to 3\): .*expected \(classes, \*sizes\)",
        ),
    ],
)
def test_parts_that_cannot_be_are_one_line(parts, says):
    with pytest.raises(InputError, match=says) as problem:
        build("vae", [Modality("x", (4,), "mixed", params={"parts": parts})])
    assert "\n" not in str(problem.value)


def test_a_table_has_one_axis():
    with pytest.raises(InputError, match=r"likelihood 'mixed': got shape \(2, 2\); expected \(columns,\)"):
        build("vae", [Modality("x", (2, 2), "mixed", params={"parts": [["normal", 4]]})])
    with pytest.raises(InputError, match="modality 'x': got no 'parts' for likelihood 'mixed'"):
        build("vae", [Modality("x", (2,), "mixed")])


SMALL = {"hidden": [5]}


TABLE = Modality("table", (COLUMNS,), "mixed", params={"parts": PARTS, **SMALL})
FIRST = (
    replace(TABLE, entries=True),
    Modality("amount", (3,), "student_t", params={"df": "learned", "scale": "learned", **SMALL}),
    Modality("share", (2, 2), "beta", params=SMALL),
    Modality("score", (3,), "ordinal", params={"levels": 3, **SMALL}),
)
SECOND = (
    Modality("wins", (3,), "beta_binomial", params={"total": 5, **SMALL}, role="target"),
    Modality("pixels", (2, 3), "discretised_logistic", params={"values": 16, "scale": "per_entry", **SMALL}),
    TABLE,
)


@pytest.mark.parametrize(
    ("law", "specs"),
    [
        (law_missing, FIRST),
        (law_missing, SECOND),
        (law_entries, FIRST),
        (law_entries, SECOND),
        (law_per_sample, FIRST[:2]),
    ],
)
def test_models_of_these_likelihoods_obey_the_laws_of_missing_data(law, specs):
    law(lambda specs: build("mvae", specs, latent=2), specs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "specs"), [("mmvae+", FIRST), ("mvae", FIRST), ("mopoe", SECOND)])
def test_models_of_these_likelihoods_obey_all_laws(name, specs):
    check_model(name, modalities=specs, latent=2)


@pytest.mark.slow
@pytest.mark.parametrize("specs", [FIRST, SECOND])
def test_these_likelihoods_are_trained_evaluated_stored_and_reported(tmp_path, specs):
    """Possible values, of which some are missing, from the data set to the report."""
    torch.set_default_dtype(torch.float32)  # of training; the fixture restores it
    torch.manual_seed(0)
    nets = build("mvae", specs, latent=2).modalities
    draws = {
        name: net.likelihood.sample(torch.randn(80, *net.likelihood.output)) for name, net in nets.items()
    }
    observed = {name: torch.rand(x.shape) < 0.8 for name, x in draws.items()}
    labels = torch.arange(80) % 3
    data = MultimodalData(draws, entries=observed, modalities=specs, labels=labels).split(seed=0)
    model = build("mvae", [replace(spec, entries=True) for spec in specs], latent=2)
    history = fit(model, data, epochs=3, batch_size=16, out=tmp_path / "run", show=False, precision="fp32")
    assert history.stopped == "done"
    metrics = ["likelihood", "reconstruction", "latents"]
    found = evaluate(model, data.test, metrics=metrics, likelihood_samples=20, show=False)
    assert np.isfinite(found["log_likelihood"])
    assert all(np.isfinite(cell["mse"]) for row in found["reconstruction"].values() for cell in row.values())
    batch = data.test.take(slice(0, 5))
    again = load_model(tmp_path / "run")
    torch.testing.assert_close(again.embed(batch), model.eval().embed(batch))
    for sample in (False, True):
        for name, x in again.generate(batch, K=2, sample=sample).items():
            assert bool(x.isfinite().all())
            seen = torch.ones_like(x[0], dtype=torch.bool)
            assert not sample or again.modalities[name].likelihood.invalid(x[0], seen) == ""
    page = write_report(tmp_path / "run", model, data, found)
    assert "nan" not in page.read_text("utf-8").lower().split("<svg")[0]

"""Likelihoods that are chosen by the values of the data."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import polyvae as pv
from polyvae.config import read_config
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.data.automatic import chosen
from polyvae.data.suitable import unsuited
from polyvae.runs import data_of, model_of, train_run

N = 60
IDS = pd.Index([f"s{i}" for i in range(N)], name="id")
NORMAL = {"scale": "per_entry"}


def standard(table: pd.DataFrame, *columns: str) -> dict[str, list[float]]:
    """Means and standard deviations, as they are stored."""
    own = table[list(columns)].astype(np.float64)
    return {
        key: [float(f"{value:.9g}") for value in x]
        for key, x in {"center": own.mean(), "std": own.std(ddof=0)}.items()
    }


def clinical() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": random.normal(size=N),
            "bmi": random.normal(size=N),
            "smoker": random.random(N) > 0.5,
            "visits": random.poisson(3, N),
            "arm": random.choice(["a", "b", "c"], N),
            "stage": pd.Categorical(random.choice(["i", "ii", "iii"], N), ["i", "ii", "iii"], ordered=True),
        },
        index=IDS,
    )
    table.loc["s3", "age"], table.loc["s4", "arm"] = np.nan, None
    return table


def counts(columns: int) -> pd.DataFrame:
    x = np.random.default_rng(1).poisson(5, (N, columns))
    return pd.DataFrame(x, index=IDS, columns=[f"g{place}" for place in range(columns)])


def data(**more: pd.DataFrame) -> pv.MultimodalData:
    return pv.MultimodalData.from_frames({"clinical": clinical(), **more}, nan="missing")


PARTS = [
    ["normal", 2, {**NORMAL, **standard(clinical(), "age", "bmi")}],
    ["bernoulli", 1],
    ["poisson", 1, {"library": "none"}],
    ["categorical", 3],
    ["ordinal", 1, {"levels": 3}],
]


def test_a_mixed_table_has_a_part_for_each_kind_of_column():
    given = data()
    (spec,) = given.modalities(likelihood="auto", weight=2.0)
    assert (spec.likelihood, spec.params, spec.entries, spec.weight) == ("mixed", {"parts": PARTS}, True, 2)
    assert chosen(given, spec) == (
        "modality 'clinical': mixed: standardised normal ('age', 'bmi'), bernoulli ('smoker'), poisson ('visits'), categorical ('arm'), "
        "ordinal of 3 levels ('stage')"
    )
    bound = pv.MVAE([spec], latent=2)(given.take(slice(0, 8)))
    assert bool(bound.value.isfinite().all())


def test_a_table_of_one_kind_has_one_likelihood():
    random = np.random.default_rng(2)
    tables = {
        "real": pd.DataFrame(random.normal(size=(N, 3)), index=IDS, columns=list("abc")),
        "few": counts(3),
        "flags": pd.DataFrame(random.integers(0, 2, (N, 3)), index=IDS, columns=list("abc")),
        "arm": pd.DataFrame({"arm": random.choice(["a", "b", "c"], N)}, index=IDS),
        "genes": counts(60),
    }
    specs = {spec.name: spec for spec in data(**tables).modalities(likelihood="auto")}
    found = {name: (spec.likelihood, spec.params) for name, spec in specs.items() if name != "clinical"}
    assert found == {
        "real": ("normal", {**NORMAL, **standard(tables["real"], *"abc")}),
        "few": ("poisson", {"library": "none"}),
        "flags": ("bernoulli", {}),
        "arm": ("categorical", {}),
        "genes": ("negative_binomial", {"library": float(np.median(counts(60).sum(1)))}),
    }


def test_blocks_of_rows_and_sparse_matrices_give_the_same(monkeypatch):
    from scipy import sparse

    dense = counts(60).to_numpy(dtype=np.float32)
    dense[0] = 0
    given = pv.MultimodalData({"dense": dense, "sparse": sparse.csr_matrix(dense)})
    whole = given.modalities(likelihood="auto")
    monkeypatch.setattr("polyvae.data.automatic._CELLS", 60 * 7)
    assert whole == given.modalities(likelihood="auto")
    assert whole[0].params == whole[1].params == {"library": float(np.median(dense[1:].sum(1)))}


def test_images_and_sentences_keep_their_likelihood():
    images = pv.Modality("image", (1, 4, 4), likelihood="laplace", params={"scale": 0.5})
    x = np.random.default_rng(3).normal(size=(4, 1, 4, 4))
    texts = pv.text(["a b", "b", "a", "b a"], name="caption")
    given = pv.MultimodalData({"image": x, "caption": texts}, modalities=[images])
    assert given.modalities(likelihood="auto") == given.modalities()


def test_columns_are_overridden_by_name():
    given = data(other=counts(3))
    stated = {"age": "student_t", "stage": ["normal", NORMAL], "arm": "categorical"}
    spec, other = given.modalities(likelihood="auto", params={"overrides": stated, "hidden": [8]})
    age, bmi = (standard(clinical(), column) for column in ("age", "bmi"))
    assert spec.params["parts"][:2] == [["student_t", 1, age], ["normal", 1, {**NORMAL, **bmi}]]
    assert [part[:2] for part in spec.params["parts"][-2:]] == [["categorical", 3], ["normal", 1]]
    assert spec.params["hidden"] == other.params["hidden"] == [8]
    assert other.likelihood == "poisson"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"agee": "normal"}, "modality 'clinical': overrides: there is no column 'agee'; did you mean 'age'"),
        (
            {"age": "normle"},
            r"overrides\['age'\]: got 'normle'|unknown likelihood 'normle'; did you mean 'no",
        ),
        ({"age": 3}, r"overrides\['age'\]: got 3"),
        ({"arm": "normal"}, "'arm', which is stored as a column for each of its 3 classes"),
        (["age"], "expected a mapping from columns to likelihoods"),
    ],
)
def test_what_is_stated_wrongly_is_one_line(overrides, says):
    for given in (data(), data(other=counts(3))):
        with pytest.raises(pv.InputError, match=says):
            given.modalities(likelihood="auto", params={"overrides": overrides})


def test_auto_is_no_likelihood_of_a_specification():
    with pytest.raises(
        pv.InputError,
        match=r"unknown likelihood 'auto'; expected one of .*; data.modalities\(likelihood='auto'\)",
    ):
        pv.Modality("x", 3, likelihood="auto")


@pytest.mark.parametrize("name", sorted(pv.LIKELIHOODS))
def test_no_likelihood_accepts_parameters_of_another(name):
    own = {
        "ordinal": {"levels": 3},
        "beta_binomial": {"total": 3},
        "mixed": {"parts": [["normal", 3]]},
    }.get(name, {})
    wrong = {"garbage": "known: |did you mean", "overrides": "'overrides' belongs to data.modalities"}
    wrong |= {} if name == "mixed" else {"parts": "'parts' belongs to likelihood 'mixed'"}
    shape = (3, 4) if name == "segmentation" else (3,)
    for key, says in wrong.items():
        spec = pv.Modality("x", shape, likelihood=name, params={**own, key: [["normal", 3]]})
        with pytest.raises(
            pv.InputError, match=f"unknown parameter '{key}' for likelihood '{name}'; ({says})"
        ):
            pv.MVAE([spec], latent=2)


def test_a_configuration_chooses_for_all_and_says_so(tmp_path, capsys):
    clinical().to_csv(tmp_path / "clinical.csv")
    counts(3).to_csv(tmp_path / "other.csv")
    settings = [
        f"data.name={tmp_path}/clinical.csv",
        f'data.options={{files = ["{tmp_path}/other.csv"], nan = "missing"}}',
        "model.name=mvae",
        "model.latent=2",
        "modality.*.likelihood=auto",
        "modality.clinical.likelihood=auto",
        'modality.clinical.params={overrides = {age = "student_t"}}',
        "train.epochs=1",
    ]
    config = read_config(None, settings)
    model = model_of(config, data_of(config)[0])
    assert model.modalities["clinical"].spec.params["parts"][0][:2] == ["student_t", 1]
    assert model.modalities["other"].spec.likelihood == "poisson"
    train_run(config, tmp_path / "run")
    assert (
        "modality 'clinical': mixed: standardised student_t ('age'), standardised normal ('bmi')"
        in capsys.readouterr().err
    )
    stored = pv.load_model(tmp_path / "run").modalities["clinical"].spec
    assert stored.params["parts"] == model.modalities["clinical"].spec.params["parts"]
    missing = [*settings[:6], 'modality.clinical.params={overrides = {g0 = "normal"}}']
    config = read_config(None, missing)
    with pytest.raises(pv.InputError, match="modality 'clinical': overrides: there is no column 'g0'"):
        model_of(config, data_of(config)[0])


def test_a_date_is_standardised_by_the_training_part_and_spoils_nothing():
    random = np.random.default_rng(4)
    table = pd.DataFrame(
        {"date": 20240131.0 + 100 * random.integers(0, 9, N), "bmi": random.normal(25, 4, N)}, index=IDS
    )
    with pytest.warns(UserWarning, match="look like dates"):
        given = pv.MultimodalData.from_frames({"clinical": table}).split(seed=1)
    (spec,) = given.modalities(likelihood="auto", params={"hidden": [8]})
    rows = given._splits["train"].tolist()
    assert spec.params == {"hidden": [8], **NORMAL, **standard(table.iloc[rows], "date", "bmi")}
    model = pv.MVAE([spec], latent=1)
    batch = given.take(slice(0, N))
    features = model.modalities["clinical"].features(batch.data["clinical"].float(), None)
    assert float(features.abs().max()) < 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(model, given, epochs=1, show=False)
    made = model.generate(batch, sample=True)["clinical"][0]
    assert torch.allclose(made.mean(0), batch.data["clinical"].float().mean(0), rtol=0.2)


def test_stated_scales_and_constant_columns_are_left_alone():
    table = pd.DataFrame({"a": [7.5] * N, "b": clinical()["bmi"], "c": clinical()["bmi"]}, index=IDS)
    stated = {"c": ["laplace", {"scale": 0.5}]}
    (spec,) = pv.MultimodalData.from_frames({"t": table}).modalities(
        likelihood="auto", params={"overrides": stated}
    )
    real, laplace = spec.params["parts"]
    assert (real[2]["center"][0], real[2]["std"][0]) == (7.5, 1)
    assert laplace == ["laplace", 1, {"scale": 0.5}]


def panel(means: list[float], theta: float = 2.0) -> np.ndarray:
    random = np.random.default_rng(5)
    rates = random.gamma(theta, np.array(means) / theta, (N, len(means)))
    return random.poisson(rates).astype(np.float64)


@pytest.mark.parametrize(
    ("x", "likelihood"),
    [
        (panel([3, 50, 400]), "negative_binomial"),
        (panel([3, 5, 8, 200, 900, 2000]), "negative_binomial"),
        (panel([3, 5, 8], 1000.0), "poisson"),
        (panel([3, 5, 8, 0.05, 0]), "negative_binomial"),
        (40 + panel([3, 50, 400]), "normal"),
    ],
)
def test_a_panel_of_counts_has_one_likelihood(x, likelihood):
    (spec,) = pv.MultimodalData({"x": x}).modalities(likelihood="auto")
    assert spec.likelihood == likelihood
    if likelihood == "negative_binomial" and x.mean(0).max() > 30:
        assert spec.params == {"library": float(np.median(x.sum(1)))}


def test_a_panel_with_a_column_of_another_kind_and_a_table_of_measurements():
    x = panel([3.0, 5, 8, 40, 50, 200, 300, 400, 500, 900])
    table = pd.DataFrame(x, index=IDS, columns=[f"g{at}" for at in range(10)]).assign(ph=clinical()["bmi"])
    (spec,) = pv.MultimodalData.from_frames({"t": table}).modalities(likelihood="auto")
    library = {"library": float(np.median(x.sum(1)))}
    assert [part[:2] for part in spec.params["parts"]] == [["negative_binomial", 10], ["normal", 1]]
    assert spec.params["parts"][0][2] == library
    random = np.random.default_rng(6)
    vitals = pd.DataFrame(
        {
            name: random.normal(mean, mean / 8, N).round()
            for name, mean in [("age", 60), ("sbp", 120), ("bpm", 70), ("cm", 170), ("kg", 80)]
        },
        index=IDS,
    ).assign(smoker=random.integers(0, 2, N))
    (spec,) = pv.MultimodalData.from_frames({"t": vitals}).modalities(likelihood="auto")
    assert [part[:2] for part in spec.params["parts"]] == [["normal", 5], ["bernoulli", 1]]


def test_every_remedy_that_is_printed_works():
    random = np.random.default_rng(7)
    x = np.column_stack([random.normal(900, 3, N), random.poisson(3, N)])
    parts = [["normal", 1, NORMAL], ["poisson", 1, {"library": "none"}]]
    seen = torch.ones(N, 2, dtype=torch.bool)
    text = unsuited("t", LIKELIHOODS["mixed"]((2,), parts=parts), torch.as_tensor(x), seen)
    assert "scale=" not in text
    assert "standardise these columns, or give center and std in the params of the part" in text
    parts[0][2] = {**NORMAL, "center": [900.0], "std": [3.0]}
    assert not unsuited("t", LIKELIHOODS["mixed"]((2,), parts=parts), torch.as_tensor(x), seen)
    (spec,) = pv.MultimodalData({"t": x}).modalities(likelihood="auto")
    assert not unsuited("t", LIKELIHOODS["mixed"]((2,), **spec.params), torch.as_tensor(x), seen)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("atuo", r"did you mean 'auto'\? data.modalities\(likelihood='auto'\) chooses one"),
        ("Poison", r"did you mean 'poisson'\?$"),
        ("q", r"choose one, or let data.modalities\(likelihood='auto'\) choose"),
    ],
)
def test_an_unknown_likelihood_names_the_nearest_and_lists_what_is_known(name, hint):
    for make in (
        lambda: pv.Modality("a", (3,), likelihood=name),
        lambda: pv.MultimodalData({"a": np.ones((2, 1))}).modalities(likelihood=name),
    ):
        with pytest.raises(
            pv.InputError, match=f"{name!r}; expected one of normal, laplace, .*, mixed; {hint}"
        ):
            make()

"""Likelihoods that are chosen by the values of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.config import read_config
from polyvae.data.automatic import chosen
from polyvae.runs import data_of, model_of, train_run

N = 60
IDS = pd.Index([f"s{i}" for i in range(N)], name="id")
NORMAL = {"scale": "per_entry"}


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
    ["normal", 2, NORMAL],
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
        "modality 'clinical': mixed: normal ('age', 'bmi'), bernoulli ('smoker'), poisson ('visits'), categorical ('arm'), "
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
        "real": ("normal", NORMAL),
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
    assert spec.params["parts"][:2] == [["student_t", 1], ["normal", 1, NORMAL]]
    assert spec.params["parts"][-2:] == [["categorical", 3], ["normal", 1, NORMAL]]
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
        pv.InputError, match=r"unknown likelihood 'auto'; data.modalities\(likelihood='auto'\)"
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
    assert model.modalities["clinical"].spec.params["parts"][0] == ["student_t", 1]
    assert model.modalities["other"].spec.likelihood == "poisson"
    train_run(config, tmp_path / "run")
    assert "modality 'clinical': mixed: student_t ('age'), normal ('bmi')" in capsys.readouterr().err
    assert pv.load_model(tmp_path / "run").modalities["clinical"].spec.likelihood == "mixed"
    missing = [*settings[:6], 'modality.clinical.params={overrides = {g0 = "normal"}}']
    config = read_config(None, missing)
    with pytest.raises(pv.InputError, match="modality 'clinical': overrides: there is no column 'g0'"):
        model_of(config, data_of(config)[0])

"""Classes: sets cover, draws have the predicted probabilities, and what goes in as a class comes out as one."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import polyvae as pv
from polyvae.data.groups import Group
from polyvae.imputation.filling.classes import (
    chances,
    classes_at,
    classes_of_ranks,
    distances,
    limits_by_class,
    probable_sets,
    rank_ends,
    sets,
    sets_by_class,
    threshold,
)

KINDS = {"clinical": {"grade": "ordinal"}}
QUICK = {"steps": 15, "members": 2, "latent": 3, "seed": 0, "kinds": KINDS}


def cohort(n: int = 90, seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    ids = [f"p{i:03d}" for i in range(n)]
    stage = np.clip(np.digitize(z[:, 0] + 0.3 * rng.normal(size=n), [-0.7, 0.7]), 0, 2)
    clinical = pd.DataFrame(
        {
            "age": 60 + 10 * z[:, 0] + rng.normal(size=n),
            "stage": pd.Categorical.from_codes(stage, ["i", "ii", "iii"], ordered=True),
            "type": np.array(["a", "b", "c"])[(z[:, 1] > -0.5).astype(int) + (z[:, 1] > 0.5)],
            "dead": z[:, 0] + 0.5 * rng.normal(size=n) > 0,
            "grade": np.digitize(z[:, 1], [-0.5, 0.5]) + 1,
            "nodes": rng.poisson(np.exp(z[:, 1])),
        },
        index=ids,
    )
    omics = pd.DataFrame(z @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(n, 6)), ids, list("uvwxyz"))
    return {"clinical": clinical, "omics": omics}


def gaps(data: dict[str, pd.DataFrame], seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    whole = data["clinical"].astype({"type": object, "dead": object})
    return {**data, "clinical": whole.mask(rng.random(whole.shape) < 0.2)}


@pytest.fixture(scope="module")
def given():
    return gaps(cohort())


@pytest.fixture(scope="module")
def fitted(given):
    return pv.Estimator(**QUICK).fit(given)


# ---- sets and draws ------------------------------------------------------------------------------------------


def test_the_limit_of_sets_is_the_conformal_quantile():
    scores = np.array([0.5, 0.1, 0.4, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6])
    assert threshold(scores, 0.5) == 0.5  # the ceil(10 · 0.5)-th smallest
    assert threshold(scores, 0.9) == 0.9
    assert threshold(scores[:8], 0.9) == np.inf
    assert threshold(np.zeros(0), 0.9) == np.inf


def test_sets_cover_whatever_the_probabilities_are():
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), 20000)
    codes = classes_at(true, rng.random(len(true)))
    wrong = true**3 / (true**3).sum(1, keepdims=True)
    scores = 1 - wrong[np.arange(len(codes)), codes]
    inside = sets(wrong[500:], threshold(scores[:500], 0.8))
    assert inside[np.arange(19500), codes[500:]].mean() == pytest.approx(0.8, abs=0.04)
    assert inside.any(1).all()
    probable = probable_sets(true, 0.8)
    assert ((true * probable).sum(1) >= 0.8 - 1e-6).all()
    assert probable[np.arange(20000), codes].mean() > 0.8


def test_class_conditional_sets_cover_each_class_however_rare():
    """P(class in set | class) = ceil((n + 1) level) / (n + 1) for its n samples; limits of all samples together leave the rare one out."""
    rng = np.random.default_rng(1)
    codes = (rng.random(42000) < 0.05).astype(np.intp)
    chance = 1 / (1 + np.exp(3 - 1.5 * codes - 0.7 * rng.normal(size=len(codes))))
    found = np.stack([1 - chance, chance], 1)
    at, new, true = np.arange(40000), found[2000:], codes[2000:]
    together = sets(new, threshold(1 - found[np.arange(2000), codes[:2000]], 0.9))[at, true]
    limits = limits_by_class(1 - found[:2000], codes[:2000], 0.9)
    apart = sets_by_class(1 - new, limits)
    assert together[true == 1].mean() < 0.1
    assert together.mean() > 0.9
    assert apart[at, true][true == 1].mean() == pytest.approx(0.9, abs=0.05)
    assert apart[at, true][true == 0].mean() == 1  # the most probable class is in every set
    few = limits_by_class(1 - found[:30], np.zeros(30, np.intp), 0.9)
    assert few[0] < np.inf
    assert few[1] == np.inf  # a class without enough samples is in all sets
    assert sets_by_class(1 - new, few)[:, 1].all()


def test_distances_of_classes_and_ranks():
    names = Group(name="a", levels=["x", "y", "z"], start=0, ranks=False)
    assert distances(names, np.array([[0.2, 0.5, 0.3]])) == pytest.approx(np.array([[0.8, 0.5, 0.7]]))
    ranks = Group(name="a", levels=["x", "y", "z"], start=0, ranks=True)
    assert distances(ranks, np.array([[0.2], [5.0]])) == pytest.approx(np.array([[0.2, 0.8, 1.8], [2, 1, 0]]))


def test_draws_have_the_probabilities_that_were_predicted():
    rng = np.random.default_rng(0)
    found = np.repeat([[0.1, 0.6, 0.3]], 40000, 0)
    ranks = rng.random((40000, 3))
    ranks[:, 0] = 1 - ranks[:, 1]  # dependent columns change no probability
    for codes in (classes_at(found, rng.random(40000)), classes_of_ranks(found, ranks)):
        assert np.bincount(codes, minlength=3) / 40000 == pytest.approx(found[0], abs=0.01)
    most = classes_of_ranks(found, ranks) == 1
    assert ranks[most, 1].min() > ranks[~most, 1].max()  # and depend on the rank of the most probable class


def test_predictions_of_indicators_become_probabilities():
    group = Group(name="a", levels=["x", "y"], start=0, ranks=False)
    found = chances(group, np.array([[-0.2, 0.5], [0.0, 0.0], [1.5, 0.5]]))
    assert found == pytest.approx(np.array([[0, 1], [0.5, 0.5], [0.75, 0.25]]))
    flag = Group(name="a", levels=[False, True], start=0, ranks=True)
    assert chances(flag, np.array([[1.2], [0.3]])) == pytest.approx(np.array([[0, 1], [0.7, 0.3]]))


def test_ends_of_ranks_are_levels_inside_the_interval():
    group = Group(name="a", levels=["i", "ii", "iii", "iv"], start=0, ranks=True)
    centre, width = np.array([0.2, 1.5, 2.9, 1.4]), np.array([0.5, 0.6, np.inf, 0.1])
    low, high = rank_ends(group, centre, -width, width)
    assert low.tolist() == [0, 1, 0, 1]
    assert high.tolist() == [0, 2, 3, 1]


def test_columns_of_a_class_are_hidden_together(fitted):
    features, imputer = fitted.schema_["clinical"], fitted._imputer
    own = next(group.columns for group in features.groups if group.name == "type")
    others = [at for at in range(len(features.columns)) if not own.start <= at < own.stop]
    hidden = imputer.chosen("clinical", np.random.default_rng(0).random((400, len(features.columns))))
    members = next(iter(imputer.ensembles.values()))
    shown = members._shown({"clinical": torch.ones(2, 200, len(features.columns), dtype=torch.bool)})
    for flags in (hidden, shown["clinical"].flatten(0, 1).numpy()):
        assert (flags[:, own] == flags[:, own][:, :1]).all()
        assert 0.1 < flags[:, own.start].mean() < 0.9
        assert not (flags[:, others] == flags[:, others][:, :1]).all()


# ---- in and out ----------------------------------------------------------------------------------------------


def test_classes_come_back_as_they_were_given(fitted, given):
    filled, measured = fitted.impute(given)["clinical"], given["clinical"]
    assert list(filled.columns) == list(measured.columns)
    assert filled["stage"].dtype == cohort()["clinical"]["stage"].dtype
    assert filled["dead"].dtype == bool
    assert filled.notna().all(axis=None)
    assert set(filled["type"]) <= {"a", "b", "c"}
    assert set(filled["grade"]) <= {1, 2, 3}
    for column in measured:
        known = measured[column].notna()
        assert (filled[column][known] == measured[column][known]).all(), column


def test_imputed_classes_are_better_than_the_most_frequent_ones(fitted, given):
    est = fitted
    filled, truth = est.impute(given)["clinical"], cohort()["clinical"]
    for column in ("stage", "type", "dead", "grade"):
        hidden = given["clinical"][column].isna()
        majority = truth[column].astype(str).value_counts().iloc[0] / len(truth)
        assert (filled[column].astype(str) == truth[column].astype(str))[hidden].mean() > majority + 0.1
    for column in ("stage", "type", "dead", "grade"):
        found = est.scores_.value("clinical", "stack", "accuracy", feature=column)
        assert 0.6 < found <= 1
    assert (
        est.scores_.value("clinical", "stack", "accuracy")
        > est.scores_.value("clinical", "mean", "accuracy") + 0.2
    )
    assert 0.85 < est.scores_.value("clinical", "stack", "set_coverage", feature="type") <= 1
    assert est.scores_.value("clinical", "stack", "r2", feature="type=a") is None


def test_a_class_has_the_r2_of_its_indicators_and_an_area(fitted):
    schema, name, scores = fitted.schema_, "clinical", fitted.scores_
    combination = fitted._imputer.combination(fitted._imputer.others(name), name)
    group = next(group for group in schema[name].groups if group.name == "type")
    seen = combination.seen[:, group.start]
    y, guess = (x[seen][:, group.columns] for x in (combination.y, combination.left_out["stack"]))
    expected = 1 - ((y - guess) ** 2).sum() / (y**2).sum()  # standardised
    assert scores.value(name, "stack", "r2", feature="type") == pytest.approx(expected, rel=1e-5)
    own = scores.select(modality=name, method="stack", pattern=None)
    for score in ("auroc", "accuracy", "log_loss"):
        single = [row.value for row in own.select(score=score).rows if row.feature is not None]
        assert len(single) > 1
        assert scores.value(name, "stack", score) == pytest.approx(np.mean(single))
    area = scores.value(name, "stack", "auroc", feature="type")
    assert 0.5 < area <= 1


@pytest.mark.parametrize(
    ("of", "match"), [(("clinical", "type"), r"\('clinical', 'type=a'\)"), ("risk", "no output of the VAE")]
)
def test_what_has_no_attribution_is_one_line(fitted, given, of, match):
    with pytest.raises(pv.InputError, match=match) as found:
        fitted.attribute(given, of)
    assert "\n" not in str(found.value)


def test_variance_given_the_others_is_the_r2_of_the_scores(fitted):
    found = fitted.variance_explained()
    for name in found.modalities:
        assert found.value(name, "others") == fitted.scores_.value(name, "stack", "r2")
    own = fitted.scores_.value("clinical", "stack", "r2", feature="type")
    assert found.value("clinical", "others", "type=a") == own


def test_intervals_of_classes_are_sets_and_levels(fitted, given):
    filled, low, high = (table["clinical"] for table in fitted.impute(given, interval=0.9))
    hidden = given["clinical"]["type"].isna()
    assert (low["type"] == high["type"]).all()
    for row in np.flatnonzero(hidden):
        assert filled["type"].iloc[row] in low["type"].iloc[row].split(" | ")
    assert (low["type"][~hidden] == filled["type"][~hidden]).all()
    assert (low["stage"] <= filled["stage"]).all()
    assert (filled["stage"] <= high["stage"]).all()
    assert (low["dead"] <= high["dead"]).all()


def test_class_conditional_intervals_contain_the_prediction(fitted, given):
    filled, low, high = (
        table["clinical"] for table in fitted.impute(given, interval=0.9, kind="class-conditional")
    )
    plain = fitted.impute(given, interval=0.9)[1]["clinical"]
    assert low["age"].equals(plain["age"])
    for row in np.flatnonzero(given["clinical"]["type"].isna()):
        assert filled["type"].iloc[row] in low["type"].iloc[row].split(" | ")
    for column in ("stage", "grade", "dead"):
        assert (low[column] <= filled[column]).all()
        assert (filled[column] <= high[column]).all()
    with pytest.raises(pv.InputError, match="got kind='mondrian'; expected one of conformal, class-cond"):
        fitted.impute(given, interval=0.9, kind="mondrian")


def test_class_conditional_ends_of_flags_are_flags():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(90, 1))
    x = np.concatenate([z + 0.3 * rng.normal(size=(90, 3)), z > 1.2], 1)
    given = np.where(rng.random(x.shape) < 0.3, np.nan, x)
    est = pv.Estimator(steps=15, members=2, latent=2, seed=0)
    _, low, high = est.fit(given).impute(given, interval=0.9, kind="class-conditional")
    gaps = np.isnan(given[:, 3])
    assert set(low[gaps, 3]) <= {0, 1}
    assert set(high[gaps, 3]) <= {0, 1}
    assert (low <= high).all()
    assert high[gaps & (x[:, 3] == 1), 3].mean() > 0.7


def test_draws_are_classes_never_two_of_a_column(fitted, given):
    data = pv.MultimodalData.from_frames(given, nan="missing")
    drawn = fitted.impute(data, draws=3)
    place = [fitted.schema_["clinical"].columns.index(f"type={level}") for level in "abc"]
    for each in drawn:
        assert (each.values("clinical")[:, place].sum(1) == 1).all()
        assert each.levels["clinical"]["type"] == ("a", "b", "c")
    tables = fitted.impute(given, draws=40)
    row = given["clinical"].index[given["clinical"]["type"].isna()]
    shares = pd.concat([table["clinical"].loc[row, "type"] for table in tables], axis=1)
    assert shares.nunique(axis=1).max() > 1
    assert set(np.unique(shares)) <= {"a", "b", "c"}
    missing = fitted.impute({"omics": given["omics"]}, draws=2)[0]["clinical"]
    assert set(missing["type"]) <= {"a", "b", "c"}
    assert set(missing["stage"]) <= {"i", "ii", "iii"}


def test_a_modality_that_did_not_come_in_has_its_classes(fitted, given):
    filled = fitted.impute({"omics": given["omics"]})["clinical"]
    assert filled["dead"].dtype == bool
    assert set(filled["stage"]) <= {"i", "ii", "iii"}


def test_unseen_classes_are_named_or_masked(fitted, given):
    new = {"clinical": given["clinical"].head(6).copy(), "omics": given["omics"].head(6)}
    new["clinical"]["type"] = ["a", "q", "b", "c", "a", None]
    with pytest.raises(
        pv.InputError, match=r"1 unknown class \('q'\) in column 'type'; expected 'a', 'b', 'c'"
    ):
        fitted.impute(new)
    other = pv.Estimator.__new__(pv.Estimator)
    vars(other).update(vars(fitted))
    filled = other.set_params(unseen_classes="mask").impute(new)["clinical"]
    assert filled["type"].iloc[1] in ("a", "b", "c")
    assert filled["type"].iloc[0] == "a"


def test_other_containers_and_fewer_classes_give_the_same(fitted, given):
    some = {name: table.head(12) for name, table in given.items()}
    some["clinical"] = some["clinical"].assign(stage=some["clinical"]["stage"].astype(object))
    some["clinical"].loc[:, "type"] = ["a", None] * 6
    expected = fitted.impute(some)["clinical"]
    frames = {name: pl.from_pandas(table.reset_index(names="id")) for name, table in some.items()}
    other = pv.Estimator.__new__(pv.Estimator)
    vars(other).update(vars(fitted))
    found = other.set_params(id="id").impute(frames)["clinical"]
    assert found["type"].to_list() == expected["type"].tolist()
    assert found["dead"].to_list() == expected["dead"].tolist()
    assert found["grade"].to_list() == expected["grade"].tolist()
    data = pv.MultimodalData.from_frames(some, nan="missing")
    filled = fitted.impute(data)
    group = {group.name: group for group in fitted.schema_["clinical"].groups}["type"]
    codes = group.codes(filled.values("clinical").numpy())
    assert [group.levels[code] for code in codes] == expected["type"].tolist()


def test_files_in_blocks_give_the_same_as_memory(fitted, given, tmp_path, monkeypatch):
    given = {name: table.head(40) for name, table in given.items()}
    for kind in ("csv", "parquet"):
        files = {name: tmp_path / f"{name}.{kind}" for name in given}
        for name, table in given.items():
            if kind == "csv":
                table.to_csv(files[name], index_label="id")
            else:
                table.assign(
                    **{c: table[c].astype(object) for c in table if table[c].dtype == "category"}
                ).to_parquet(files[name])
        monkeypatch.setattr("polyvae.imputation.filling.fill.BLOCK", 16)
        monkeypatch.setattr("polyvae.imputation.files.streaming.BLOCK", 16)
        filled, low, high = fitted.impute(files, interval=0.9)
        fitted.impute_to(tmp_path / f"out_{kind}", files, interval=0.9)
        for suffix, tables in (("", filled), (".low", low), (".high", high)):
            path = tmp_path / f"out_{kind}" / f"clinical{suffix}.{kind}"
            found = (
                pd.read_csv(path, index_col=0, float_precision="round_trip")
                if kind == "csv"
                else pd.read_parquet(path).set_index("id")
            )
            for column in found:
                assert found[column].tolist() == tables["clinical"][column].tolist(), (kind, suffix, column)


def test_an_estimator_is_stored_with_its_classes(fitted, given, tmp_path):
    fitted.save(tmp_path / "a.polyvae")
    loaded = pv.Estimator.load(tmp_path / "a.polyvae")
    assert loaded.kinds == KINDS
    assert loaded.impute(given)["clinical"].equals(fitted.impute(given)["clinical"])
    assert loaded.scores_ == fitted.scores_


def test_arrays_with_codes_return_codes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=60)
    x = np.stack([z, z + 0.1 * rng.normal(size=60), np.digitize(z, [-0.5, 0.5]) * 10.0], 1)
    x[::5, 2] = np.nan
    est = pv.Estimator(steps=20, members=2, latent=2, kinds={"table": {"table_2": "categorical"}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled = est.fit(x).impute(x)
    assert filled.shape == x.shape
    assert set(filled[:, 2]) == {0, 10, 20}
    assert np.array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert est.n_features_in_ == 3


def test_kinds_are_checked_in_one_line(given):
    for kinds, match in (
        ({"clinical": {"stag": "ordinal"}}, "no column 'stag'; did you mean 'stage'"),
        ({"clinic": {"stage": "ordinal"}}, "modality 'clinic' is not in the data"),
        ({"clinical": {"type": "ordinal"}}, "expected its classes in order"),
        ({"clinical": {"type": ["a", "b"]}}, r"unknown class \('c'\)"),
        ({"clinical": {"grade": "nominal"}}, "kinds: got 'nominal'"),
        ({"clinical": "ordinal"}, "expected modality -> column -> kind"),
        ({"clinical": {"age": "count"}}, "no count numbers"),
    ):
        with pytest.raises(pv.InputError, match=match) as caught:
            pv.Estimator(**{**QUICK, "kinds": kinds}).fit(given)
        assert "\n" not in str(caught.value)

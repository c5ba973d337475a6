"""Estimators with covariates: where they come from, what they change, and one line where something is wrong."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.data.covariates import Known
from polyvae.data.schema import Schema, asked_of
from polyvae.imputation.covariates.conditions import adjusted, advise_of_covariates, instead_of, read_with
from polyvae.imputation.files import streaming
from polyvae.imputation.filling import fill as filling

QUICK = {"steps": 30, "members": 2, "latent": 3, "seed": 0, "network": {"hidden": [16]}}
BATCHES = ("x", "y", "z")


def cells(n: int, seed: int, shift: float = 3.0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two tables of two shared factors, in three batches and with an age that move every feature: five dimensions, of which the first
    table has four columns, so that it cannot tell batches from factors."""
    rng, axes = np.random.default_rng(seed), np.random.default_rng(40)
    z, batch, age = rng.normal(size=(n, 2)), rng.choice(3, n, p=[0.4, 0.4, 0.2]), 50 + 9 * rng.normal(size=n)
    tables = {}
    for name, width in (("rna", 4), ("protein", 5)):
        w, moved, aged = axes.normal(size=(2, width)), axes.normal(size=(3, width)), axes.normal(size=width)
        effect = shift * moved[batch] + 0.05 * shift * (age - 50)[:, None] * aged
        tables[name] = z @ w + effect + 0.5 * rng.normal(size=(n, width))
    return tables, np.array(BATCHES, dtype=object)[batch], age


def frames(n: int = 60, seed: int = 0, missing: int = 12) -> dict[str, pd.DataFrame]:
    """The same as data frames; the first has the covariates as columns, the second lacks its first samples."""
    tables, batch, age = cells(n, seed)
    ids = [f"c{i:03d}" for i in range(n)]
    made = {
        name: pd.DataFrame(x, ids, [f"{name}{i}" for i in range(x.shape[1])]) for name, x in tables.items()
    }
    made["rna"].insert(2, "batch", batch)
    made["rna"]["age"] = age
    return {"rna": made["rna"], "protein": made["protein"].iloc[missing:]}


def multimodal(n: int, seed: int, hidden: int) -> pv.MultimodalData:
    tables, batch, age = cells(n, seed)
    return pv.MultimodalData(
        tables, mask={"protein": np.arange(n) >= hidden}, covariates={"batch": batch, "age": age}
    )


@pytest.fixture(scope="module")
def fitted() -> pv.Estimator:
    return pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(frames())


def as_array(filled: dict[str, pd.DataFrame]) -> np.ndarray:
    return filled["protein"].sort_index().to_numpy()


# ---- what they change ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_intervals_cover_and_errors_are_below_those_without() -> None:
    train, new = multimodal(400, 0, 80), multimodal(1500, 1, 1500)
    truth = cells(1500, 1)[0]["protein"]
    errors, covered = {}, {}
    for label, names in (("with", ["batch", "age"]), ("without", None)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            est = pv.Estimator(steps=200, members=3, latent=4, seed=0, covariates=names).fit(train)
        values, low, high = (part.values("protein").numpy() for part in est.impute(new, interval=0.9))
        errors[label] = np.sqrt(((values - truth) ** 2).mean())
        covered[label] = ((low <= truth) & (truth <= high)).mean()
    print(errors, covered)
    assert errors["with"] < 0.75 * errors["without"]
    assert errors["with"] < 1  # the noise has .5, and two factors are known from four columns
    assert 0.87 < covered["with"] < 0.93


@pytest.mark.slow
def test_intervals_cover_where_levels_have_few_samples() -> None:
    rng, axes = np.random.default_rng(0), np.random.default_rng(41)
    w, moved = axes.normal(size=(2, 12)), 2 * axes.normal(size=(40, 12))

    def draw(n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        site = rng.permutation(np.arange(n) % 40)
        x = rng.normal(size=(n, 2)) @ w + moved[site] + 0.5 * rng.normal(size=(n, 12))
        return {"a": x[:, :8], "b": x[:, 8:]}, np.array([f"s{each}" for each in site], dtype=object)

    train, site = draw(320)  # eight samples of each site
    est = pv.Estimator(steps=200, members=3, latent=4, seed=0, covariates=["site"])
    est.fit(pv.MultimodalData(train, covariates={"site": site}))
    new, site = draw(2000)
    given = pv.MultimodalData(new, mask={"b": np.zeros(2000, bool)}, covariates={"site": site})
    _, low, high = (part.values("b").numpy() for part in est.impute(given, interval=0.9))
    covered = ((low <= new["b"]) & (new["b"] <= high)).mean()
    print(covered)
    assert 0.87 < covered < 0.93
    assert abs(est.scores_.value("b", "stack", "coverage") - 0.9) < 0.03


def test_predictions_are_better_with_covariates_than_without(fitted: pv.Estimator) -> None:
    truth = cells(60, 0)[0]["protein"][:12]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without = pv.Estimator(**QUICK).fit(
            {name: x.drop(columns=["batch", "age"], errors="ignore") for name, x in frames().items()}
        )
    error = {
        label: ((as_array(est.impute(frames()))[:12] - truth) ** 2).mean()
        for label, est in (("with", fitted), ("without", without))
    }
    assert error["with"] < 0.5 * error["without"]


def test_another_value_moves_predictions_by_its_effect_and_leaves_what_was_measured(
    fitted: pv.Estimator,
) -> None:
    given, batch = frames(), cells(60, 0)[1]
    own = as_array(fitted.impute(given))
    assert np.array_equal(as_array(fitted.impute(given, covariates={"batch": batch})), own)
    moved = as_array(fitted.impute(given, covariates={"batch": "y"}))
    assert np.array_equal(moved[12:], own[12:])
    assert np.array_equal(moved[:12][batch[:12] == "y"], own[:12][batch[:12] == "y"])
    axes = np.random.default_rng(40)
    axes.normal(size=(2, 4)), axes.normal(size=(3, 4)), axes.normal(size=4), axes.normal(size=(2, 5))
    shift = 3 * axes.normal(size=(3, 5))
    there = batch[:12] == "x"
    assert there.any()
    assert np.abs((moved - own)[:12][there] - (shift[1] - shift[0])).max() < 2.5
    assert np.corrcoef((moved - own)[:12][there].mean(0), shift[1] - shift[0])[0, 1] > 0.9


def test_where_a_level_has_no_sample_of_a_modality_intervals_and_draws_include_that_its_effect_is_not_known(
    tmp_path: Path,
) -> None:
    given = frames()
    never = given["rna"].index[given["rna"]["batch"] == "z"]
    given["protein"] = given["protein"].drop(index=never, errors="ignore")
    est = pv.Estimator(**QUICK, covariates=["batch"]).fit(given)
    new = {"rna": given["rna"]}
    _, low, high = (as_array(part) for part in est.impute(new, interval=0.9))
    at_z, at_x = (np.flatnonzero(given["rna"].sort_index()["batch"] == level) for level in ("z", "x"))
    width = high - low
    assert (width[at_z] > 1.5 * width[at_x[0]]).mean() > 0.7
    assert np.allclose(width[at_x], width[at_x[0]], rtol=1e-4)
    assert np.allclose(width[at_z], width[at_z[0]], rtol=1e-4)

    draws = np.stack([as_array(each) for each in est.impute(new, draws=40)])
    assert (draws[:, at_z].mean(1).std(0) > 2 * draws[:, at_x].mean(1).std(0)).mean() > 0.7
    est.save(tmp_path / "e.polyvae")
    again = pv.Estimator.load(tmp_path / "e.polyvae").impute(new, interval=0.9)
    assert np.array_equal(as_array(again[1]), low)


@pytest.fixture(scope="module")
def of_two() -> tuple[pv.Estimator, dict[str, pd.DataFrame], pd.Index]:
    """Fitted without batch z; all samples; those of z."""
    given = frames(160, missing=0)
    late = given["rna"].index[given["rna"]["batch"] == "z"]
    known = {name: frame.drop(index=late) for name, frame in given.items()}
    return pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(known), given, late


def test_a_level_that_is_added_later_is_imputed_as_if_it_had_been_there(of_two) -> None:
    est, given, late = of_two
    new = {name: frame.loc[late] for name, frame in given.items()}
    with pytest.raises(pv.InputError, match=r"unknown level 'z'.*add it by extend"):
        est.impute(new)
    first, rest = late[: len(late) // 2], late[len(late) // 2 :]
    more = est.extend({name: frame.loc[first] for name, frame in given.items()})
    asked, truth = {"rna": given["rna"].loc[rest]}, given["protein"].loc[rest].to_numpy()

    def error(filled: dict[str, pd.DataFrame]) -> float:
        return float(np.sqrt(np.square(filled["protein"].loc[rest].to_numpy() - truth).mean()))

    as_known = error(est.impute({"rna": asked["rna"].assign(batch="x")}))
    all_three = error(pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(given).impute(asked))
    assert error(more.impute(asked)) < min(0.5 * as_known, 1.3 * all_three)
    at_x = more.impute(asked, covariates={"batch": "x"})["protein"].loc[rest].to_numpy()
    effect = (more.impute(asked)["protein"].loc[rest].to_numpy() - at_x).std(0)
    assert effect.max() < 1e-3  # one number for each feature


def test_the_effect_of_a_new_level_is_what_other_covariates_leave(of_two) -> None:
    est, given, late = of_two
    age = given["rna"].loc[late, "age"]
    old, young = (late[rows] for rows in (age > age.median(), age <= age.median()))
    found = [
        est.extend({k: x.loc[rows] for k, x in given.items()})._imputer.effects.shifts
        for rows in (old, young)
    ]
    apart = (age[old].mean() - age[young].mean()) / given["rna"]["age"].std()
    of_age, change = (
        np.concatenate([part(name) for name in ("rna", "protein")])
        for part in (
            lambda name: found[0][name][3] * apart,
            lambda name: found[0][name][-1] - found[1][name][-1],
        )
    )
    assert (
        abs(of_age @ change / (of_age @ of_age)) < 0.5
    )  # 1 if the effect of age counted as one of the level


def test_known_levels_are_imputed_as_before_bit_for_bit(of_two, tmp_path: Path) -> None:
    est, given, late = of_two
    asked = {"rna": given["rna"].drop(index=late)}
    more = est.extend({name: frame.loc[late] for name, frame in given.items()})
    more.save(tmp_path / "e.polyvae")
    again = pv.Estimator.load(tmp_path / "e.polyvae")
    for one in (more, again):
        assert np.array_equal(as_array(one.impute(asked)), as_array(est.impute(asked)))
        assert np.array_equal(one.transform(asked), est.transform(asked))
    everything = {"rna": given["rna"]}
    for method in ("impute", "transform"):
        assert np.array_equal(
            *(
                as_array(result) if method == "impute" else result
                for result in (getattr(more, method)(everything), getattr(again, method)(everything))
            )
        )


def test_a_new_level_without_a_measurement_is_named(of_two) -> None:
    est, given, late = of_two
    later = {name: frame.loc[late] for name, frame in given.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.extend(later)
    unseen = later["protein"].copy()
    unseen.loc[:, unseen.columns.drop("batch", errors="ignore")[0]] = np.nan
    with pytest.warns(
        UserWarning, match=r"extend: nothing was measured in level .* of 'protein'\), so the effect is 0"
    ) as caught:
        est.extend({**later, "protein": unseen})
    assert len(caught) == 1
    with pytest.warns(
        UserWarning, match=r"extend: nothing was measured in level 'z' of 'batch' \(in 'protein'\)"
    ):
        est.extend({"rna": later["rna"]})


def test_levels_can_be_added_one_after_the_other_and_to_several_covariates() -> None:
    given = frames(120, missing=0)
    batch = given["rna"]["batch"].to_numpy()
    given["rna"]["site"] = np.where(np.arange(120) % 3 == 0, "c", np.where(np.arange(120) % 3 == 1, "b", "a"))
    here = (batch != "z") & (given["rna"]["site"] != "c")
    est = pv.Estimator(**QUICK, covariates=["batch", "site"]).fit({k: x[here] for k, x in given.items()})
    site_first = est.extend({k: x[(batch != "z")] for k, x in given.items()})
    both = site_first.extend(given)
    new = {"rna": given["rna"][(batch != "z")]}
    assert np.array_equal(as_array(both.impute(new)), as_array(site_first.impute(new)))
    effects = both._imputer.effects.shifts["rna"]
    assert len(effects) == 1 + 2 + 2 + 2
    assert both.schema_.conditions(pv.MultimodalData(
        {"rna": np.zeros((1, 4))}, covariates={"batch": ["z"], "site": ["c"]}
    )).tolist() == [[0, 0, 0, 0, 1, 1]]  # fmt: skip
    assert not np.allclose(effects[5], effects[6])
    with pytest.raises(pv.InputError, match="extend: got no new level of batch, site"):
        both.extend(given)


def test_embeddings_of_batches_overlap(fitted: pv.Estimator) -> None:
    z, batch = fitted.transform(frames()).sort_index().to_numpy(), cells(60, 0)[1]
    means = np.stack([z[batch == level].mean(0) for level in BATCHES])
    assert np.abs(means[:, 0] - z[:, 0].mean()).max() < 0.7 * z[:, 0].std()


def test_scores_are_in_units_and_of_the_whole_variance(fitted: pv.Estimator) -> None:
    scores = fitted.scores_
    assert scores.value("protein", "stack", "r2") > 0.8
    assert abs(scores.value("protein", "mean", "r2")) < 0.05
    assert scores.value("protein", "stack", "rmse") < 1.5
    new = fitted.scores(frames(40, 5, 4))
    assert new.value("protein", "stack", "r2") > 0.7


@pytest.mark.slow
def test_an_age_that_is_a_covariate_predicts_risk() -> None:
    given, age = frames(80), cells(80, 0)[2]
    rng = np.random.default_rng(9)
    y = pd.DataFrame(
        {"days": np.exp(-0.15 * (age - 50)) * rng.exponential(size=80), "died": True}, frames(80)["rna"].index
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(given, y)
    assert est.risk_scores_.value("(target)", "Cox of covariates", "c_index") > 0.75
    assert est.score(given, y) > 0.75


@pytest.mark.slow
def test_a_class_may_depend_on_a_covariate() -> None:
    given, age = frames(80), cells(80, 0)[2]
    y = pd.Series(np.where(age > 50, "old", "young"), given["rna"].index)
    est = pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(given, y)
    assert est.score(given, y) > 0.8


# ---- where they come from ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_frames_files_and_multimodal_data_give_the_same(fitted: pv.Estimator, tmp_path: Path) -> None:
    given = frames()
    own = as_array(fitted.impute(given))
    paths = {}
    for name, frame in given.items():
        paths[name] = tmp_path / f"{name}.csv"
        frame.to_csv(paths[name], index_label="id")
    from_files = pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(paths)
    assert np.array_equal(as_array(from_files.impute(paths)), own)
    from_data = pv.Estimator(**QUICK, covariates=["batch", "age"]).fit(multimodal(60, 0, 12))
    found = from_data.impute(multimodal(60, 0, 12))
    assert np.allclose(found.values("protein").numpy(), own, rtol=1e-5)
    assert list(found.covariates) == ["batch", "age"]


def test_columns_of_files_are_covariates_beside_arrays_and_adata(tmp_path: Path) -> None:
    made = frames(8, missing=0)
    ids = made["rna"].index.to_numpy(str)
    paths = {"rna": tmp_path / "rna.csv", "scan": tmp_path / "scan.npz", "image": tmp_path / "image.npy"}
    made["rna"].to_csv(paths["rna"], index_label="id")
    np.savez(paths["scan"], scan=np.ones((6, 1, 4, 4)) * np.arange(6)[:, None, None, None], ids=ids[2:])
    np.save(paths["image"], np.arange(16.0).reshape(8, 2))
    with pytest.warns(UserWarning, match="image' has no ids; row i"):
        data = read_with(paths, ["batch", "age"]).data
    assert list(data.covariates) == ["batch", "age"]
    assert data.names == ("rna", "scan", "image")
    assert list(data.columns["rna"]) == ["rna0", "rna1", "rna2", "rna3"]
    assert data.mask[1].tolist() == [False] * 2 + [True] * 6

    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"batch": list(made["rna"]["batch"])}, ids)
    anndata.AnnData(made["protein"].to_numpy(), obs=obs).write_h5ad(tmp_path / "protein.h5ad")
    given = [paths["rna"], tmp_path / "protein.h5ad"]
    data = read_with(given, ["batch"], id="id").data
    assert list(data.covariates) == ["batch"]
    assert "batch" not in data.columns["rna"]
    only = read_with([tmp_path / "protein.h5ad", paths["scan"]], ["batch"]).data
    assert list(only.covariates) == ["batch"]
    assert only.names == ("protein", "scan")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_frame_beside_a_path_with_the_covariates_is_two_frames(
    fitted: pv.Estimator, tmp_path: Path, kind: str
) -> None:
    given = frames(30, 4, 6)
    path = tmp_path / f"rna.{kind}"
    given["rna"].to_csv(path, index_label="id") if kind == "csv" else given["rna"].to_parquet(path)
    found = fitted.impute({"rna": path, "protein": given["protein"]})
    own = fitted.impute(given)
    assert list(found["rna"].columns) == ["id", *(f"rna{at}" for at in range(4))]
    for name in own:
        assert np.array_equal(found[name][list(own[name])].to_numpy(), own[name].to_numpy())


def test_files_by_position_and_without_missing_values_have_covariates_too(tmp_path: Path) -> None:
    made = frames(12, missing=0)
    paths = []
    for name, frame in made.items():
        paths.append(tmp_path / f"{name}.csv")
        frame.to_csv(paths[-1], index=False)
    data = read_with(paths, ["batch", "age"], id=False, nan="error").data
    assert data.covariates["batch"].tolist() == made["rna"]["batch"].tolist()
    assert list(data.columns["rna"]) == [f"rna{at}" for at in range(4)]


def test_a_covariate_of_a_stream_takes_no_memory_for_each_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 200)
    tables = {"rna": np.arange(3.0)[:, None]}
    schema = Schema.fit(
        pv.MultimodalData(tables, columns={"rna": ["a"]}, covariates={"age": [1.0, 2.0, 4.0]})
    )
    how = streaming.Reading(covariates=["age", "site"])

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.csv"
        path.write_text(
            "id,a,age,site\n" + "".join(f"sample{i},1,{i % 997}.5,s{i % 5}\n" for i in range(count))
        )
        folder = tmp_path / f"spool{count}"
        folder.mkdir()
        tracemalloc.start()
        spool = streaming.Spool(
            folder, {"rna": path}, how, ["rna"], lambda _: None, asked_of(schema, "error")
        )
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows = np.array([count - 1, 3])
        assert spool.rows(rows).covariates["site"].tolist() == [f"s{(count - 1) % 5}", "s3"]
        assert spool.rows(rows).covariates["age"].tolist() == [(count - 1) % 997 + 0.5, 3.5]
        spool.close()
        return most

    few, many = peak(1_000), peak(4_000)
    assert many - few < 3_000 * 40  # the ids alone, as text in memory, would take some 100 for each sample


@pytest.mark.slow
def test_covariates_of_obs() -> None:
    anndata = pytest.importorskip("anndata")
    tables, batch, _ = cells(50, 0)
    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, [f"c{i}" for i in range(50)])
    given = anndata.AnnData(tables["rna"], obs=obs, obsm={"protein": tables["protein"]})
    given.X[:5, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = pv.Estimator(**QUICK, covariates=["batch"]).fit(given)
        assert est.schema_.covariates[0].levels == list(BATCHES)
        assert not np.isnan(est.impute(given).layers["imputed"]).any()


def test_numbers_of_a_categorical_covariate_are_levels() -> None:
    tables, batch, _ = cells(50, 0)
    codes = np.array([BATCHES.index(each) + 1 for each in batch])
    data = pv.MultimodalData(tables, covariates={"batch": codes})
    with pytest.warns(UserWarning, match="3 distinct whole numbers, which are taken as a number"):
        advise_of_covariates(data, ["batch"], None)
    est = pv.Estimator(**QUICK, covariates={"batch": "categorical"}).fit(data)
    assert est.schema_.covariates[0].levels == ["1", "2", "3"]
    moved = [
        est.impute(data.observe("rna"), covariates={"batch": value}).values("protein") for value in (2, "2")
    ]
    assert np.array_equal(*moved)


@pytest.mark.parametrize(
    ("values", "what"), [(["a"] * 4, "one value"), (list("abcd"), "another level for each")]
)
def test_covariates_without_an_effect_are_named(values: list[str], what: str) -> None:
    data = pv.MultimodalData({"rna": np.eye(4, dtype=np.float32)}, covariates={"site": values})
    with pytest.warns(UserWarning, match=f"'site' has {what}"):
        advise_of_covariates(data, ["site"], None)


def test_a_level_without_a_measurement_is_named_once() -> None:
    given = frames(60)
    batch = given["rna"]["batch"].reindex(given["protein"].index)
    given["protein"].loc[batch == "z"] = np.nan
    given["rna"].loc[given["rna"]["batch"] == "x", ["rna1", "rna2"]] = np.nan
    data = read_with(given, ["batch"]).data
    schema = Schema.fit(data, covariates=["batch"])
    tables = filling.whole(schema, data, np.arange(len(data)))
    with pytest.warns(UserWarning, match="nothing was measured in levels") as caught:
        schema, effects, _ = adjusted(schema, data, np.arange(len(data)), tables)
    assert len(caught) == 1
    line = str(caught[0].message)
    assert (
        "'x' of 'batch' (in 2 of 5 columns of 'rna'), 'z' of 'batch' (in 'protein'), so the effect is 0"
        in line
    )
    levels = schema.covariates[0].levels
    assert not effects.shifts["protein"][1 + levels.index("z")].any()
    assert effects.shifts["protein"][1 + levels.index("x")].any()


def test_covariates_that_are_not_used_are_named() -> None:
    with pytest.warns(UserWarning, match=r"have covariates that are not used \('age'\)"):
        advise_of_covariates(multimodal(30, 0, 5), ["batch"], ["batch"])


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_keeps_everything(fitted: pv.Estimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "cells.polyvae")
    again = pv.Estimator.load(tmp_path / "cells.polyvae")
    given = frames(30, 3)
    assert np.array_equal(as_array(again.impute(given)), as_array(fitted.impute(given)))
    assert np.array_equal(again.transform(given), fitted.transform(given))
    assert again.get_params()["covariates"] == ["batch", "age"]


def test_a_stream_is_the_whole_bit_for_bit(
    fitted: pv.Estimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "BLOCK", 7)
    monkeypatch.setattr(streaming, "BLOCK", 7)
    paths = {}
    for name, frame in frames(30, 4, 6).items():
        paths[name] = tmp_path / f"{name}.csv"
        frame.to_csv(paths[name], index_label="id")
    for label, instead in (("own", None), ("moved", {"batch": "z"})):
        whole = fitted.impute(paths, covariates=instead)
        fitted.impute_to(tmp_path / label, paths, covariates=instead)
        for name in paths:
            found = pd.read_csv(tmp_path / label / f"{name}.csv", index_col=0, float_precision="round_trip")
            assert list(found.columns) == list(whole[name].columns)
            assert np.array_equal(found.to_numpy(), whole[name].to_numpy())


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("batch", "expected a list of names"),
        (["batch", "batch"], "expected distinct names"),
        ([""], "expected distinct names"),
        ({"batch": "ordinal"}, "got kind 'ordinal' of covariate 'batch'"),
        (["bach"], "no table has a column 'bach'; did you mean 'batch'"),
        ({"batch": "real"}, "got levels with kind 'real'"),
    ],
)
def test_covariates_that_cannot_be(given: object, text: str) -> None:
    with pytest.raises(pv.InputError, match=text) as problem:
        pv.Estimator(**QUICK, covariates=given).fit(frames())
    assert "\n" not in str(problem.value)


def test_values_that_cannot_be(fitted: pv.Estimator) -> None:
    new = frames(20, 1)
    new["rna"]["batch"] = "w"
    with pytest.raises(pv.InputError, match="covariate 'batch': unknown level 'w'"):
        fitted.impute(new)
    with pytest.raises(pv.InputError, match="no table has a column 'batch'"):
        fitted.impute({"rna": frames()["rna"].drop(columns="batch")})
    with pytest.raises(pv.InputError, match="covariate 'batch': got 20 missing values"):
        fitted.impute({"rna": new["rna"].assign(batch=None)})
    with pytest.raises(pv.InputError, match="covariate 'batch': unknown level 'v'"):
        fitted.impute(frames(), covariates={"batch": "v"})
    with pytest.raises(pv.InputError, match="covariates: got 'site'"):
        fitted.impute(frames(), covariates={"site": "v"})
    with pytest.raises(pv.InputError, match="covariate 'age': got levels; expected numbers"):
        fitted.impute(frames(), covariates={"age": "old"})
    with pytest.raises(pv.InputError, match="the data have no covariate 'batch'"):
        fitted.impute(pv.MultimodalData({"rna": cells(5, 0)[0]["rna"]}))


def test_values_are_names_of_levels_or_numbers_whatever_type_they_have() -> None:
    data = pv.MultimodalData({"rna": np.arange(4.0).reshape(2, 2)})
    known = [Known(name="batch", levels=["001", "1", "x"]), Known(name="age", mean=50.0, scale=2.0)]
    schema = Schema.fit(data).model_copy(update={"covariates": known})
    for one in (1, 1.0, "1", "1.0", np.int64(1), np.float32(1)):
        assert instead_of(schema, {"batch": one}) == {"batch": "1"}
    for several in ([1, 1], np.array([1, 1]), pd.Series([1.0, 1.0])):
        assert instead_of(schema, {"batch": several}) == {"batch": ["1", "1"]}
    assert instead_of(schema, {"batch": "001", "age": "40"}) == {"batch": "001", "age": 40.0}
    assert instead_of(schema, {"batch": "v", "age": "old"}) == {"batch": "v", "age": "old"}
    added = schema.model_copy(update={"covariates": [known[0].model_copy(update={"added": ["2"]})]})
    assert instead_of(added, {"batch": "2.0"}) == {"batch": "2"}


def test_files_have_one_value_for_all_samples() -> None:
    schema = Schema.fit(pv.MultimodalData({"rna": np.arange(4.0).reshape(2, 2)}))
    assert instead_of(schema, {"batch": np.float64(2)}, single=True) == {"batch": 2.0}
    with pytest.raises(pv.InputError, match="covariate 'batch': got list; expected one value"):
        instead_of(schema, {"batch": np.array([1, 2])}, single=True)

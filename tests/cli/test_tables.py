"""Tables from files to files: what fit writes, what comes back completed, and one line where something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import polyvae as pv
from polyvae.imputation.files.runs import open_fitted, score_run
from polyvae.imputation.files.sources import files_of
from tests.helpers.cli import polyvae
from tests.helpers.cohorts import QUICK, read_csv, write_cohort, write_csv


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort and a run that was fitted to it, with a target."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    header, rows = read_csv(folder / "rna.csv")
    turned = {
        column: list(cells)
        for column, cells in zip(header[1:], zip(*rows.values(), strict=True), strict=True)
    }
    write_csv(folder / "turned.csv", ["feature", *rows], turned)
    (folder / "rna.xlsx").write_bytes(b"PK")
    words = [
        "rna.csv",
        "protein.csv",
        "lipid.csv",
        "--out",
        "run",
        "--target",
        "clinical.csv:group",
        "-q",
        *QUICK,
    ]
    done = polyvae("fit", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "R²" in done.stdout
    assert "lowest error" in done.stdout
    return folder


def test_fit_writes_what_it_says(cohort: Path) -> None:
    run = cohort / "run"
    assert {entry.name for entry in run.iterdir()} == {
        "estimator.polyvae",
        "fit.json",
        "report.html",
        "schema.json",
        "scores.json",
    }
    estimator = pv.Estimator.load(run / "estimator.polyvae")
    assert estimator.get_params()["steps"] == 30
    assert json.loads((run / "schema.json").read_text()) == json.loads(estimator.schema_.model_dump_json())
    assert estimator.scores_.from_json((run / "scores.json").read_text()) == estimator.scores_
    assert json.loads((run / "fit.json").read_text())["target"] == "group"


def test_impute_fills_what_is_missing_and_nothing_else(cohort: Path, tmp_path: Path) -> None:
    words = [
        "rna.csv",
        "protein.csv",
        "lipid.csv",
        "-o",
        tmp_path / "out",
        "--interval",
        "80%",
        "--draws",
        "2",
    ]
    done = polyvae("impute", "run", *words, cwd=cohort)
    assert done.returncode == 0, done.stderr
    everyone = {
        name for table in ("rna", "protein", "lipid") for name in read_csv(cohort / f"{table}.csv")[1]
    }
    differ = False
    for table in ("rna", "protein", "lipid"):
        header, given = read_csv(cohort / f"{table}.csv")
        parts = {
            s: read_csv(tmp_path / "out" / f"{table}{s}.csv")
            for s in ("", ".low", ".high", ".draw1", ".draw2")
        }
        assert all(head == header for head, _ in parts.values())
        assert all(rows.keys() == everyone for _, rows in parts.values())
        for name in everyone:
            value, low, high, one, two = (np.array(rows[name], float) for _, rows in parts.values())
            known = np.array([cell != "" for cell in given.get(name, [""] * 5)])
            assert np.isfinite(value).all()
            cells = np.array(given.get(name, [""] * 5), dtype=object)
            for other in (value, low, high, one, two):
                assert (other[known] == cells[known].astype(float)).all()
            assert (
                low[~known] <= value[~known]
            ).all()  # equal where both are 0, below which an amount cannot be
            assert ((low < value) | (value == 0))[~known].all()
            assert ((value < high) | ((value == 0) & (high == 0)))[~known].all()
            differ |= bool((one != two).any())
    assert differ


def test_what_impute_gives_is_that_of_the_estimator(cohort: Path, tmp_path: Path) -> None:
    assert polyvae("impute", "run", "--rna", "rna.csv", "-o", tmp_path / "out", cwd=cohort).returncode == 0
    estimator = pv.Estimator.load(cohort / "run" / "estimator.polyvae")
    expected = estimator.impute({"rna": cohort / "rna.csv"})["lipid"]
    header, rows = read_csv(tmp_path / "out" / "lipid.csv")
    assert header[1:] == list(expected.columns)
    for name, values in expected.iterrows():
        assert np.array_equal(np.array(rows[str(name)], float), values.to_numpy())


@pytest.fixture(scope="module")
def direct(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imputations of two tables as a folder."""
    folder = tmp_path_factory.mktemp("direct") / "out"
    assert polyvae("impute", "run", "rna.csv", "lipid.csv", "-o", folder, cwd=cohort).returncode == 0
    return folder


@pytest.mark.parametrize("out", ["out.npz", "out.h5mu"])
def test_one_file_holds_all(cohort: Path, direct: Path, tmp_path: Path, out: str) -> None:
    if out.endswith(".h5mu"):
        pytest.importorskip("mudata")
    done = polyvae("impute", "run", "rna=rna.csv", "--lipid=lipid.csv", "-o", tmp_path / out, cwd=cohort)
    assert done.returncode == 0, done.stderr
    assert polyvae("impute", "run", tmp_path / out, "-o", tmp_path / "again", cwd=cohort).returncode == 0
    for table in ("rna", "protein", "lipid"):
        again, expected = (read_csv(folder / f"{table}.csv")[1] for folder in (tmp_path / "again", direct))
        assert {k: np.array(v, float).tolist() for k, v in again.items()} == {
            k: np.array(v, float).tolist() for k, v in expected.items()
        }


def test_embed_predict_and_score(cohort: Path, tmp_path: Path) -> None:
    done = polyvae("embed", "run", "--protein", "protein.csv", "-o", tmp_path / "z.csv", "--std", cwd=cohort)
    assert done.returncode == 0, done.stderr
    header, rows = read_csv(tmp_path / "z.csv")
    assert header == ["patient", "z0", "z1", "z2", "z0_std", "z1_std", "z2_std"]
    assert rows.keys() == read_csv(cohort / "protein.csv")[1].keys()

    done = polyvae("predict", "run", "rna.csv", "-o", tmp_path / "y.csv", cwd=cohort)
    assert done.returncode == 0, done.stderr
    header, rows = read_csv(tmp_path / "y.csv")
    assert header == ["patient", "group", "p(high)", "p(low)"]
    for cells in rows.values():
        assert cells[0] in ("high", "low")
        assert float(cells[1]) + float(cells[2]) == pytest.approx(1)

    group = {name: cells[:1] for name, cells in read_csv(cohort / "clinical.csv")[1].items()}
    write_csv(tmp_path / "group.csv", ["patient", "group"], group)
    done = polyvae("score", "run", "rna.csv", "lipid.csv", tmp_path / "group.csv", cwd=cohort)
    assert done.returncode == 0, done.stderr
    assert "accuracy of group: 0." in done.stdout or "accuracy of group: 1." in done.stdout


def test_predictions_with_sets_of_classes(cohort: Path, tmp_path: Path) -> None:
    done = polyvae("predict", "run", "rna.csv", "--interval", "80%", "-o", tmp_path / "sets.csv", cwd=cohort)
    assert done.returncode == 0, done.stderr
    names, found = read_csv(tmp_path / "sets.csv")
    assert names == ["patient", "group", "p(high)", "p(low)", "set"]
    assert {cells[-1] for cells in found.values()} <= {"high", "low", "high|low"}
    assert all(cells[0] in cells[-1].split("|") for cells in found.values())
    done = polyvae("predict", "run", "rna.csv", "--times", "3", "-o", tmp_path / "no.csv", cwd=cohort)
    assert done.returncode == 2
    assert "got times" in done.stderr


def test_a_target_in_a_table_is_no_feature(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    header, rows = read_csv(tmp_path / "rna.csv")
    write_csv(
        tmp_path / "rna.csv",
        [*header, "dose"],
        {name: [*cells, i % 7 / 3] for i, (name, cells) in enumerate(rows.items())},
    )
    done = polyvae(
        "fit", "rna.csv", "protein.csv", "--target", "dose", "--out", "run", "-q", *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "dose" not in (tmp_path / "run" / "schema.json").read_text()
    done = polyvae("score", "run", "rna.csv", "protein.csv", cwd=tmp_path)
    assert "R² of dose" in done.stdout, done.stderr
    done = polyvae("predict", "run", "protein.csv", "-o", "y.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_csv(tmp_path / "y.csv")[0] == ["patient", "dose"]


def test_a_time_to_an_event_is_predicted_and_is_no_feature(tmp_path: Path) -> None:
    write_cohort(tmp_path, 40)
    header, rows = read_csv(tmp_path / "protein.csv")
    times = {
        name: [*cells, str(100 - 2 * at), str(at % 3 % 2) if at else ""]
        for at, (name, cells) in enumerate(rows.items())
    }
    first = next(iter(times))
    times[first][-2] = ""
    write_csv(tmp_path / "protein.csv", [*header, "days", "died"], times)
    files = ["rna.csv", "protein.csv"]
    for target in ("protein.csv:days,dies", "days,protein_1", "rna.csv:days,died"):
        done = polyvae("fit", *files, "--target", target, "--out", "no", "-q", *QUICK, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
    done = polyvae("fit", *files, "--target", "days,died", "--out", "run", "-q", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "days,died: C-index of samples left out" in done.stdout
    estimator = pv.Estimator.load(tmp_path / "run" / "estimator.polyvae")
    assert not {"days", "died"} & {name for own in estimator.schema_.columns.values() for name in own}
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Risk and days" in page
    assert "Cox of rna" in page
    words = ["--interval", "0.5", "--times", "10,20.5", "-o", "risk.csv"]
    done = polyvae("predict", "run", *files, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names, found = read_csv(tmp_path / "risk.csv")
    assert names == ["patient", "risk", "median", "lower", "upper", "S(10)", "S(20.5)"]
    frames = {name.removesuffix(".csv"): tmp_path / name for name in files}
    with pytest.warns(UserWarning, match="days"):
        expected = estimator.predict(frames)
    assert float(found[first][0]) == pytest.approx(expected["risk"].loc[first])
    done = polyvae("score", "run", *files, cwd=tmp_path)
    assert "C-index of days,died: 0." in done.stdout
    value = float(done.stdout.rpartition(": ")[2])
    write_csv(
        tmp_path / "truth.csv", ["id", "died", "days"], {key: [x[-1], x[-2]] for key, x in times.items()}
    )
    run, given = (
        open_fitted(tmp_path / "run"),
        files_of([str(tmp_path / "rna.csv"), f"protein={tmp_path / 'protein.csv'}"]),
    )
    named = score_run(run, given, target=f"{tmp_path / 'truth.csv'}:died,days")
    assert (round(named.target, 3), named.measure) == (value, "C-index")
    assert score_run(run, files_of([str(tmp_path / "rna.csv")])).target is None
    done = polyvae("predict", "run", *files, "--times", "soon", "-o", "no.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_existing_results_are_replaced_on_request_alone(cohort: Path, tmp_path: Path) -> None:
    words = ["impute", "run", "rna.csv", "-o", tmp_path / "out"]
    assert polyvae(*words, cwd=cohort).returncode == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = polyvae(*words, cwd=cohort)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert polyvae(*words, "--force", "--format", "npz", cwd=cohort).returncode == 0
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
        "imputed.json", "notes.txt", "rna.npz", "protein.npz", "lipid.npz",
    }  # fmt: skip
    (tmp_path / "out" / "rna.csv").write_text("mine")
    done = polyvae(*words, "--force", cwd=cohort)
    assert done.returncode == 2
    assert (tmp_path / "out" / "rna.csv").read_text() == "mine"

    run = tmp_path / "run"
    shutil.copytree(cohort / "run", run)
    (run / "notes.txt").write_text("mine")
    fit = ["fit", "rna.csv", "protein.csv", "--out", run, "-q", *QUICK]
    assert "--force" in polyvae(*fit, cwd=cohort).stderr
    assert polyvae(*fit, "--force", cwd=cohort).returncode == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert pv.Estimator.load(run / "estimator.polyvae").schema_.names == ("rna", "protein")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["impute", "run", "absent.csv", "-o", "x"], "absent.csv: no such file"),
        (["impute", "nowhere", "rna.csv", "-o", "x"], "no such run"),
        (["impute", "run", "rna.csv", "-o", "x", "--intervall", "0.9"], "did you mean '--interval'"),
        (["impute", "run", "rna.csv", "-o", "x", "--interval", "1.5"], "between 0 and 1"),
        (["impute", "run", "rna.csv", "-o", "x", "--format", "xlsx"], "format"),
        (["impute", "run", "rna.csv", "-o", "x.csv"], "expected a folder"),
        (["impute", "run", "rna.csv", "rna.csv", "-o", "x"], "second file"),
        (["impute", "run", "--rna", "-o", "x"], "no file after it"),
        (["impute", "run", "-o", "x"], "FILES"),
        (["impute", "run", "clinical.csv", "-o", "x"], "expected some of 'rna'"),
        (["impute", "run", "--other", "rna.csv", "-o", "x"], "--rna rna.csv"),
        (["impute", "run", "--rna", "protein.csv", "-o", "x"], "none of the 5 columns"),
        (["impute", "run", "--rna", "protein.csv", "-o", "x"], "is it another modality, or transposed?"),
        (["impute", "run", "--rna", "turned.csv", "-o", "x"], "transpose the table"),
        (["impute", "rna.csv", "run", "-o", "x"], "write RUN before FILES"),
        (["impute", ".", "rna.csv", "-o", "x"], "contains runs; expected one of them; 'run'"),
        (["impute", "run", "rna.xlsx", "-o", "x"], "save each sheet as .csv"),
        (["impute", "run", "--rna", "rna.xlsx", "-o", "x"], "save each sheet as .csv"),
        (["impute", "run", "rna.csv", "-o", "x", "--interval", "90"], "such as 0.9 or 90%"),
        (["impute", "run", "rna.csv", "-o", "x", "--interval", "much"], "such as 0.9 or 90%"),
        (["evaluate", "."], "contains some; expected one of them; 'run'"),
        (["report", "."], "contains some; expected one of them; 'run'"),
        (["evaluate", "run"], "got a run of polyvae fit"),
        (["fit", "rna.csv", "turned.csv", "--out", "y"], "transpose it"),
        (["fit", "rna.csv", "--out", "y", "--target", "clinical.csv"], "such as clinical.csv:remark"),
        (["embed", "run", "rna.csv", "-o", "rna.csv", "--force"], "read as output"),
        (["embed", "run", "rna.csv", "-o", "z.xlsx"], "ends in '.xlsx'"),
        (["predict", "run", "rna.csv", "-o", "z.npz"], "ends in '.npz'"),
        (["score", "rna.csv", "rna.csv"], "expected a run of polyvae fit"),
        (["report", "nowhere"], "no such run"),
        (["fit", "rna.csv", "--out", "."], "not a run of polyvae fit"),
        (["fit", "rna.csv", "--out", "y", "--set", "lattent=3"], "did you mean 'latent'"),
        (["fit", "rna.csv", "--out", "y", "--set", "latent=three"], "latent='three'"),
        (["fit", "rna.csv", "--out", "y", "--set", "seed=abc"], "seed='abc'"),
        (["fit", "rna.csv", "--out", "y", "--set", "device=abc"], "device='abc'"),
        (["fit", "rna.csv", "--out", "y", "--set", "network=3"], "network=3"),
        (["fit", "rna.csv", "--out", "y", "--set", "target=abc"], "target='abc'"),
        (["fit", "rna.csv", "--out", "y", "--set", "model=3"], "model=3"),
        (["fit", "rna.csv", "protein.csv", "--out", "y", "--model", "mmvaeplus+"], "did you mean"),
        (["fit", "rna.csv", "--out", "y", "--target", "nothing"], "a column of no file"),
        (["fit", "rna.csv", "--out", "y", "--target", "clinical.csv:grup"], "did you mean 'group'"),
        (["fit", "rna.csv", "--out", "y", "--id", "patients"], "did you mean 'patient'"),
        (["fit", "rna.csv", "--out", "y", "--id", "patient", "--by-position"], "one of the two"),
        (["fit", "rna.csv", "--out", "y", "--max-seconds", "-1"], "max_seconds"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(cohort: Path, words: list[str], says: str) -> None:
    done = polyvae(*words, cwd=cohort)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (cohort / "x").exists()
    assert not (cohort / "y").exists()


def sheet(count: int, columns: int = 3, seed: int = 0) -> dict[str, list[float]]:
    values = np.random.default_rng(seed).normal(size=(count, columns))
    return {f"p{row}": values[row].tolist() for row in range(count)}


def bad(kind: str, folder: Path) -> None:
    """Two files, a.csv and b.csv, of which something is wrong or unusual."""
    head = ["id", "x", "y", "z"]
    a, b = sheet(20), sheet(20, seed=1)
    write_csv(folder / "a.csv", head, a)
    if kind == "no overlap":
        b = {f"q{name}": row for name, row in b.items()}
    if kind == "infinities":
        b["p3"][1] = float("inf")
    if kind == "constant columns":
        b = {name: [7.0, row[1], row[2]] for name, row in b.items()}
    if kind == "mixed dtypes":
        b["p3"] = [1.0, "high", 2.0]  # type: ignore[list-item]
    if kind == "one row":
        a, b = sheet(1), sheet(1, seed=1)
        write_csv(folder / "a.csv", head, a)
    if kind == "all missing":
        b = {name: [float("nan")] * 3 for name in b}
    write_csv(folder / "b.csv", head, b)
    if kind == "duplicate ids":
        text = (folder / "b.csv").read_text()
        (folder / "b.csv").write_text(text + text.splitlines()[1] + "\n")
    if kind == "empty":
        (folder / "b.csv").write_text("")
    if kind == "wide":
        wide = sheet(40, 2_000)  # 10,000 in the tests of the readers and of the estimator
        write_csv(folder / "a.csv", ["id", *(f"g{i}" for i in range(2_000))], wide)
        write_csv(folder / "b.csv", head, sheet(40, seed=1))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("duplicate ids", "'p0'"),
        ("no overlap", "no sample with two modalities"),
        ("infinities", "infinite value"),
        ("mixed dtypes", "got text in 1 of 3 columns"),
        ("one row", "at least 2"),
        ("empty", "empty file"),
        ("all missing", "'b'"),
        ("constant columns", None),
        ("wide", None),
    ],
)
def test_bad_data_is_one_line_or_a_sound_result(tmp_path: Path, kind: str, says: str | None) -> None:
    bad(kind, tmp_path)
    words = ["--set", "network.hidden=[8]"] if kind == "wide" else []
    done = polyvae("fit", "a.csv", "b.csv", "--out", "run", "-q", *QUICK, *words, cwd=tmp_path)
    if says is not None:
        assert done.returncode == 2, done.stderr
        assert says in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()
        return
    assert done.returncode == 0, done.stderr
    done = polyvae("impute", "run", "a.csv", "-o", "out", "--interval", "0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, rows = read_csv(tmp_path / "out" / "b.csv")
    values = np.array(list(rows.values()), float)
    assert np.isfinite(values).all()
    if kind == "constant columns":
        assert (values[:, 0] == 7).all()


@pytest.mark.parametrize("kind", ["duplicate ids", "infinities", "mixed dtypes", "empty"])
def test_bad_new_data_is_one_line(cohort: Path, tmp_path: Path, kind: str) -> None:
    bad(kind, tmp_path)
    for command in (["impute", "-o", tmp_path / "out"], ["embed", "-o", tmp_path / "z.csv"], ["score"]):
        done = polyvae(command[0], cohort / "run", "--rna", tmp_path / "b.csv", *command[1:])
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: ")


def test_remedies_are_options_of_the_command_line(cohort: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = {str(value): [value + 0.5] for value in np.random.default_rng(0).normal(size=12)}
        write_csv(tmp_path / f"{name}.csv", ["dose", "weight"], rows)
    words = ["fit", "a.csv", "b.csv", "--out", "run", "-q", *QUICK]
    assert "--by-position" in polyvae(*words, cwd=tmp_path).stderr
    assert polyvae(*words, "--by-position", cwd=tmp_path).returncode == 0
    header, rows_ = read_csv(cohort / "rna.csv")
    write_csv(tmp_path / "rna.csv", header[:-1], {name: cells[:-1] for name, cells in rows_.items()})
    words = ["impute", cohort / "run", "rna.csv", "-o", "out"]
    assert "--mask" in polyvae(*words, cwd=tmp_path).stderr
    assert polyvae(*words, "--mask", cwd=tmp_path).returncode == 0
    assert read_csv(tmp_path / "out" / "rna.csv")[0] == header


def test_a_damaged_run_is_one_line(cohort: Path, tmp_path: Path) -> None:
    for name, content in (
        ("fit.json", "{}"),
        ("fit.json", "x"),
        ("estimator.polyvae", "x"),
        ("estimator.polyvae", None),
    ):
        run = tmp_path / "run"
        shutil.copytree(cohort / "run", run)
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_text(content)
        done = polyvae("impute", run, "rna.csv", "-o", tmp_path / "out", cwd=cohort)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert name in line
        shutil.rmtree(run)


def test_covariates_are_conditioned_on_and_are_no_features(cohort: Path, tmp_path: Path) -> None:
    for name in ("rna", "protein"):
        header, rows = read_csv(cohort / f"{name}.csv")
        if name == "rna":
            header, rows = (
                [*header, "batch"],
                {key: [*cells, str(int(key[1:]) % 2)] for key, cells in rows.items()},
            )
        write_csv(tmp_path / f"{name}.csv", header, {key: rows[key] for key in sorted(rows) if key in rows})
    known = read_csv(tmp_path / "rna.csv")[1]
    header, rows = read_csv(tmp_path / "protein.csv")
    write_csv(tmp_path / "protein.csv", header, {key: cells for key, cells in rows.items() if key in known})
    words = ["rna.csv", "protein.csv", "--out", "run", "-q", *QUICK]
    done = polyvae("fit", *words, "--covariate", "batch=categorical", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    schema = open_fitted(tmp_path / "run").estimator.schema_
    assert "batch" not in schema["rna"].columns
    assert schema.covariates[0].levels == ["0", "1"]
    done = polyvae("impute", "run", "rna.csv", "-o", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = polyvae("impute", "run", "rna.csv", "--at", "batch=1", "-o", "moved", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own, moved = (read_csv(tmp_path / part / "protein.csv")[1] for part in ("own", "moved"))
    same = {key for key, cells in known.items() if cells[-1] == "1"}
    assert {key for key in known if own[key] == moved[key]} >= same
    assert own != moved
    done = polyvae("impute", "run", "rna.csv", "--at", "batch=2", "-o", "no", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown level '2'" in done.stderr
    assert "add it by polyvae extend" in done.stderr
    header, rows = read_csv(tmp_path / "rna.csv")
    (tmp_path / "later").mkdir()
    later = {key: [*cells[:-1], "2"] for key, cells in list(rows.items())[:20]}
    write_csv(tmp_path / "later" / "rna.csv", header, later)
    done = polyvae("extend", "run", "later/rna.csv", "-o", "more", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["added: batch=2", "written: more"]
    assert open_fitted(tmp_path / "more").estimator.schema_.covariates[0].added == ["2"]
    done = polyvae("impute", "run", "protein.csv", "-o", "no", cwd=tmp_path)
    assert done.returncode == 2
    assert "no table has a column 'batch'" in done.stderr

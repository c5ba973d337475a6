"""Files that are completed in blocks of rows: the results are those of the whole, bit for bit, and memory does not grow with the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.data.readers.tables import table_parts
from polyvae.data.readers.text import read_sheet
from polyvae.imputation.files import runs, streaming
from polyvae.imputation.files.sources import files_of
from polyvae.imputation.filling import fill as filling
from tests.helpers.cohorts import read_csv, write_cohort

NAMES = ("rna", "protein", "lipid")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[pv.Estimator, Path]:
    folder = tmp_path_factory.mktemp("cohort")
    paths = write_cohort(folder)
    estimator = pv.Estimator(steps=20, members=2, latent=3, seed=0)
    return estimator.fit({name: paths[name] for name in NAMES}), folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 samples, in the whole as in the stream."""
    monkeypatch.setattr(filling, "BLOCK", 7)
    monkeypatch.setattr(streaming, "BLOCK", 7)


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", float_precision="round_trip")


def as_parquet(folder: Path, out: Path) -> dict[str, Path]:
    for name in NAMES:
        pd.read_csv(folder / f"{name}.csv").to_parquet(out / f"{name}.parquet", index=False)
    return {name: out / f"{name}.parquet" for name in NAMES}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_stream_is_the_whole_bit_for_bit(
    fitted: tuple[pv.Estimator, Path], small: None, tmp_path: Path, kind: str
) -> None:
    estimator, folder = fitted
    files = {name: folder / f"{name}.csv" for name in NAMES}
    files = files if kind == "csv" else as_parquet(folder, tmp_path)
    out = tmp_path / "out"
    written = estimator.impute_to(out, files, interval=0.8, draws=2)
    assert len(written) == 15
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    parts = dict(zip(("", ".low", ".high"), estimator.impute(files, interval=0.8), strict=True))
    parts |= dict(zip((".draw1", ".draw2"), estimator.impute(files, draws=2), strict=True))
    for suffix, tables in parts.items():
        for name in NAMES:
            path = out / f"{name}{suffix}.{kind}"
            found = read(path).set_index("patient")
            assert list(found.columns) == list(tables[name].columns)
            assert found.index.tolist() == tables[name].index.tolist()
            assert np.array_equal(found.to_numpy(), tables[name].to_numpy())


def test_other_orders_and_kinds_give_the_same(fitted: tuple[pv.Estimator, Path], small: None, tmp_path: Path):
    estimator, folder = fitted
    rng, expected = (
        np.random.default_rng(0),
        estimator.impute({name: folder / f"{name}.csv" for name in NAMES}),
    )
    for name in NAMES:
        table = read(folder / f"{name}.csv").sample(frac=1, random_state=rng.integers(99))
        columns = ["patient", *rng.permutation(table.columns[1:])]
        table[columns].to_parquet(tmp_path / f"{name}.parquet", row_group_size=9, index=False)
    written = estimator.impute_to(
        tmp_path / "out", [tmp_path / f"{name}.parquet" for name in NAMES], statistic="mean", format="tsv"
    )
    assert [path.name for path in written] == ["rna.tsv", "protein.tsv", "lipid.tsv"]
    for name, path in zip(NAMES, written, strict=True):
        found = read(path).set_index("patient")
        table = expected[name].loc[found.index, found.columns]
        assert np.array_equal(found.to_numpy(), table.to_numpy())


def test_the_command_streams_large_files_to_the_same_bytes(
    fitted: tuple[pv.Estimator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, folder = fitted
    record = runs.FitRecord(command="", files={}, samples=60, target="group", seconds=1.0)
    run = runs.FittedRun(tmp_path, estimator, record)
    files = files_of([str(folder / "rna.csv"), str(folder / "lipid.csv")])
    whole = runs.impute_run(run, files, tmp_path / "whole", interval=0.9)
    monkeypatch.setattr(runs, "LARGE", 0)
    read = []
    monkeypatch.setattr(runs, "read_for", lambda *_: read.append(1))
    stream = runs.impute_run(run, files, tmp_path / "stream", interval=0.9)
    assert not read
    assert [path.name for path in stream] == [path.name for path in whole]
    for one, other in zip(stream, whole, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_rows_by_position(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 3)).astype(np.float32)
    b = (a + rng.normal(size=(30, 3))).astype(np.float32)
    b[4:9] = np.nan
    for name, x in (("a", a), ("b", b)):
        pd.DataFrame(x, columns=[f"{name}{i}" for i in range(3)]).to_parquet(tmp_path / f"{name}.parquet")
    files = {name: tmp_path / f"{name}.parquet" for name in ("a", "b")}
    estimator = pv.Estimator(steps=10, members=2, latent=2, id=False).fit(files)
    expected = estimator.impute(files)
    for name, path in zip(("a", "b"), estimator.impute_to(tmp_path / "out", files), strict=True):
        found = pd.read_parquet(path)
        assert list(found.columns) == [f"{name}{i}" for i in range(3)]
        assert found.to_numpy().dtype == np.float32
        assert np.array_equal(found.to_numpy(), expected[name].to_numpy())
    pd.read_parquet(files["b"]).head(20).to_parquet(files["b"])
    with pytest.raises(pv.InputError, match=r"different numbers of rows without ids, \{'a': 30, 'b': 20\}"):
        estimator.impute_to(tmp_path / "other", files)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("patient,rna_0,rna_1,rna_2,rna_3\np1,1,2,3,4\n", "lacks 1 of 5 columns"),
        ("patient,rna_0,rna_1,rna_2,rna_3,rna_4\n" + "p1,1,2,3,4,5\n" * 2, "1 id more than once"),
        (
            "patient,rna_0,rna_1,rna_2,rna_3,rna_4\n" + "".join(f"p{i % 19},1,2,3,4,5\n" for i in range(20)),
            "1 id more than once",
        ),
        ("patient,rna_0,rna_1,rna_2,rna_3,rna_4\np1,1,2,3,4,x\n", "got text in 1 of 5 columns"),
        ("patient,rna_0,rna_1,rna_2,rna_3,rna_4\np1,1,2,3,4\n", "got 5 cells in line 2"),
        ("patient,rna_0,rna_1,rna_2,rna_3,rna_4\np1,1,2,3,4,inf\n", "1 infinite value"),
        ("number,rna_0,rna_1,rna_2,rna_3,rna_4\n" + "1,1,2,3,4,5\n", "got numbers in the first column"),
        ("a,b\n1,2\n", "none of the 5 columns"),
        ("", "empty file"),
    ],
)
def test_bad_files_end_in_one_line(
    fitted: tuple[pv.Estimator, Path], small: None, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "rna.csv").write_text(text)
    with pytest.raises(pv.InputError, match=says) as problem:
        fitted[0].impute_to(tmp_path / "out", [tmp_path / "rna.csv"])
    assert "\n" not in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rna.csv"]


def test_an_error_closes_what_was_opened(
    fitted: tuple[pv.Estimator, Path], small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open files would keep the temporary folder on Windows."""
    closed: list[str] = []
    for kind in (streaming.Index, streaming.Matrix):
        monkeypatch.setattr(
            kind, "close", lambda self, close=kind.close: (closed.append(type(self).__name__), close(self))
        )
    lines = [f"p{i},1,2,3,4,{5 if i < 9 else 'x'}" for i in range(10)]
    (tmp_path / "rna.csv").write_text("\n".join(["patient,rna_0,rna_1,rna_2,rna_3,rna_4", *lines]))
    with pytest.raises(pv.InputError, match="got text in 1 of 5 columns"):
        fitted[0].impute_to(tmp_path / "out", [tmp_path / "rna.csv"])
    assert closed == ["Index", "Matrix"]


def test_other_kinds_of_files_are_refused(fitted: tuple[pv.Estimator, Path], tmp_path: Path) -> None:
    estimator, folder = fitted
    np.savez(tmp_path / "rna.npz", rna=np.ones((3, 5)))
    with pytest.raises(pv.InputError, match="expected csv, tsv or parquet files"):
        estimator.impute_to(tmp_path / "out", [tmp_path / "rna.npz"])
    with pytest.raises(pv.InputError, match="expected csv, tsv or parquet files"):
        estimator.impute_to(tmp_path / "out.npz", [folder / "rna.csv"])
    with pytest.raises(pv.InputError, match="one table for 3 modalities"):
        estimator.impute_to(tmp_path / "out.csv", [folder / "rna.csv"])


def test_warnings_concern_the_whole(fitted: tuple[pv.Estimator, Path], small: None, tmp_path: Path) -> None:
    estimator, folder = fitted
    header, rows = read_csv(folder / "rna.csv")
    lines = [",".join([*header, "more"])] + [
        ",".join([name, "1e6", *cells[1:], "1"]) for name, cells in rows.items()
    ]
    (tmp_path / "rna.csv").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="data: ") as found:
        estimator.impute_to(tmp_path / "out", [tmp_path / "rna.csv"])
    texts = [str(each.message) for each in found]
    assert len(texts) == 2
    assert "1 column ('more') not in the training data" in texts[0]
    assert f"{len(rows)} values far outside" in texts[1]


@pytest.mark.parametrize(
    "data",
    [
        b"id;a;b\nx;1,5;2\ny;;3\n",
        "id\ta\tb\r\nß\t1\t2\r\nz\tNA\t3\r\n".encode("cp1252"),
        '\ufeffid,a,b\n"x\ny",1,2\n\nz,3,4'.encode(),
        "a,b\nx,1,2\ny,3,4\n".encode("utf-16"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not UTF-8")
def test_a_text_table_in_blocks_is_the_same_table(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    whole, blocks = read_sheet(path, None, "missing", None), table_parts(path, None, "missing", None, 1)
    parts = list(blocks.parts)
    assert len(parts) == 2
    assert (blocks.id, blocks.columns) == (whole.id, whole.part.columns)
    assert [name for part in parts for name in part.ids or []] == whole.part.ids
    assert np.array_equal(np.concatenate([part.values for part in parts]), whole.part.values)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """Peaks of processes of their own, 80,000 and 200,000 rows of 6 tables of 20 columns; 32 MB of SQLite's cache are full in both."""
    peaks = []
    for rows in (80_000, 200_000):
        words = ["-m", "benchmarks.imputation.memory", "--rows", str(rows), "--folder", str(tmp_path)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout)["megabytes"])
    assert peaks[1] < peaks[0] + 30, peaks

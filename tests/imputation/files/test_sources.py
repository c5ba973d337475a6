"""Files by modality, from the words of a command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyvae.imputation.files.outputs import Completed, write
from polyvae.imputation.files.sources import files_of, read_files, target_of
from polyvae.utils.errors import InputError
from tests.helpers.cohorts import write_cohort, write_csv


def test_every_spelling_names_a_modality() -> None:
    files = files_of(["a/rna.csv.gz", "x=b.csv", "--y", "c.parquet", "--z=d.tsv"])
    assert files.paths == {
        "rna": Path("a/rna.csv.gz"),
        "x": Path("b.csv"),
        "y": Path("c.parquet"),
        "z": Path("d.tsv"),
    }
    assert files.given == {"x", "y", "z"}


def test_a_file_whose_name_looks_like_an_option_or_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("--rna.csv", "dose=1.csv"):
        Path(name).write_text("")
    assert files_of(["--rna.csv", "dose=1.csv"]).paths == {
        "--rna": Path("--rna.csv"),
        "dose=1": Path("dose=1.csv"),
    }


@pytest.mark.parametrize(
    "words", [[], ["--rna"], ["--rna", "5"], ["-r", "a.csv"], ["=a.csv"], ["a="], ["a.csv", "b/a.csv"]]
)
def test_what_is_no_file_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError):
        files_of(words)


def test_a_target_is_a_column_of_a_table_or_of_another_file(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    files = files_of([str(paths["rna"]), str(paths["protein"])])
    group = target_of(f"{paths['clinical']}:group", files)
    assert set(group.values.values()) == {"high", "low"}
    age = target_of(f"{paths['clinical']}:age", files).values
    assert age["p007"] == pytest.approx(1)
    assert target_of("rna_0", files).values == target_of("rna:rna_0", files).values
    with pytest.raises(InputError, match="expected ids"):
        target_of("rna_0", files, False)


def test_time_and_event_may_be_named_in_either_order(tmp_path: Path) -> None:
    write_csv(tmp_path / "f.csv", ["id", "days", "died"], {"p": [5, "yes"], "q": [7, "no"], "r": [1, "yes"]})
    write_csv(tmp_path / "rna.csv", ["id", "a"], {"p": [1.5], "q": [2.5], "s": [0.5]})
    files, path = files_of([str(tmp_path / "rna.csv")]), tmp_path / "f.csv"
    found = [target_of(f"{path}:{names}", files) for names in ("days,died", "died,days")]
    assert found[0] == found[1]
    assert found[0].columns == ("days", "died")
    y = found[0].of(["q", "s", "p"])
    assert y.dtype.names == (f"{path}:days", f"{path}:died")
    assert y.tolist() == [(7, "no"), (None, None), (5, "yes")]
    with pytest.raises(InputError, match="twice"):
        target_of(f"{path}:days,days", files)
    with pytest.raises(
        InputError, match=f"ids in {path} none of which is a sample, such as 'p', 'q', 'r'; .* 'x'"
    ):
        found[0].of(["x"])
    with pytest.raises(InputError, match=f"ids in {path} none"):
        target_of(f"{path}:days", files).of(["x"])


def test_tables_that_disagree_are_refused(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        write_csv(tmp_path / f"{name}.csv", ["id", "group"], {"p": [value]})
    with pytest.raises(InputError, match="'p'"):
        target_of("group", files_of([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]))


def test_arrays_beside_tables_are_read_and_written_in_their_shape(tmp_path: Path) -> None:
    rows = {f"s{at}": [at + 0.5, at + 1.5, at % 2] for at in range(6)}
    write_csv(tmp_path / "rna.csv", ["id", "a", "b", "sex"], rows)
    scan = np.arange(24.0).reshape(6, 1, 2, 2)
    np.save(tmp_path / "scan.npy", scan)
    files = files_of([str(tmp_path / "rna.csv"), f"mri={tmp_path / 'scan.npy'}"])
    with pytest.warns(
        UserWarning, match="'mri' has no ids; row i is taken to be the sample in row i of 'rna'"
    ):
        given = read_files(files, labels=("b", "sex"))
    assert given.data.names == ("rna", "mri")
    assert given.data.columns == {"rna": ("a",)}
    assert given.data.values("mri").shape == scan.shape
    columns = {"rna": ["a"], "mri": [f"mri_{at}" for at in range(4)]}
    values = {name: given.data.values(name).flatten(1).numpy() for name in given.data.names}
    completed = Completed(given, columns, {"rna": (1,), "mri": (1, 2, 2)}, {}, {"": values, ".low": values})
    written = write(completed, tmp_path / "out", "")
    assert [path.name for path in written] == ["rna.csv", "mri.npy", "rna.low.csv", "mri.low.npy"]
    assert np.array_equal(np.load(tmp_path / "out" / "mri.npy"), scan)
    assert (tmp_path / "out" / "rna.csv").read_text().splitlines()[:2] == ["id,a", "s0,0.5"]
    assert write(completed, tmp_path / "csv", ".csv")[1].read_text().startswith("id,mri_0,mri_1")

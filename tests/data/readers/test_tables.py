"""Tables in files: separators, encodings, ids, and errors of one line."""

from __future__ import annotations

import gzip
import importlib.util

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyvae as pv
from polyvae.data.groups import Decoder, groups_of
from polyvae.data.readers import read
from polyvae.data.readers.classes import Asked
from polyvae.data.readers.text import read_sheets
from polyvae.data.schema import Schema

RNA = "sample,a,b\ns1,1,2.5\ns2,3,4\ns3,5,-6e-1\n"
PROTEIN = "sample,p\ns3,7\ns4,8\n"


def written(folder, **files):
    paths = []
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(path)
    return paths


def test_csv_files_are_joined_and_named_by_their_stems(tmp_path):
    data = pv.MultimodalData.from_csv(written(tmp_path, rna__csv=RNA, protein__csv=PROTEIN))
    assert data.names == ("rna", "protein")
    assert data.ids == ["s1", "s2", "s3", "s4"]
    assert data.columns == {"rna": ("a", "b"), "protein": ("p",)}
    assert data.values("rna").tolist() == [[1, 2.5], [3, 4], [5, -0.6], [0, 0]]
    assert data.mask.tolist() == [[True, True, True, False], [False, False, True, True]]


@pytest.mark.parametrize(
    "text",
    [
        RNA.replace(",", ";"),
        RNA.replace(",", "\t"),
        RNA.replace(",", ";").replace(".", ","),
        RNA.replace("sample,", ","),
        RNA.replace("sample,", ""),
        RNA.replace("\n", "\r\n"),
        RNA.replace("\n", "\n\n"),
        RNA.replace("s1", '"s1"'),
        b"\xef\xbb\xbf" + RNA.encode(),
        RNA.encode("utf-16"),
    ],
    ids=[
        "semicolons",
        "tabs",
        "decimal commas",
        "empty header",
        "as R writes",
        "crlf",
        "blank lines",
        "quotes",
        "BOM",
        "utf-16",
    ],
)
def test_every_spelling_of_a_table_gives_the_same_data(tmp_path, text):
    (path,) = written(tmp_path, rna__csv=text)
    data = pv.MultimodalData.from_csv(path)
    assert data.ids == ["s1", "s2", "s3"]
    assert data.columns == {"rna": ("a", "b")}
    assert data.values("rna").tolist() == [[1, 2.5], [3, 4], [5, -0.6]]


def test_other_encodings_are_read_with_a_warning(tmp_path):
    (path,) = written(tmp_path, x__csv="id,Größe\na,1\n".encode("cp1252"))
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert pv.MultimodalData.from_csv(path).columns == {"x": ("Größe",)}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "an empty file"),
        ("id,a\n", "no rows"),
        ("id\ns1\n", "a header of one column"),
        ("age,a\n1,2\n3,4\n", "numbers in the first column 'age'; expected ids .* id="),
        ("id,a,b\ns,1,2\nt,1\n", "2 cells in line 3; expected 3"),
        ("id,a,b\ns,1,x\nt,1,y\n", r"text in 1 of 2 columns \('b'; such as 'x'\)"),
        ("id,a,a\ns,1,2\n", r"1 column name more than once \('a'\)"),
        ("id,a\ns,1\ns,2\n", r"1 id more than once \('s'\)"),
        ("id,a\ns,1\n,2\n", "1 row without an id"),
        ("id,a\ns,1\nt,\n", r"1 value NaN or null in 1 column \('a'\)"),
        ("id,a\ns,1\nt,inf\n", r"1 infinite value in 1 column \('a'\)"),
        ("id;a\ns;1,5\nt;2.5\n", "decimal commas and numbers with points"),
        (b"id,a\ns,\x00\n", "no text"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, match):
    (path,) = written(tmp_path, x__csv=text)
    with pytest.raises(pv.InputError, match=match) as caught:
        pv.MultimodalData.from_csv(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path):
    for path in (
        tmp_path / "none.csv",
        tmp_path / "none.parquet",
        tmp_path / "none.h5ad",
        tmp_path / "a.xlsx",
    ):
        with pytest.raises(pv.InputError, match=r"cannot be read|no such file"):
            read(path)
    (other,) = written(tmp_path, a__xlsx="x")
    with pytest.raises(pv.InputError, match=r"ends in '\.xlsx'; expected one of \.csv"):
        read(other)
    for ending in (".parquet", ".npz", ".h5ad", ".h5mu"):
        (tmp_path / f"bad{ending}").write_bytes(b"no such format")
        with pytest.raises(pv.InputError, match="cannot be used"):
            read(tmp_path / f"bad{ending}")


def test_ids_and_labels_are_columns_by_name(tmp_path):
    path, clinical = written(
        tmp_path, x__csv="age,who,a\n1,007,2\n3,7,NA\n", clinical__csv="who,kind\n7,b\n007,a\n"
    )
    data = pv.MultimodalData.from_csv([path, clinical], id="who", nan="missing", labels="kind")
    assert data.ids == ["007", "7"]
    assert data.names == ("x",)
    assert data.labels.tolist() == [0, 1]
    assert data.observed("x").tolist() == [[True, True], [True, False]]
    with pytest.raises(pv.InputError, match="no id column 'whom'; did you mean 'who'"):
        pv.MultimodalData.from_csv(path, id="whom")
    with pytest.raises(pv.InputError, match="no table has a column 'sort'"):
        pv.MultimodalData.from_csv(path, id="who", nan="missing", labels="sort")


def test_a_file_may_be_compressed(tmp_path):
    path = tmp_path / "rna.csv.gz"
    path.write_bytes(gzip.compress(RNA.encode()))
    assert pv.MultimodalData.from_csv(path).names == ("rna",)


def saved(given, out):
    data, layout = given
    schema = Schema.fit(data)
    values = {
        name: np.where(data.observed(name), data.values(name).double().numpy(), np.nan) for name in data.names
    }
    return layout.save(out, values, schema.columns, data.ids)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
def test_saved_tables_are_read_as_they_were(tmp_path, kind):
    paths = [tmp_path / f"{name}{kind}" for name in ("rna", "protein")]
    for path, text in zip(paths, (RNA, PROTEIN), strict=True):
        if kind == ".parquet":
            pl.read_csv(text.encode()).write_parquet(path)
        else:
            path.write_text(text.replace(",", "\t") if kind == ".tsv" else text)
    first = read(paths)
    again = read(saved(first, tmp_path / "out"))
    assert again.data.ids == first.data.ids
    assert again.data.columns == first.data.columns
    for name in first.data.names:
        assert again.data.observed(name).equal(first.data.observed(name))
        assert again.data.values(name).equal(first.data.values(name))
    frames = first.layout.back(
        {"rna": np.ones((4, 2)), "protein": np.ones((4, 1))}, first.data.columns, first.data.ids
    )
    assert isinstance(frames["rna"], pd.DataFrame)
    assert frames["rna"].index.name == "sample"


def test_parquet_with_an_index_of_pandas(tmp_path):
    table = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["s", "t"], name="who"))
    table.to_parquet(tmp_path / "x.parquet")
    data = pv.MultimodalData.from_parquet({"x": tmp_path / "x.parquet"})
    assert data.ids == ["s", "t"]
    table.reset_index(drop=True).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(pv.InputError, match="numbers in the first column 'a'"):
        pv.MultimodalData.from_parquet(tmp_path / "y.parquet")


def test_archives_of_arrays(tmp_path):
    path = tmp_path / "cohort.npz"
    np.savez(
        path,
        rna=np.arange(6.0).reshape(3, 2),
        image=np.zeros((3, 1, 2, 2)),
        ids=np.array(["a", "b", "c"]),
        labels=np.array([0, 1, 1]),
        **{"rna.columns": np.array(["g1", "g2"])},
    )
    given = read(path)
    assert given.data.names == ("rna", "image")
    assert given.data.columns == {"rna": ("g1", "g2")}
    assert given.data.labels.tolist() == [0, 1, 1]
    (out,) = given.layout.save(
        tmp_path / "out.npz", {"rna": np.ones((3, 2))}, {"rna": ("g1", "g2")}, given.data.ids
    )
    again = read(out).data
    assert again.names == ("out",)
    assert again.ids == ["a", "b", "c"]


def test_without_a_library_for_frames_results_are_saved_still(tmp_path, monkeypatch):
    paths = written(tmp_path, rna__csv=RNA, protein__csv=PROTEIN)
    first = read(paths)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pv.InputError, match="pip install pandas"):
        first.layout.embedding(np.ones((4, 1)), first.data.ids, ["z0"])
    assert len(saved(first, tmp_path / "out")) == 2
    assert first.layout.save_embedding(
        tmp_path / "z.csv", np.ones((4, 1)), first.data.ids, ["z0"]
    ).read_text() == ("sample,z0\ns1,1.0\ns2,1.0\ns3,1.0\ns4,1.0\n")


CELLS = """id,age,dose,half,smoker,done,stage,code
s1,41,1.0,0.5,TRUE,true,i,1
s2,42,2.0,3,FALSE,false,ii,3
s3,-7,3.0,1.25,FALSE,false,ii,
s4,41,4.5,0.5,TRUE,true,i,1
"""


@pytest.mark.filterwarnings("ignore")
def test_cells_of_text_files_are_written_as_they_came(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text(CELLS)
    given = read(path, nan="missing")
    data, form = given.data, given.layout.forms["clinical"]
    decoder = Decoder({"clinical": groups_of(data.columns["clinical"], data.levels["clinical"])})
    values = np.where(data.observed("clinical"), data.values("clinical"), 1.5)
    given.layout.save(tmp_path / "out", {"clinical": values}, data.columns, data.ids, decoder)
    assert (tmp_path / "out" / "clinical.csv").read_text() == CELLS.replace("ii,\n", "ii,1.5\n")
    known = {group.name: group.classes for group in decoder.groups["clinical"]}
    blocks = read_sheets(path, None, "missing", None, 2, Asked(known=known))
    assert [len(part.ids) for part in blocks.parts] == [2, 2]
    assert blocks.written == form.written


@pytest.mark.filterwarnings("ignore")
def test_integers_of_text_files_are_integers_in_frames(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text(CELLS)
    given = read(path, nan="missing")
    values, columns = {"clinical": given.data.values("clinical").numpy()}, given.data.columns
    decoder = Decoder({"clinical": groups_of(columns["clinical"], given.data.levels["clinical"])})
    frame = given.layout.back(values, columns, given.data.ids, decoder)
    kinds = {"age": "int64", "dose": "float64", "half": "float64", "smoker": "bool", "code": "int64"}
    assert {name: str(frame[name].dtype) for name in kinds} == kinds

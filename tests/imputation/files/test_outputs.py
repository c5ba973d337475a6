"""Files of completed data: one rule for the kind of each, whatever came in beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polyvae.data.readers import read
from polyvae.imputation.files.outputs import Completed, write

IDS = np.array(["s1", "s2", "s3"])
FLAT, SCAN = np.arange(6.0).reshape(3, 2), np.arange(12.0).reshape(3, 1, 2, 2)


@pytest.mark.parametrize("beside", [False, True])
def test_arrays_of_npz_files_are_tables_or_npy_by_their_shape(tmp_path: Path, beside: bool) -> None:
    np.savez(tmp_path / "arrays.npz", flat=FLAT, scan=SCAN, ids=IDS)
    np.save(tmp_path / "plain.npy", FLAT)
    pd.DataFrame({"a": [1, 2, 3]}, pd.Index(IDS, name="id")).to_csv(tmp_path / "table.csv")
    files = [tmp_path / "arrays.npz", *([tmp_path / "table.csv", tmp_path / "plain.npy"] if beside else [])]
    with pytest.warns(UserWarning, match="has no ids; row i") if beside else pytest.MonkeyPatch.context():
        given = read(files)
    values = {name: np.asarray(given.data.values(name)) for name in given.data.names}
    columns = {"flat": ["f0", "f1"], "scan": list("pqrs"), "table": ["a"], "plain": ["x", "y"]}
    completed = Completed(
        given,
        {name: columns[name] for name in values},
        {name: x.shape[1:] for name, x in values.items()},
        {},
        {"": {name: x.reshape(3, -1) for name, x in values.items()}},
    )
    written = {path.name for path in write(completed, tmp_path / "out", "")}
    assert written == {"flat.csv", "scan.npy", *(["table.csv", "plain.npy"] if beside else [])}
    assert (tmp_path / "out" / "flat.csv").read_text().splitlines() == [
        "id,f0,f1",
        *(f"{name},{2 * at}.0,{2 * at + 1}.0" for at, name in enumerate(IDS)),
    ]
    assert np.array_equal(np.load(tmp_path / "out" / "scan.npy"), SCAN)

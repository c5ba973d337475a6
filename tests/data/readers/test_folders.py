"""Images by file stem, beside a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import polyvae as pv


def pictures(folder, **images):
    folder.mkdir()
    for name, x in images.items():
        Image.fromarray(x).save(folder / f"{name}.png")
    return folder


def test_images_are_joined_with_a_table(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    colour = np.stack([grey, grey + 1, grey + 2], -1)
    folder = pictures(tmp_path / "scans", p1=grey, p2=colour)
    (folder / "notes.txt").write_text("no image")
    clinical = pd.DataFrame({"age": [50.0, 60.0], "kind": ["b", "a"]}, index=["p2", "p3"])
    data = pv.MultimodalData.from_folder(folder, tables={"clinical": clinical}, labels="kind")
    assert data.ids == ["p1", "p2", "p3"]
    assert data.modalities()[0].shape == (3, 2, 3)
    np.testing.assert_allclose(data.values("image")[1].numpy(), colour.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(data.values("image")[0, 2].numpy(), grey / 255, rtol=1e-6)
    assert data.labels.tolist() == [-1, 1, 0]
    path = tmp_path / "clinical.csv"
    clinical[["age"]].to_csv(path)
    assert pv.MultimodalData.from_folder(folder, tables={"clinical": path}).names == ("image", "clinical")


def test_sizes_and_files_that_do_not_fit(tmp_path):
    folder = pictures(tmp_path / "a", x=np.zeros((2, 3), np.uint8), y=np.zeros((4, 4), np.uint8))
    with pytest.raises(pv.InputError, match=r"2 sizes, such as \(2, 3\) and \(4, 4\).*size="):
        pv.MultimodalData.from_folder(folder)
    assert pv.MultimodalData.from_folder(folder, size=(5, 6)).modalities()[0].shape == (1, 5, 6)
    with pytest.raises(pv.InputError, match="cannot be read"):
        pv.MultimodalData.from_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(pv.InputError, match="no image files"):
        pv.MultimodalData.from_folder(tmp_path / "empty")
    (tmp_path / "a" / "z.png").write_bytes(b"no image")
    with pytest.raises(pv.InputError, match="cannot be used"):
        pv.MultimodalData.from_folder(folder)
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "a" / "z.png")
    with pytest.raises(pv.InputError, match="8 bits per channel"):
        pv.MultimodalData.from_folder(folder, size=(2, 2))

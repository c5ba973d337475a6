"""The schema: statistics of observed training values, and new data brought into their order by name."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.data.schema import Schema


def cohort(rows: int = 6) -> pv.MultimodalData:
    rng = np.random.default_rng(0)
    rna = rng.normal(5, 2, (rows, 3))
    counts = rng.integers(0, 9, (rows, 2)).astype(float)
    counts[:, 1] = np.arange(rows) % 2
    entries = np.ones((rows, 3), dtype=bool)
    entries[0, 1] = False
    return pv.MultimodalData(
        {"rna": rna, "counts": counts},
        mask={"counts": [True] * (rows - 1) + [False]},
        entries={"rna": entries},
        columns={"rna": ("a", "b", "c"), "counts": ("n", "yes")},
        labels=[0] * rows,
    )


def test_statistics_are_those_of_the_observed_values():
    data = cohort()
    schema, x = Schema.fit(data), data.values("rna").numpy()
    rna = schema["rna"]
    np.testing.assert_allclose(rna.center, [x[:, 0].mean(), x[1:, 1].mean(), x[:, 2].mean()], rtol=1e-14)
    np.testing.assert_allclose(rna.scale, [x[:, 0].std(), x[1:, 1].std(), x[:, 2].std()], rtol=1e-13)
    assert rna.low[1] == x[1:, 1].min()
    assert schema["counts"].kinds == ["count", "binary"]
    assert rna.kinds == ["real"] * 3
    assert schema.columns == {"rna": ("a", "b", "c"), "counts": ("n", "yes")}


def test_a_schema_is_unchanged_by_json():
    schema = Schema.fit(cohort(), units={"rna": {"a": "mg"}})
    assert Schema.model_validate(json.loads(json.dumps(schema.model_dump()))) == schema


def test_standardised_values_are_restored_and_missing_ones_are_zero():
    data = cohort()
    schema = Schema.fit(data)
    found = schema.standardise(data)
    assert found["rna"].values.dtype == np.float32
    assert found["rna"].values[0, 1] == 0
    assert not found["rna"].observed[0, 1]
    assert not found["counts"].observed[-1].any()
    back = schema.restore("rna", found["rna"].values)
    seen = found["rna"].observed
    assert back.dtype == np.float64
    np.testing.assert_allclose(back[seen], data.values("rna").numpy()[seen], rtol=1e-6)


def test_columns_and_modalities_in_another_order_give_the_same_values():
    data = cohort()
    schema = Schema.fit(data)
    rna, gaps = data.values("rna"), data.observed("rna")
    other = pv.MultimodalData(
        {"counts": data.values("counts"), "rna": rna[:, [2, 0, 1]]},
        mask={"counts": data.mask[1]},
        entries={"rna": gaps[:, [2, 0, 1]]},
        columns={"rna": ("c", "a", "b"), "counts": ("n", "yes")},
    )
    aligned = schema.align(other)
    assert aligned.names == schema.names
    for name in schema.names:
        torch.testing.assert_close(aligned.values(name), data.values(name), rtol=0, atol=0)
        assert torch.equal(aligned.observed(name), data.observed(name))
    assert torch.equal(aligned.mask, data.mask)


def test_missing_columns_are_named_or_masked():
    schema = Schema.fit(cohort())
    new = pv.MultimodalData({"rna": np.ones((2, 2))}, columns={"rna": ("c", "a")})
    with pytest.raises(pv.InputError, match=r"lacks 1 of 3 columns \('b'\)"):
        schema.align(new)
    aligned = schema.align(new, missing="mask")
    assert aligned.observed("rna").tolist() == [[True, False, True]] * 2
    assert aligned.mask.tolist() == [[True, True], [False, False]]


def test_unknown_columns_and_modalities_are_counted():
    schema = Schema.fit(cohort())
    new = pv.MultimodalData(
        {"rna": np.full((2, 4), 5.0), "other": np.ones((2, 1))}, columns={"rna": ("x", "c", "b", "a")}
    )
    with pytest.warns(UserWarning, match="not in the training data") as caught:
        aligned = schema.align(new)
    texts = " ".join(str(each.message) for each in caught)
    assert "1 modality ('other') not in the training data; ignored; expected some of" in texts
    assert "by NAME=FILE" in texts
    assert "1 column ('x') not in the training data" in texts
    assert aligned.names == ("rna", "counts")
    assert [spec.shape for spec in aligned.modalities()] == [(3,), (2,)]


def test_values_far_outside_are_counted_in_one_warning():
    data = cohort()
    schema = Schema.fit(data)
    x = data.values("rna").clone()
    x[0, 0] = x[3, 0] = 1e4
    new = pv.MultimodalData({"rna": x}, columns={"rna": ("a", "b", "c")})
    with pytest.warns(UserWarning, match=r"2 values far outside .* 1 feature \('rna: a'\)"):
        schema.align(new)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema.align(data)


def test_without_names_columns_are_matched_by_position():
    schema = Schema.fit(pv.MultimodalData({"x": np.arange(6.0).reshape(2, 3)}))
    assert schema["x"].columns == ["x_0", "x_1", "x_2"]
    with pytest.raises(pv.InputError, match="got 2 columns; expected 3 columns"):
        schema.align(pv.MultimodalData({"x": np.ones((1, 2))}))


def test_a_constant_column_has_scale_one():
    schema = Schema.fit(pv.MultimodalData({"x": np.array([[0.5, 1.0], [0.5, 2.0], [0.5, 4.0]])}))
    assert schema["x"].constant == ["x_0"]
    assert schema["x"].scale[0] == 1
    assert schema["x"].center[0] == 0.5


def test_a_modality_that_no_sample_has_is_refused():
    data = pv.MultimodalData({"x": np.ones((2, 1)), "y": np.ones((2, 1))}, mask={"y": [False, False]})
    with pytest.raises(pv.InputError, match="modality 'y': got no training sample"):
        Schema.fit(data)


def test_images_are_flattened_by_the_schema():
    data = pv.MultimodalData(
        {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)}, scale={"image": 0.5}
    )
    schema = Schema.fit(data)
    assert schema["image"].shape == [3, 2, 2]
    np.testing.assert_allclose(schema["image"].center, np.arange(12) * 0.5 + 3)
    assert schema.standardise(schema.align(data))["image"].values.shape == (2, 12)


@pytest.mark.filterwarnings("ignore:modality .* loses its variance in float32")
def test_values_that_overflow_are_refused_in_training_and_bounded_in_new_data():
    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    for scale in (1e60, 1e160, -1e300):
        with pytest.raises(pv.InputError, match="another unit"):
            Schema.fit(pv.MultimodalData({"a": x * scale}))
    schema = Schema.fit(pv.MultimodalData({"a": x}))
    with pytest.warns(UserWarning, match="far outside"):
        aligned = schema.align(pv.MultimodalData({"a": x * 1e300}))
    assert np.isfinite(schema.standardise(aligned)["a"].values).all()

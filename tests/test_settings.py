"""What fit accepts and what it and its data show of themselves."""

from typing import get_type_hints

import pytest
import torch

import polyvae as pv
from polyvae.config import TrainConfig, read_config
from polyvae.training import History
from polyvae.training.settings import TrainSettings


def data(rows=40, **options):
    draws = torch.Generator().manual_seed(0)
    specs = [pv.Modality(name, (size,), params={"hidden": [4]}) for name, size in (("a", 3), ("b", 5))]
    x = {spec.name: torch.randn(rows, *spec.shape, generator=draws) for spec in specs}
    return pv.MultimodalData(x, modalities=specs, **options)


def test_an_editor_completes_what_the_configuration_validates():
    assert get_type_hints(TrainSettings) == get_type_hints(TrainConfig)
    assert list(TrainSettings.__annotations__) == list(TrainConfig.model_fields)


def test_every_setting_is_described():
    described = TrainConfig.__doc__ or ""
    assert not [name for name in TrainConfig.model_fields if f"\n        {name}: " not in described]


def test_a_memory_setting_applies_while_training_and_is_restored(tmp_path):
    """Fewer rows at a time give the same model; a run may continue with another number."""
    models, seen = [], []

    def watch(model, record):
        seen.append(model.max_rows)

    for rows in (None, 7):
        torch.manual_seed(0)
        model = pv.MMVAEPlus(data().modalities(), latent=2).double()
        out = tmp_path / f"run-{rows}"
        settings = {"out": out, "batch_size": 16, "show": False, "device": "cpu", "watch": watch}
        pv.fit(model, data(), epochs=1, max_rows=rows, **settings)
        pv.fit(model, data(), epochs=2, max_rows=3 if rows else None, resume=True, **settings)
        assert model.max_rows is None
        assert read_config(out / "config.toml").train.max_rows == (3 if rows else None)
        models.append(model)
    assert seen == [None, None, 7, 3]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_a_memory_setting_is_restored_where_training_fails():
    model = pv.MVAE(data().modalities(), latent=2)
    model.max_rows = 9
    with pytest.raises(pv.InputError, match="nothing was observed"):
        pv.fit(model, data(mask={"a": [False] * 40, "b": [False] * 40}), epochs=1, max_rows=4, show=False)
    assert model.max_rows == 9


def test_a_history_describes_itself():
    history = pv.fit(pv.MVAE(data().modalities(), latent=2), data(), epochs=2, batch_size=16, show=False)
    first, second = repr(history).splitlines()
    assert first.startswith("History: stopped 'done', 2 epochs, 6 steps, ")
    assert second.startswith("  last bound in nats per sample: train -")
    assert "validation -" in second
    assert repr(History()) == "History: stopped 'done', no complete epoch, 0 steps"


def test_data_describe_themselves():
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, :10] = False
    entries = {"a": torch.rand(40, 3) < 0.9}
    some = data(
        mask=mask, labels=[0, 1] * 20, entries=entries, splits={"train": range(30), "test": range(30, 40)}
    )
    assert repr(some).splitlines() == [
        "MultimodalData: 40 samples, 2 modalities",
        "  a  (3,)  normal  0 % missing, missing entries",
        "  b  (5,)  normal  25 % missing",
        "  splits: train 30, test 10; labels: 2 classes",
    ]


def test_many_modalities_are_described_in_ten_lines():
    lines = repr(pv.MultimodalData({f"m{m}": torch.zeros(2, 3) for m in range(30)})).splitlines()
    assert len(lines) == 10
    assert lines[-2] == "  and 23 more"

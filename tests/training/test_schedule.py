"""The factors of a step: learning rate, warm-up, and means over an epoch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import polyvae as pv
from polyvae.core.bounds import Bound
from tests.helpers.tiny import small_data, small_model

SETTINGS: dict[str, Any] = {"show": False, "precision": "fp32", "validation": 0.0}


def test_beta_rises_from_above_zero_to_one_over_the_warm_up() -> None:
    """60 rows in batches of 20: three steps of an epoch; warm-up over two epochs."""
    model, seen = small_model(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    pv.fit(model, small_data(), epochs=3, batch_size=20, warmup_epochs=2, **SETTINGS)
    assert seen == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1])


def test_means_of_an_epoch_count_samples_not_batches() -> None:
    """60 rows in batches of 25: the last batch is smaller, and each epoch is counted alone."""
    model, epochs = small_model(), [[], []]  # type: ignore[var-annotated]

    def note(module: torch.nn.Module, inputs: tuple[Any, ...], bound: Bound) -> None:
        place = next(epoch for epoch in epochs if sum(map(len, epoch)) < 60)
        place.append(bound.value.detach())

    model.register_forward_hook(note)
    history = pv.fit(model, small_data(), epochs=2, batch_size=25, **SETTINGS)
    for record, values in zip(history.records, epochs, strict=True):
        assert [len(x) for x in values] == [25, 25, 10]
        assert record["train"]["bound"] == pytest.approx(float(torch.cat(values).mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", lambda t: 1.0),
        ("cosine", lambda t: 0.5 * (1 + math.cos(math.pi * t))),
        ("flat-cosine", lambda t: 1.0 if t <= 0.6 else 0.5 * (1 + math.cos(math.pi * (t - 0.6) / 0.4))),
    ],
)
def test_the_learning_rate_follows_its_schedule_to_the_end(schedule: Any, expected: Any) -> None:
    model, rates = small_model(), []
    history = pv.fit(
        model, small_data(), epochs=20, batch_size=20, lr=1e-3, schedule=schedule, flat=0.6, **SETTINGS
    )
    rates = [record["lr"] / 1e-3 for record in history.records]
    assert rates == pytest.approx([expected((record["step"] - 1) / 60) for record in history.records])
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=0.01)

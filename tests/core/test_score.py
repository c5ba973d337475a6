"""The score network as fitted prior: the authors' numbers for a step of training and for conditional draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.fitted import score
from polyvae.core.fitted.score import FittedScore
from tests.helpers.golden import DOUBLE, recorded, wave

BLOCKS, B, STEPS = (2, 1, 2), 3, 4
D = sum(BLOCKS)


class Formula(nn.Module):
    """The network that theirs was recorded with: it sees the time of the block of each column."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        times = t.repeat_interleave(torch.tensor(BLOCKS), 1)
        return -torch.tanh(x @ wave((D, D), 0.8).T + times * wave((D,), 1.7))


@pytest.fixture
def prior() -> FittedScore:
    made = FittedScore(
        torch.zeros(D, dtype=DOUBLE), torch.ones(D, dtype=DOUBLE), blocks=BLOCKS, design="published"
    )
    made.net = Formula()
    return made


@recorded("mld")
def test_conditional_draws_are_the_authors(prior: FittedScore, case, monkeypatch) -> None:
    """But for the noise of the last step, which they draw and which is 0 here."""
    monkeypatch.setattr(score, "EULER", STEPS)
    steps = [wave((B, D), 4.1 + k) for k in range(STEPS - 1)]
    draws = iter([wave((B, D), 3.7), *steps])
    monkeypatch.setattr(noise, "normal", lambda *_: next(draws))
    observed = torch.tensor([[g in case["subset"] for g in range(len(BLOCKS))]]).expand(B, -1)
    found = prior.complete(wave((B, D), 2.9), observed)
    torch.testing.assert_close(found.flatten(), torch.tensor(case["drawn"], dtype=DOUBLE), rtol=1e-8, atol=0)


@recorded("mld")
def test_a_step_of_training_is_the_authors(prior: FittedScore, case, monkeypatch) -> None:
    observed = torch.tensor([[g in case["subset"] for g in range(len(BLOCKS))]]).expand(B, -1)
    monkeypatch.setattr(score, "subsets", lambda *_: observed)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (0.5 + 0.3 * wave((B,), 5.5))[:, None])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: wave((B, D), 6.3))
    left = D - sum(BLOCKS[g] for g in case["subset"])
    theirs = torch.tensor(case["loss"], dtype=DOUBLE).view(B, D).sum(1)
    torch.testing.assert_close(
        prior.loss(wave((B, D), 2.9), torch.Generator()) * left, theirs, rtol=1e-8, atol=0
    )

"""An encoder of token ids that is also given covariates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST = 64  # features of the ids at least


class ConditionedReader(nn.Module):
    """Features of the ids, then a perceptron with one hidden layer of these and the covariates: [B, L + C] -> [B, out].

    Ids are no quantities, beside which covariates could be columns of the input of the encoder itself.

    Args:
        reader: The encoder of the ids alone, [B, L] -> [B, features].
        covariates: C, the last columns of the input.
        features: The number of features.
        out: Columns of the output.
    """

    def __init__(self, reader: nn.Module, covariates: int, features: int, out: int) -> None:
        super().__init__()
        self.reader, self.covariates = reader, covariates
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(features + covariates, features), nn.ReLU(), nn.Linear(features, out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L + C] -> [B, out]."""
        ids, covariates = x[:, : -self.covariates], x[:, -self.covariates :]
        found: Tensor = self.head(torch.cat([self.reader(ids), covariates], 1))
        return found


def features_for(out: int) -> int:
    """The number of features of ids for ``out`` columns of output."""
    return max(_LEAST, out)

"""Labels as metrics use them: a negative label, such as −1, is missing, as in ``MultimodalData.with_labels_as``."""

from __future__ import annotations

import torch
from torch import Tensor


def known(labels: Tensor) -> Tensor:
    """Which labels are not missing: [N] bool."""
    return labels.ge(0)


def classes(labels: Tensor) -> Tensor:
    """The classes that occur, sorted, on the host: [C] int64."""
    found: Tensor = torch.unique(labels[known(labels)].cpu())
    return found

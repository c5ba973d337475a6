"""A digest of data that changes with whatever training or judges use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.data.kept import Kept


def digest_of(about: Mapping[str, Any], stored: Batch, kept: Mapping[str, Kept]) -> str:
    """32 hexadecimal digits. A modality in a file has the digest of the same values in memory.

    Args:
        about: What else is known of the data.
        stored: The tensors.
        kept: Modalities that stay where they are, which are read by pieces.
    """
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps(about, sort_keys=True, default=str).encode())
    others = [*stored.entries.items(), *stored.extra.items(), *stored.covariates.values.items()]
    in_files = {name for name, one in kept.items() if not one.sparse}
    for place, (name, x) in enumerate([*stored.data.items(), ("mask", stored.mask), *others]):
        if place >= len(stored.data) or name not in in_files:
            state.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            state.update(_bytes(x))
            continue
        one = kept[name]
        state.update(f"{name} {torch.from_numpy(np.empty(0, one.dtype)).dtype} {one.shape}".encode())
        mask, gap = stored.mask[stored.names.index(name)].cpu(), stored.entries.get(name)
        for piece in one.pieces():
            state.update(_bytes(one.dense(piece, mask[piece], None if gap is None else gap[piece].cpu())))
    for name, one in kept.items():
        if one.sparse:
            state.update(f"{name} sparse {one.dtype} {one.shape}".encode())
            for part in one.stored():
                state.update(np.ascontiguousarray(part).data)
    return state.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data

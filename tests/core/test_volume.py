"""The volume network: where its levels lie in the latent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from polyvae.core.networks import NETWORKS
from polyvae.core.networks.volume import level_shapes


def symmetric(net: torch.nn.Module) -> None:
    """Kernels that are their own mirror images along the last axis."""
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 2:
                p.copy_((p + p.flip(-1)) / 2)


def mirrored(code: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
    """Every level of a code flipped along its last axis."""
    parts = code.split([int(np.prod(shape)) for shape in shapes], -1)
    return torch.cat(
        [part.view(-1, *shape).flip(-1).flatten(1) for part, shape in zip(parts, shapes, strict=True)], -1
    )


@pytest.mark.parametrize("sizes", [(8, 12), (4, 8, 8)])
def test_levels_lie_in_the_code_as_said(sizes):
    """With symmetric kernels, the code of a mirrored image is the mirrored code, level by level, and back; every level is used."""
    dials = {"width": 0.5, "levels": 3}
    shapes = level_shapes((1, *sizes), **dials)
    D = sum(int(np.prod(shape)) for shape in shapes)
    encoder, decoder = (
        NETWORKS["volume"].encoder((1, *sizes), 2 * D, **dials).double(),
        NETWORKS["volume"].decoder((D,), (3, *sizes), **dials).double(),
    )
    symmetric(encoder)
    symmetric(decoder)
    x, code = (
        torch.randn(2, 1, *sizes, dtype=torch.float64),
        torch.randn(2, D, dtype=torch.float64, requires_grad=True),
    )
    loc, raw = encoder(x).chunk(2, -1)
    other_loc, other_raw = encoder(x.flip(-1)).chunk(2, -1)
    torch.testing.assert_close(other_loc, mirrored(loc, shapes))
    torch.testing.assert_close(other_raw, mirrored(raw, shapes))
    assert not torch.allclose(loc, other_loc)
    out = decoder(code)
    torch.testing.assert_close(decoder(mirrored(code, shapes)), out.flip(-1))
    out.square().sum().backward()
    assert bool((code.grad != 0).all())

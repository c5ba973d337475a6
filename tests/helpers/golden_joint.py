"""Golden tests of models with a joint network or messages: the networks that the authors' code was recorded with."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from polyvae import Batch, Modality, build
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from tests.helpers.golden import (
    DOUBLE,
    LIKELIHOODS,
    SIZE,
    D,
    Decoder,
    Given,
    Leaves,
    data_of,
    leaves,
    likelihood_weight,
    wave,
)

WIDTH = 5  # of a joint network's features and of messages


def linear(name: str, out: int, into: int, phase: float) -> Leaves:
    return {
        f"{name}.weight": nn.Parameter(wave((out, into), phase)),
        f"{name}.bias": nn.Parameter(wave((out,), phase + 0.5)),
    }


def put(layer: nn.Module, of: Leaves, name: str) -> None:
    """The leaves as a layer's parameters."""
    layer.weight, layer.bias = of[f"{name}.weight"], of[f"{name}.bias"]


class Features(nn.Module):
    def __init__(self, of: Leaves, m: int) -> None:
        super().__init__()
        self.of = nn.ParameterList([of[f"{m}.features"]])

    def forward(self, x: Tensor) -> Tensor:
        return self.of[0]


def encoder(of: Leaves, m: int, in_shape: object, out: int) -> nn.Module:
    """What is given, or the features for the joint network."""
    return Features(of, m) if out == WIDTH else Given(of, m, in_shape, out)


def golden_model(name: str, case: dict, of: Leaves, **options: object) -> MultimodalVAE:
    specs = []
    for m in range(case["M"]):
        kind, scale = LIKELIHOODS[m % 2]
        specs.append(
            Modality(
                f"m{m}",
                (SIZE,),
                kind,
                private=case.get("private"),
                weight=likelihood_weight(m),
                params={"scale": scale},
                encoder=partial(encoder, of, m),
                decoder=partial(Decoder, of, m),
            )
        )
    return build(name, specs, latent=D, beta=case["beta"], **options).double()


def hold(
    model: MultimodalVAE, case: dict, of: Leaves, draws: dict[str, Tensor], constant: float = 0.0
) -> None:
    """The bound, summed over the batch, and all its gradients; relative error ≤ 1e-8. ``constant``: what a datum has more than theirs."""
    with noise.feed(draws):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(case["M"], case["B"]))})).value.sum()
    value.backward()
    assert float(value.detach()) - case["B"] * constant == pytest.approx(case["value"], rel=1e-8)
    assert set(case["gradients"]) == set(of)
    for key, leaf in of.items():
        expected = torch.tensor(case["gradients"][key], dtype=DOUBLE).view_as(leaf)
        ours = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(
            ours,
            expected,
            rtol=1e-8,
            atol=1e-12 * float(expected.abs().max()),
            msg=lambda text, key=key: f"gradient of {key}: {text}",
        )


def with_joint(name: str, case: dict, **options: object) -> tuple[MultimodalVAE, Leaves]:
    of = leaves(case["M"], case["B"])
    of |= {f"{m}.features": nn.Parameter(wave((case["B"], WIDTH), 3.3 + m)) for m in range(case["M"])}
    of |= linear("loc", D, WIDTH, 0.2) | linear("raw", D, WIDTH, 0.3)
    model = golden_model(name, case, of, joint_width=WIDTH, **options)
    put(model.joint.loc, of, "loc")
    put(model.joint.raw, of, "raw")
    return model, of

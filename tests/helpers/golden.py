"""What golden tests share: inputs by formula, so that only numbers are kept, and networks that say what is given."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from polyvae import Batch, Modality, build
from polyvae.core import noise

FOLDER = Path(__file__).parents[1] / "golden"


DOUBLE = torch.float64


D, W = 2, 2  # columns of z, and of every w_m


LIKELIHOODS = (("laplace", 0.75), ("normal", 0.5))  # of modality m: m modulo 2


Leaves = dict[str, Tensor]


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """Numbers between −1.5 and 1.5 without a pattern that a mistake could share."""
    i = torch.arange(math.prod(shape), dtype=DOUBLE)
    return ((0.7 * i + phase).sin() + 0.5 * (1.9 * i + 2.3 * phase + 0.4).cos()).view(*shape)


def networks(sizes: Sequence[int], B: int, latent: int = D, private: int = 0) -> Leaves:
    """Codes of every modality, after the authors' maps, and its decoder, by name."""
    values = {}
    for m, size in enumerate(sizes):
        if latent:
            values |= {
                f"{m}.z_loc": wave((B, latent), 1.1 + m),
                f"{m}.z_scale": (0.5 * wave((B, latent), 2.2 + 1.3 * m)).exp(),
            }
        if private:
            values |= {
                f"{m}.w_loc": wave((B, private), 6.6 + m),
                f"{m}.w_scale": (0.5 * wave((B, private), 7.7 + 1.1 * m)).exp(),
            }
        values |= {
            f"{m}.weight": wave((size, latent + private), 4.4 + 0.9 * m),
            f"{m}.bias": wave((size,), 5.5 + m),
        }
    return values


def parameters(values: Leaves) -> Leaves:
    return {name: nn.Parameter(value) for name, value in values.items()}


def decoded(of: Leaves, m: int, code: Tensor) -> Tensor:
    """What modality m's decoder says to a code [..., D + W]: z's columns first."""
    return torch.tanh(code @ of[f"{m}.weight"].T + of[f"{m}.bias"])


def likelihood_weight(m: int) -> float:
    return 1 - 0.1 * m


def real_data(sizes: Sequence[int], B: int) -> list[Tensor]:
    return [wave((B, size), 9.9 + 0.7 * m) for m, size in enumerate(sizes)]


def by_position(B: int, views: int) -> Tensor:
    """The component of each datum, as theirs: equal runs by position in the batch, the remainder to the last."""
    return torch.arange(B).div(B // views, rounding_mode="floor").clamp(max=views - 1)


def raw(scale: Tensor) -> Tensor:
    """What the softplus map takes to this scale."""
    y = (scale - 1e-6) / (1 - 1e-6)
    return y + (-torch.expm1(-y)).log() - math.log(math.e - 1)


class Given(nn.Module):
    """An encoder that says what is given, whatever it sees."""

    def __init__(self, of: Leaves, m: int, in_shape: object, out: object) -> None:
        super().__init__()
        for name in ("z_loc", "z_scale", "w_loc", "w_scale"):
            self.register_parameter(name, of.get(f"{m}.{name}"))

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.z_loc, raw(self.z_scale)] if self.z_loc is not None else []
        parts += [self.w_loc, raw(self.w_scale)] if self.w_loc is not None else []
        return torch.cat(parts, -1)[: len(x)]


class Decoder(nn.Module):
    """``m.out``, where it is given, is added: zeros, whose gradient is that of the output."""

    def __init__(self, of: Leaves, m: int, in_shape: object, out: object) -> None:
        super().__init__()
        self.of, self.m = of, m

    def forward(self, code: Tensor) -> Tensor:
        out = decoded(self.of, self.m, code)
        nudge = self.of.get(f"{self.m}.out")
        return out if nudge is None else out + nudge.flatten(0, -2)


def read_cases(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.json").read_text())["cases"]


def close(ours: Tensor, theirs: object, what: str) -> None:
    """Relative error ≤ 1e-8, element by element; what is 1e-4 of the largest may be off by 1e-12 of it."""
    expected = torch.as_tensor(theirs, dtype=DOUBLE).reshape(ours.shape)
    torch.testing.assert_close(
        ours.detach(),
        expected,
        rtol=1e-8,
        atol=1e-12 * float(expected.abs().max()),
        msg=lambda text: f"{what}: {text}",
    )


SIZE = 3  # of every x_m


def leaves(M: int, B: int, latent: int = D, private: int = 0) -> Leaves:
    """What an objective depends on, by name."""
    return parameters(networks([SIZE] * M, B, latent, private))


def data_of(M: int, B: int) -> list[Tensor]:
    return real_data([SIZE] * M, B)


def eps(phase: float, *shape: int) -> Tensor:
    return wave(shape, phase)


def recorded(name: str) -> pytest.MarkDecorator:
    of = read_cases(name)
    return pytest.mark.parametrize("case", of, ids=[case["name"] for case in of])


def hold_golden(
    name: str, case: dict, draws: dict[str, Tensor], latent: int = D, warm: float = 1.0, **options: object
) -> None:
    """The bound and all its gradients, relative error ≤ 1e-8; what is 1e-4 of the largest may be off by 1e-12 of it."""
    M, B, private = case["M"], case["B"], case.get("private", 0)
    of = leaves(M, B, latent, private)
    kinds = [LIKELIHOODS[m % 2] for m in range(M)] if name != "mmvm" else [LIKELIHOODS[0]] * M
    specs = [
        Modality(
            f"m{m}",
            (SIZE,),
            kind,
            private=private or None,
            weight=likelihood_weight(m),
            params={"scale": scale},
            encoder=partial(Given, of, m),
            decoder=partial(Decoder, of, m),
        )
        for m, (kind, scale) in enumerate(kinds)
    ]
    model = build(name, specs, latent=latent or private, beta=case["beta"] / warm, **options).double()
    with noise.feed(draws):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(M, B))}), warm).value.sum()
    value.backward()

    close(value, case["value"], "bound")
    assert set(case["gradients"]) == set(of)
    for key, leaf in of.items():
        close(leaf.grad, case["gradients"][key], f"gradient of {key}")


def golden_specs(of, M: int, private: int | None) -> list[Modality]:
    kinds = [LIKELIHOODS[m % 2] for m in range(M)]
    return [
        Modality(
            f"m{m}",
            (SIZE,),
            kind,
            private=private,
            weight=likelihood_weight(m),
            params={"scale": scale},
            encoder=partial(Given, of, m),
            decoder=partial(Decoder, of, m),
        )
        for m, (kind, scale) in enumerate(kinds)
    ]

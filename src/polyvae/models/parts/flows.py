"""Conditional flows: normal experts that are transformed by masked autoregressive flows (zuko)."""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor, nn

from polyvae.core.distributions import Diagonal
from polyvae.utils.errors import InputError

_WIDEST = 1024  # columns of z, or units of a hidden layer


class ConditionalFlow(nn.Module):
    """q(z | x) = N(f(z; c); μ, σ²) |det ∂f/∂z|, f a masked autoregressive flow and (μ, σ) the expert's parameters.

    The density takes one pass, a draw D passes. With all parameters 0, f is the identity and q the expert.

    Args:
        model: Name of the model, for errors.
        latent: Columns of z, D.
        transforms: Autoregressive transformations, one after the other, in alternating order of the columns.
        hidden: Widths of the hidden layers of each.
        conditional: Whether the context c of the transformations is (μ, log σ); otherwise there is none.

    Raises:
        InputError: zuko is not installed.
    """

    def __init__(
        self, model: str, latent: int, transforms: int, hidden: tuple[int, ...], conditional: bool
    ) -> None:
        super().__init__()
        if importlib.util.find_spec("zuko") is None:
            raise InputError(
                f"{model}: got no package zuko; expected the extra flow; pip install 'polyvae[flow]'"
            )
        for key, size in (("latent", latent), ("hidden", max(hidden, default=1))):
            if size > _WIDEST:
                raise InputError(
                    f"{model}: got {key}={size}; expected at most {_WIDEST}, because a flow has as many values per "
                    "layer as its square; choose fewer"
                )
        from zuko.flows import MAF

        # Bounded: with ReLU, shifts grow with z, and composed inverses explode far from the data. And smooth, because
        # Hamiltonian dynamics follow the gradient of the density.
        with torch.device(
            "cpu"
        ):  # zuko computes its masks from values, which the device "meta" does not have
            flow = MAF(
                latent, 2 * latent * conditional, transforms, hidden_features=hidden, activation=nn.Tanh
            )
        self.transform = flow.transform.to(torch.get_default_device())
        self.conditional = conditional

    def log_prob(self, z: Tensor, expert: Diagonal) -> Tensor:
        """log q(z | x) in nats: [..., B, D] -> [..., B].

        Args:
            z: [..., B, D].
            expert: The normal expert, [B, D].
        """
        with torch.autocast(z.device.type, enabled=False):
            base, log_det = self.transform(self._context(expert)).call_and_ladj(z)
        log_q: Tensor = expert.log_prob(base) + log_det
        return log_q

    def push(self, eps: Tensor, expert: Diagonal) -> Tensor:
        """Draws of z from standard normal draws: [..., B, D] -> [..., B, D]."""
        with torch.autocast(eps.device.type, enabled=False):
            z: Tensor = self.transform(self._context(expert)).inv(expert.loc + expert.scale * eps)
        return z

    def _context(self, expert: Diagonal) -> Tensor | None:
        return torch.cat([expert.loc, expert.scale.log()], -1) if self.conditional else None


def spread(latent: int, pairs: int, like: Tensor) -> Tensor:
    """Fixed points that stand for standard normal draws, with mean 0 and variance 1 in every column: [2 pairs, D].

    They are normal quantiles of a Sobol sequence, and their negatives.
    """
    sobol = torch.quasirandom.SobolEngine(latent, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    u = sobol.draw(pairs).to(like)
    points = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-0.999, 0.999))
    points = points / points.square().mean(0).sqrt()
    return torch.cat([points, -points])

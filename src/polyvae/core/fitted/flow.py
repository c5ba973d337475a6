"""A normalising flow as fitted prior."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.fitted.base import FittedPrior, check_samples, checked_tensors, misfit, stored_blocks
from polyvae.utils.errors import InputError


class FittedFlow(FittedPrior):
    """A neural spline flow by zuko: z = loc + scale · f(ε), ε standard normal, f coupled rational-quadratic splines.

    The splines act on [−5, 5], so z is standardised first.

    Args:
        loc: Means of z, [D].
        scale: Standard deviations of z, [D].
        transforms: How many splines, one after the other.
        seed: Seed of the initial parameters.
        blocks: Columns of z and of each w_m; None: all columns are of z.

    Raises:
        InputError: zuko is not installed.

    References:
        Durkan, Bekasov, Murray & Papamakarios, Neural Spline Flows, NeurIPS 2019.
    """

    kind = "flow"
    least = 20
    conditional = False
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        transforms: int = 3,
        seed: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_flow()
        from zuko.flows import NSF

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Coupled, not autoregressive: a draw takes 2 passes instead of D, and the measured likelihood of 16 columns was no lower.
            self.flow = NSF(len(loc), transforms=transforms, passes=2, hidden_features=(64, 64)).to(loc)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.latent = len(loc)
        self.describe(f"neural spline flow, {transforms} transforms", blocks, transforms=transforms)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        loc, scale = checked_tensors(tensors, "loc", "scale")
        transforms = settings.get("transforms")
        # Each transform has tensors of its own, so a file cannot describe more of them than it has tensors.
        if type(transforms) is not int or not 1 <= transforms <= len(tensors):
            raise misfit(f"transforms={transforms!r}", "a whole number, 1 or more, as many as were stored")
        if loc.ndim != 1 or loc.shape != scale.shape:
            raise misfit(f"loc {tuple(loc.shape)} and scale {tuple(scale.shape)}", "[D] both")
        # A small file must not ask for a large flow: every column has thousands of parameters in every transform
        # (a single one has 24).
        each = 500 if len(loc) > 1 else 16
        if sum(x.numel() for x in tensors.values()) < each * len(loc) * transforms:
            raise misfit("tensors that do not fit this version's flow", "those of the same zuko version")
        prior = cls(loc, scale, transforms, blocks=stored_blocks(settings, len(loc)))
        try:
            prior.load_state_dict(dict(tensors))
        except RuntimeError:
            raise misfit(
                "tensors that do not fit this version's flow", "those of the same zuko version"
            ) from None
        return prior.requires_grad_(False)._restored(settings)

    @classmethod
    @torch.enable_grad()
    def fit(
        cls,
        z: Tensor,
        transforms: int = 3,
        seed: int = 0,
        epochs: int = 100,
        patience: int = 5,
        batch_size: int = 256,
        blocks: Sequence[int] | None = None,
    ) -> Self:
        """Fit by maximum likelihood, with early stopping on a tenth of the draws; the best parameters are kept.

        Args:
            z: Draws, [N, D].
            transforms: How many splines, one after the other.
            seed: Seed of parameters and batches.
            epochs: The largest number of epochs.
            patience: Epochs without improvement before it stops.
            batch_size: Draws in one step.
            blocks: Columns of z and of each w_m; None: all columns are of z.

        Raises:
            InputError: No shared latent (D = 0), fewer than 20 draws, or zuko is not installed.
        """
        check_samples(z, cls.least, "", "give more data")
        z, generator = z.detach(), torch.Generator().manual_seed(seed)
        prior = cls(z.mean(0), z.std(0).clamp(min=1e-6), transforms, seed, blocks)
        held, rest = (
            z[rows]
            for rows in torch.randperm(len(z), generator=generator).to(z.device).tensor_split([len(z) // 10])
        )
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3)
        best, state, since = -math.inf, copy.deepcopy(prior.state_dict()), 0
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(rest), generator=generator).to(z.device), batch_size):
                optimizer.zero_grad()
                (-prior.log_prob(rest[rows]).mean()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                value = float(prior.log_prob(held).mean())
            since += 1
            if value > best:
                best, state, since = value, copy.deepcopy(prior.state_dict()), 0
            if since >= patience:
                break
        prior.load_state_dict(state)
        return prior.requires_grad_(False)

    def draw(self, n: int) -> Tensor:
        eps = noise.normal((n, self.latent), self.loc, "prior.z", "BD")
        z: Tensor = self.loc + self.scale * self.flow().transform.inv(eps)
        return z

    def complete(self, x: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        raise InputError(
            "fitted prior: got kind 'flow', which has no conditional draws; expected 'gmm' or 'mld'; "
            "fit one with kind='gmm', latents='all'"
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: [..., D] -> [...]."""
        log_prob: Tensor = self.flow().log_prob((z - self.loc) / self.scale) - self.scale.log().sum()
        return log_prob


def check_flow() -> None:
    """Raise InputError if zuko is not installed."""
    if importlib.util.find_spec("zuko") is None:
        raise InputError(
            "fitted prior: got kind 'flow' without zuko; expected the extra flow; pip install 'polyvae[flow]', or choose kind 'gmm'"
        )

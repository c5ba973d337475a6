"""Densities fitted to the aggregate posterior after training."""

from __future__ import annotations

import copy
import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.utils.errors import InputError


class FittedPrior(nn.Module, ABC):
    """A density over z, fitted after training to draws from the aggregate posterior. ``restore`` rebuilds it from settings and tensors.

    Attributes:
        kind: Its name in FITTED.
        least: The smallest number of draws to fit it to (for a mixture, per component).
        latent: Columns of z.
        settings: What JSON stores beside the tensors, ``kind`` included.
        summary: A short description for reports.
    """

    kind: ClassVar[str]
    least: ClassVar[int]
    latent: int
    settings: dict[str, Any]
    summary: str

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The same density, bit for bit.

        Args:
            settings: Its ``settings``.
            tensors: Its ``state_dict()``.

        Raises:
            InputError: A setting or tensor is missing or invalid.
        """

    @abstractmethod
    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: [..., D] -> [...]."""


class FittedMixture(FittedPrior):
    """A Gaussian mixture.

    Args:
        weights: [C], positive, with sum 1.
        loc: Means, [C, D].
        scale_tril: Lower Cholesky factors of the covariances, [C, D, D].
        covariance: "full" or "diag", for the record.
    """

    kind = "gmm"
    least = 2
    weights: Tensor
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, weights: Tensor, loc: Tensor, scale_tril: Tensor, covariance: str = "full") -> None:
        super().__init__()
        for name, value in (("weights", weights), ("loc", loc), ("scale_tril", scale_tril)):
            self.register_buffer(name, value)
        self.latent = loc.shape[1]
        self.settings = {"kind": self.kind, "components": len(weights), "covariance": covariance}
        self.summary = f"Gaussian mixture, {len(weights)} components, {covariance}"

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        weights, loc, scale_tril = _tensors(tensors, "weights", "loc", "scale_tril")
        covariance = settings.get("covariance")
        if covariance not in ("full", "diag"):
            raise _misfit(f"covariance={covariance!r}", "'full' or 'diag'")
        if (
            loc.ndim != 2
            or weights.shape != loc.shape[:1]
            or scale_tril.shape != (*loc.shape, *loc.shape[1:])
        ):
            raise _misfit(
                f"weights {tuple(weights.shape)}, loc {tuple(loc.shape)} and scale_tril {tuple(scale_tril.shape)}",
                "[C], [C, D] and [C, D, D]",
            )
        if not bool((weights >= 0).all()) or abs(float(weights.double().sum()) - 1) > 1e-2:
            raise _misfit("weights that are no probabilities", "numbers of 0 or more with sum 1")
        if not bool((scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()):
            raise _misfit("a scale_tril that is no Cholesky factor", "a positive diagonal")
        return cls(weights, loc, scale_tril, covariance)

    @classmethod
    def fit(cls, z: Tensor, components: int = 20, covariance: str = "full", seed: int = 0) -> Self:
        """Fit by expectation-maximisation (scikit-learn).

        Args:
            z: Draws, [N, D].
            components: Components of the mixture, C.
            covariance: "full" or "diag".
            seed: Seed of the initialisation.

        Raises:
            InputError: No shared latent (D = 0), fewer than 2 C draws, or an unknown covariance.
        """
        from sklearn.mixture import GaussianMixture

        _check_samples(z, cls.least * components, f" for {components} components", "ask for fewer components")
        if covariance not in ("full", "diag"):
            raise InputError(f"fitted prior: got covariance={covariance!r}; expected 'full' or 'diag'")
        mixture = GaussianMixture(
            components, covariance_type=covariance, random_state=seed, reg_covar=1e-4
        ).fit(z.double().cpu().numpy())
        matrices = torch.as_tensor(mixture.covariances_)
        tril = torch.linalg.cholesky(matrices) if covariance == "full" else torch.diag_embed(matrices.sqrt())
        weights, loc, scale_tril = (
            torch.as_tensor(x).to(z) for x in (mixture.weights_, mixture.means_, tril)
        )
        return cls(weights, loc, scale_tril, covariance)

    def draw(self, n: int) -> Tensor:
        choice = noise.choice(self.weights[:, None].expand(-1, n), 1, "prior.component", "KB")[0]
        eps = noise.normal((n, self.loc.shape[1]), self.loc, "prior.z", "BD")
        return self.loc[choice] + torch.einsum("nij,nj->ni", self.scale_tril[choice], eps)

    def log_prob(self, z: Tensor) -> Tensor:
        gap = (z[..., None, :] - self.loc)[..., None]  # [..., C, D, 1]
        white = torch.linalg.solve_triangular(self.scale_tril, gap, upper=False)[..., 0]
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1)
        each = (
            -0.5 * white.square().sum(-1)
            - diagonal.log().sum(-1)
            - 0.5 * self.loc.shape[1] * math.log(2 * math.pi)
        )
        log_prob: Tensor = (each + self.weights.log()).logsumexp(-1)
        return log_prob


class FittedFlow(FittedPrior):
    """A neural spline flow by zuko: z = loc + scale · f(ε), ε standard normal, f coupled rational-quadratic splines.

    The splines act on [−5, 5], so z is standardised first.

    Args:
        loc: Means of z, [D].
        scale: Standard deviations of z, [D].
        transforms: How many splines, one after the other.
        seed: Seed of the initial parameters.

    Raises:
        InputError: zuko is not installed.

    References:
        Durkan, Bekasov, Murray & Papamakarios, Neural Spline Flows, NeurIPS 2019.
    """

    kind = "flow"
    least = 20
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, transforms: int = 3, seed: int = 0) -> None:
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
        self.settings = {"kind": self.kind, "transforms": transforms}
        self.summary = f"neural spline flow, {transforms} transforms"

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        loc, scale = _tensors(tensors, "loc", "scale")
        transforms = settings.get("transforms")
        # Each transform has tensors of its own, so a file cannot describe more of them than it has tensors.
        if type(transforms) is not int or not 1 <= transforms <= len(tensors):
            raise _misfit(f"transforms={transforms!r}", "a whole number, 1 or more, as many as were stored")
        if loc.ndim != 1 or loc.shape != scale.shape:
            raise _misfit(f"loc {tuple(loc.shape)} and scale {tuple(scale.shape)}", "[D] both")
        # A small file must not ask for a large flow: every column has some 1,500 parameters in every transform.
        if sum(x.numel() for x in tensors.values()) < 500 * len(loc) * transforms:
            raise _misfit("tensors that do not fit this version's flow", "those of the same zuko version")
        prior = cls(loc, scale, transforms)
        try:
            prior.load_state_dict(dict(tensors))
        except RuntimeError:
            raise _misfit(
                "tensors that do not fit this version's flow", "those of the same zuko version"
            ) from None
        return prior.requires_grad_(False)

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
    ) -> Self:
        """Fit by maximum likelihood, with early stopping on a tenth of the draws; the best parameters are kept.

        Args:
            z: Draws, [N, D].
            transforms: How many splines, one after the other.
            seed: Seed of parameters and batches.
            epochs: The largest number of epochs.
            patience: Epochs without improvement before it stops.
            batch_size: Draws in one step.

        Raises:
            InputError: No shared latent (D = 0), fewer than 20 draws, or zuko is not installed.
        """
        _check_samples(z, cls.least, "", "give more data")
        z, generator = z.detach(), torch.Generator().manual_seed(seed)
        prior = cls(z.mean(0), z.std(0).clamp(min=1e-6), transforms, seed)
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

    def log_prob(self, z: Tensor) -> Tensor:
        log_prob: Tensor = self.flow().log_prob((z - self.loc) / self.scale) - self.scale.log().sum()
        return log_prob


FITTED: dict[str, type[FittedPrior]] = {"gmm": FittedMixture, "flow": FittedFlow}


def check_flow() -> None:
    """Raise InputError if zuko is not installed."""
    if importlib.util.find_spec("zuko") is None:
        raise InputError(
            "fitted prior: got kind 'flow' without zuko; expected the extra flow; pip install 'polyvae[flow]', or choose kind 'gmm'"
        )


def _misfit(got: str, expected: str) -> InputError:
    return InputError(
        f"fitted prior: got {got}; expected {expected}; fit it again with: polyvae evaluate RUN"
    )


def _tensors(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    for name in names:
        if name not in tensors:
            raise _misfit(f"no {name!r}", ", ".join(names))
        if not tensors[name].is_floating_point() or not bool(tensors[name].isfinite().all()):
            raise _misfit(f"{name!r} with other values", "finite floating-point numbers")
    if len({tensors[name].dtype for name in names}) > 1:
        raise _misfit("tensors of several dtypes", "one dtype")
    return [tensors[name] for name in names]


def _check_samples(z: Tensor, least: int, what: str, remedy: str) -> None:
    if z.shape[1] == 0:
        raise InputError(
            "fitted prior: got no shared latent (D = 0); expected one or more columns; sample from its own prior"
        )
    if len(z) < least:
        raise InputError(
            f"fitted prior: got {len(z)} posterior draws{what}; expected at least {least}; {remedy}"
        )

"""Priors of the latents, and densities fitted to the aggregate posterior after training."""

from __future__ import annotations

import copy
import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.distributions import FAMILIES, Diagonal, Mixture, Normal, softplus_scale
from polyvae.utils.errors import InputError


class StandardPrior(nn.Module):
    """p(z) and p(w): location 0 and scale exactly 1. ``learn_scale``: the scales of p(z) are learnt, starting at 1."""

    raw_scale: Tensor

    def __init__(self, latent: int, private: int, family: str, learn_scale: bool = False) -> None:
        super().__init__()
        self.family = FAMILIES[family]
        self.private = private
        raw = torch.zeros(latent)
        if learn_scale:
            self.raw_scale = nn.Parameter(raw)
        else:
            self.register_buffer("raw_scale", raw, persistent=False)
        self.learn_scale = learn_scale

    def z(self) -> Diagonal:
        """p(z), [D]."""
        scale = softplus_scale(self.raw_scale) if self.learn_scale else torch.ones_like(self.raw_scale)
        return self.family(torch.zeros_like(self.raw_scale), scale)

    def w(self, z: Tensor) -> Diagonal:
        """p(w | z), [..., B, W]: independent of z here."""
        return self.family.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        return self.z().rsample(n, "prior.z", "BD")


class MixturePrior(nn.Module):
    """p(z) = Σ_c π_c q(z; μ_c, 1) with learnable π and μ (CMVAE, Palumbo et al. 2024); p(w) standard.

    Locations start uniform in (−1, 1), as in the public port of CMVAE; the scales are 1 and fixed.
    """

    def __init__(self, latent: int, private: int, family: str, components: int) -> None:
        super().__init__()
        self.family = FAMILIES[family]
        self.private = private
        self.loc = nn.Parameter(torch.empty(components, latent).uniform_(-1, 1))
        self.logits = nn.Parameter(torch.zeros(components))

    def z(self) -> Mixture:
        """p(z), a mixture with components [C, 1, D]."""
        components = self.family(self.loc[:, None], torch.ones_like(self.loc)[:, None])
        weights = self.logits.softmax(0)[:, None]
        return Mixture(components, weights, torch.ones_like(weights, dtype=torch.bool)[:, None])

    def w(self, z: Tensor) -> Diagonal:
        return self.family.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        choice = noise.choice(self.logits.softmax(0)[:, None].expand(-1, n), 1, "prior.component", "KB")[0]
        return self.family(self.loc[choice], torch.ones_like(self.loc[choice])).rsample(None, "prior.z", "BD")


class TopDownPrior(nn.Module):
    """p(z) standard normal, and p(w_m | z) = N(g_m(z), scale²): private codes that are told by the shared one.

    ``maps``: for every modality g_m, a module [N, D] -> [N, W_m], which the modality owns (it is not registered here a second time).
    """

    unit: Tensor

    def __init__(self, latent: int, maps: Sequence[nn.Module], scale: float) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(latent), persistent=False)
        self.maps, self.scale = tuple(maps), scale

    def z(self) -> Normal:
        """p(z), [D]."""
        return Normal(torch.zeros_like(self.unit), self.unit)

    def w(self, z: Tensor) -> Normal:
        """p(w | z), [..., B, W]."""
        loc = torch.cat([g(z.flatten(0, -2)) for g in self.maps], -1).view(*z.shape[:-1], -1).to(z.dtype)
        return Normal(loc, torch.full_like(loc, self.scale))

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        return self.z().rsample(n, "prior.z", "BD")


class PseudoPrior(nn.Module):
    """p(z) = (1/C) Σ_c q(z | u_c): the experts' mean over pseudo-inputs u (VampPrior, Tomczak & Welling 2018); p(w) standard.

    ``experts`` says q(z | u) of all pseudo-inputs, [C, D]; they belong to whoever says it, and are not registered here a second time.
    """

    def __init__(self, private: int, experts: Callable[[], Diagonal]) -> None:
        super().__init__()
        self.private, self.experts = private, experts

    def z(self) -> Mixture:
        """p(z), a mixture with components [C, 1, D]."""
        return uniform_mixture(self.experts())

    def w(self, z: Tensor) -> Diagonal:
        return Normal.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        experts = self.experts()
        weights = experts.loc.new_full((len(experts.loc), n), 1 / len(experts.loc))
        return experts[noise.choice(weights, 1, "prior.component", "KB")[0]].rsample(None, "prior.z", "BD")


def pseudo_inputs(count: int, shape: tuple[int, ...]) -> nn.ParameterList:
    """``count`` learnable inputs of one modality, [count, *shape], that start as draws from N(0, 1)."""
    return nn.ParameterList([torch.randn(count, *shape)])


def uniform_mixture(experts: Diagonal) -> Mixture:
    """The mean of densities [C, D], for every datum the same: components [C, 1, D]."""
    weights = experts.loc.new_full((len(experts.loc), 1), 1 / len(experts.loc))
    return Mixture(experts[:, None], weights, torch.ones_like(weights, dtype=torch.bool)[:, None])


class FittedPrior(nn.Module, ABC):
    """A density over z, fitted after training to samples of the aggregate posterior. Its tensors and ``settings`` make it again.

    ``latent``: columns of z. ``settings``: numbers and words for JSON, ``kind`` in FITTED among them. ``summary``: a few words for people.
    ``least``: samples below which none can be fitted.
    """

    kind: ClassVar[str]
    least: ClassVar[int]
    latent: int
    settings: dict[str, Any]
    summary: str

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """From ``settings`` and ``state_dict()``: the same density, bit for bit. Raises InputError: a part is missing, or does not fit."""

    @abstractmethod
    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z [..., D] in nats: [...]."""


class FittedMixture(FittedPrior):
    """A Gaussian mixture. ``weights`` [C], ``loc`` [C, D], ``scale_tril`` [C, D, D] (lower Cholesky factors)."""

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
        return cls(weights, loc, scale_tril, covariance)

    @classmethod
    def fit(cls, z: Tensor, components: int = 20, covariance: str = "full", seed: int = 0) -> Self:
        """Fit by expectation-maximisation (scikit-learn) to z [N, D]; ``covariance`` is "full" or "diag".

        Raises InputError: no shared code (D = 0), fewer samples than components, an unknown covariance.
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

    Durkan, Bekasov, Murray & Papamakarios, Neural Spline Flows, NeurIPS 2019. The splines act on [−5, 5], so z is standardised first:
    ``loc``, ``scale`` [D].
    """

    kind = "flow"
    least = 20
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, transforms: int = 3, seed: int = 0) -> None:
        """``transforms``: how many splines, one after the other. Raises InputError where zuko is not there."""
        super().__init__()
        check_flow()
        from zuko.flows import NSF

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Coupled, not autoregressive: a draw takes 2 passes and not D, and the likelihood of 16 columns was no lower.
            self.flow = NSF(len(loc), transforms=transforms, passes=2, hidden_features=(64, 64)).to(loc)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.latent = len(loc)
        self.settings = {"kind": self.kind, "transforms": transforms}
        self.summary = f"neural spline flow, {transforms} transforms"

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Raises InputError: tensors that are missing or do not fit, such as those of another version of zuko."""
        loc, scale = _tensors(tensors, "loc", "scale")
        transforms = settings.get("transforms")
        if not isinstance(transforms, int) or transforms < 1:
            raise _misfit(f"transforms={transforms!r}", "a whole number, 1 or more")
        if loc.ndim != 1 or loc.shape != scale.shape:
            raise _misfit(f"loc {tuple(loc.shape)} and scale {tuple(scale.shape)}", "[D] both")
        prior = cls(loc, scale, transforms)
        try:
            prior.load_state_dict(dict(tensors))
        except RuntimeError:
            raise _misfit("tensors that do not fit this version's flow", "those it wrote") from None
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
        """Fit by maximum likelihood to z [N, D], as long as that of a tenth, held out, rises (``patience`` epochs without: the best stays).

        Raises InputError: no shared code (D = 0), fewer than 20 samples, no zuko.
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
    """Raises InputError where zuko is not there: what to install."""
    if importlib.util.find_spec("zuko") is None:
        raise InputError(
            "fitted prior: zuko is not installed, which flows need; expected the extra flow; pip install 'polyvae[flow]', or "
            "choose kind 'gmm'"
        )


def _misfit(got: str, expected: str) -> InputError:
    return InputError(
        f"fitted prior: got {got}; expected {expected}; fit it again with: polyvae evaluate RUN"
    )


def _tensors(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    for name in names:
        if name not in tensors:
            raise _misfit(f"no {name!r}", ", ".join(names))
    return [tensors[name] for name in names]


def _check_samples(z: Tensor, least: int, what: str, remedy: str) -> None:
    if z.shape[1] == 0:
        raise InputError(
            "fitted prior: the model has no shared code; expected latent columns; sample from its own prior"
        )
    if len(z) < least:
        raise InputError(
            f"fitted prior: got {len(z)} posterior samples{what}; expected at least {least}; {remedy}"
        )

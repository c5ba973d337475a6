"""Priors of the latents, and mixtures fitted to the aggregate posterior after training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from polyvae import noise
from polyvae.distributions import FAMILIES, Diagonal, Mixture, Normal, softplus_scale
from polyvae.errors import InputError


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


class FittedPrior(nn.Module):
    """A Gaussian mixture with full covariances over z, fitted after training to samples of the aggregate posterior.

    ``weights`` [C], ``loc`` [C, D], ``scale_tril`` [C, D, D] (lower Cholesky factors).
    """

    weights: Tensor
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, weights: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        for name, value in (("weights", weights), ("loc", loc), ("scale_tril", scale_tril)):
            self.register_buffer(name, value)

    @classmethod
    def fit(cls, z: Tensor, components: int = 20, covariance: str = "full", seed: int = 0) -> Self:
        """Fit by expectation-maximisation (scikit-learn) to z [N, D]; ``covariance`` is "full" or "diag".

        Raises InputError: no shared code (D = 0), fewer samples than components, an unknown covariance.
        """
        from sklearn.mixture import GaussianMixture

        if z.shape[1] == 0:
            raise InputError("fitted prior: the model has no shared code; expected latent columns; sample from its own prior")
        if len(z) < 2 * components:
            raise InputError(f"fitted prior: got {len(z)} posterior samples for {components} components; expected at least "
                             f"{2 * components}; ask for fewer components")
        if covariance not in ("full", "diag"):
            raise InputError(f"fitted prior: got covariance={covariance!r}; expected 'full' or 'diag'")
        mixture = GaussianMixture(components, covariance_type=covariance, random_state=seed, reg_covar=1e-4).fit(z.double().cpu().numpy())
        matrices = torch.as_tensor(mixture.covariances_)
        tril = torch.linalg.cholesky(matrices) if covariance == "full" else torch.diag_embed(matrices.sqrt())
        return cls(*(torch.as_tensor(x).to(z) for x in (mixture.weights_, mixture.means_, tril)))

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        choice = noise.choice(self.weights[:, None].expand(-1, n), 1, "prior.component", "KB")[0]
        eps = noise.normal((n, self.loc.shape[1]), self.loc, "prior.z", "BD")
        return self.loc[choice] + torch.einsum("nij,nj->ni", self.scale_tril[choice], eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z [..., D] in nats: [...]."""
        gap = (z[..., None, :] - self.loc)[..., None]                                                   # [..., C, D, 1]
        white = torch.linalg.solve_triangular(self.scale_tril, gap, upper=False)[..., 0]
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1)
        each = -0.5 * white.square().sum(-1) - diagonal.log().sum(-1) - 0.5 * self.loc.shape[1] * math.log(2 * math.pi)
        log_prob: Tensor = (each + self.weights.log()).logsumexp(-1)
        return log_prob

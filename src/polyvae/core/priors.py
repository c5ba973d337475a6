"""Priors of a model's latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.distributions import FAMILIES, Diagonal, Mixture, Normal, softplus_scale


class StandardPrior(nn.Module):
    """p(z) and p(w) with location 0 and scale exactly 1.

    Args:
        latent: Columns of z.
        private: Columns of w.
        family: A name in FAMILIES.
        learn_scale: Learn the scales of p(z), which then start at 1.
    """

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
        """p(w | z), independent of z: [..., B, D] -> [..., B, W]."""
        return self.family.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        return self.z().rsample(n, "prior.z", "BD")


class MixturePrior(nn.Module):
    """p(z) = Σ_c π_c q(z; μ_c, 1) with learned π and μ (CMVAE, Palumbo et al. 2024); p(w) has location 0 and scale 1.

    Locations start uniform in (−1, 1), as in the public port of CMVAE; the scales are 1 and fixed.

    Args:
        latent: Columns of z.
        private: Columns of w.
        family: A name in FAMILIES.
        components: Components of the mixture.
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
        """p(w | z), independent of z: [..., B, D] -> [..., B, W]."""
        return self.family.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        choice = noise.choice(self.logits.softmax(0)[:, None].expand(-1, n), 1, "prior.component", "KB")[0]
        return self.family(self.loc[choice], torch.ones_like(self.loc[choice])).rsample(None, "prior.z", "BD")


class TopDownPrior(nn.Module):
    """p(z) standard normal, and p(w_m | z) = N(g_m(z), scale²): private latents that depend on the shared one.

    Args:
        latent: Columns of z.
        maps: g_m of every modality, a module [N, D] -> [N, W_m]. It is registered with the modality, not here.
        scale: The scale of p(w_m | z).
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
        """p(w | z): [..., B, D] -> [..., B, W]."""
        loc = torch.cat([g(z.flatten(0, -2)) for g in self.maps], -1).view(*z.shape[:-1], -1).to(z.dtype)
        return Normal(loc, torch.full_like(loc, self.scale))

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        return self.z().rsample(n, "prior.z", "BD")


class ConditionalPrior(nn.Module):
    """p(z) of a base prior, and p(w_m | z) with a learnt location and scale: private latents that depend on the shared one.

    Args:
        base: The prior whose p(z) it has, and whose p(w_m) the modalities without a network have.
        maps: A module [N, D] -> [N, 2 W_m], locations and raw scales, with its columns of w, for each modality that has one. The modules
            are registered with the modalities, not here.
    """

    def __init__(self, base: StandardPrior | MixturePrior, maps: Sequence[tuple[nn.Module, slice]]) -> None:
        super().__init__()
        self.base, self.maps = base, tuple(maps)

    def z(self) -> Diagonal | Mixture:
        """p(z), that of the base."""
        return self.base.z()

    def w(self, z: Tensor) -> Diagonal:
        """p(w | z): [..., B, D] -> [..., B, W]."""
        unit = self.base.w(z)
        loc, scale, flat = unit.loc.clone(), unit.scale.clone(), z.flatten(0, -2)
        for g, span in self.maps:
            parts = g(flat).to(z.dtype).chunk(2, -1)
            shift, raw = (part.view(*z.shape[:-1], -1) for part in parts)
            loc[..., span], scale[..., span] = shift, softplus_scale(raw)
        return self.base.family(loc, scale)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        return self.base.draw(n)


class PseudoPrior(nn.Module):
    """p(z) = (1/C) Σ_c q(z | u_c), a mixture of posteriors given pseudo-inputs u (VampPrior, Tomczak & Welling 2018); p(w) standard normal.

    Args:
        private: Columns of w.
        experts: Returns q(z | u) of all pseudo-inputs, [C, D]. The pseudo-inputs are registered with the modality, not here.
    """

    def __init__(self, private: int, experts: Callable[[], Diagonal]) -> None:
        super().__init__()
        self.private, self.experts = private, experts

    def z(self) -> Mixture:
        """p(z), a mixture with components [C, 1, D]."""
        return uniform_mixture(self.experts())

    def w(self, z: Tensor) -> Diagonal:
        """p(w | z), independent of z: [..., B, D] -> [..., B, W]."""
        return Normal.unit((*z.shape[:-1], self.private), z)

    def draw(self, n: int) -> Tensor:
        """n draws of z: [n, D]."""
        experts = self.experts()
        weights = experts.loc.new_full((len(experts.loc), n), 1 / len(experts.loc))
        return experts[noise.choice(weights, 1, "prior.component", "KB")[0]].rsample(None, "prior.z", "BD")


def pseudo_inputs(count: int, shape: tuple[int, ...]) -> nn.ParameterList:
    """Learned inputs of one modality, [count, *shape], that start as draws from N(0, 1)."""
    return nn.ParameterList([torch.randn(count, *shape)])


def uniform_mixture(experts: Diagonal) -> Mixture:
    """The mean of densities [C, D], the same for every sample: components [C, 1, D]."""
    weights = experts.loc.new_full((len(experts.loc), 1), 1 / len(experts.loc))
    return Mixture(experts[:, None], weights, torch.ones_like(weights, dtype=torch.bool)[:, None])

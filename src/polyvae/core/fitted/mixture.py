"""A Gaussian mixture as fitted prior, with conditional draws in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.fitted.base import (
    FittedPrior,
    check_samples,
    checked_tensors,
    columns_of,
    misfit,
    stored_blocks,
)
from polyvae.utils.errors import InputError

COVARIANCES = ("full", "diag")
SHRINKAGE = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


class Conditional(NamedTuple):
    """The conditional of a mixture, which is a mixture.

    Attributes:
        weights: [N, C].
        loc: Means of the unknown columns, [N, C, U].
        scale_tril: Lower Cholesky factors of their covariances, [C, U, U], which do not depend on the values given.
    """

    weights: Tensor
    loc: Tensor
    scale_tril: Tensor


class FittedMixture(FittedPrior):
    """A Gaussian mixture.

    With the columns in two parts a and b, and S the covariance of a component,

        p(x_b | x_a) = Σ_c π_c(x_a) N(μ_b + S_ba S_aa⁻¹ (x_a − μ_a), S_bb − S_ba S_aa⁻¹ S_ab),  π_c(x_a) ∝ π_c N(x_a; μ_a, S_aa)

    Args:
        weights: [C], positive, with sum 1.
        loc: Means, [C, D].
        scale_tril: Lower Cholesky factors of the covariances, [C, D, D].
        covariance: "full" or "diag", for the record.
        blocks: Columns of z and of each w_m; None: all columns are of z.
    """

    kind = "gmm"
    least = 2
    conditional = True
    weights: Tensor
    loc: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        weights: Tensor,
        loc: Tensor,
        scale_tril: Tensor,
        covariance: str = "full",
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("weights", weights), ("loc", loc), ("scale_tril", scale_tril)):
            self.register_buffer(name, value)
        self.latent = loc.shape[1]
        self.describe(
            f"Gaussian mixture, {len(weights)} components, {covariance}",
            blocks,
            components=len(weights),
            covariance=covariance,
        )

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        weights, loc, scale_tril = checked_tensors(tensors, "weights", "loc", "scale_tril")
        covariance = settings.get("covariance")
        if covariance not in COVARIANCES:
            raise misfit(f"covariance={covariance!r}", "'full' or 'diag'")
        if (
            loc.ndim != 2
            or weights.shape != loc.shape[:1]
            or scale_tril.shape != (*loc.shape, *loc.shape[1:])
        ):
            raise misfit(
                f"weights {tuple(weights.shape)}, loc {tuple(loc.shape)} and scale_tril {tuple(scale_tril.shape)}",
                "[C], [C, D] and [C, D, D]",
            )
        if not bool((weights >= 0).all()) or abs(float(weights.double().sum()) - 1) > 1e-2:
            raise misfit("weights that are no probabilities", "numbers of 0 or more with sum 1")
        if not bool((scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()):
            raise misfit("a scale_tril that is no Cholesky factor", "a positive diagonal")
        prior = cls(weights, loc, scale_tril, covariance, stored_blocks(settings, loc.shape[1]))
        return prior._restored(settings)

    @classmethod
    def fit(
        cls,
        z: Tensor,
        components: int = 20,
        covariance: str = "full",
        seed: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> Self:
        """Fit by expectation-maximisation (scikit-learn).

        Over all latents there are many columns. Then they are standardised first, and full covariances S are replaced by
        (1 − a) S + a diag(S). The factor a, from 0 to 1, is the one with the largest likelihood of a tenth of the draws, which is held
        out.

        Args:
            z: Draws, [N, D].
            components: Components of the mixture, C.
            covariance: "full" or "diag".
            seed: Seed of the initialisation.
            blocks: Columns of z and of each w_m; None: all columns are of z.

        Raises:
            InputError: No columns (D = 0), fewer than 2 C draws, or an unknown covariance.
        """
        check_samples(z, cls.least * components, f" for {components} components", "ask for fewer components")
        if covariance not in COVARIANCES:
            raise InputError(
                f"fitted prior: got covariance={covariance!r}; expected 'full' or 'diag'; choose one"
            )
        if blocks is None:
            return cls(*_mixture(z, components, covariance, seed), covariance)
        loc, scale = z.mean(0), z.std(0).clamp(min=1e-6)
        standard = (z - loc) / scale
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).to(z.device)
        held, rest = (standard[rows] for rows in order.tensor_split([len(z) // 10]))
        if covariance == "diag" or len(rest) < cls.least * components or not len(held):
            found = _mixture(standard, components, covariance, seed)
        else:
            found = _shrunk(*_mixture(rest, components, covariance, seed), held)
        weights, means, tril = found
        return cls(weights, loc + scale * means, scale[:, None] * tril, covariance, blocks)

    def draw(self, n: int) -> Tensor:
        choice = noise.choice(self.weights[:, None].expand(-1, n), 1, "prior.component", "KB")[0]
        eps = noise.normal((n, self.loc.shape[1]), self.loc, "prior.z", "BD")
        return self.loc[choice] + _scaled(self.scale_tril, choice, eps)

    def complete(self, x: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        patterns, which = torch.unique(observed, dim=0, return_inverse=True)
        rows = [(which == number).nonzero()[:, 0] for number in range(len(patterns))]
        columns = list(columns_of(patterns, self.blocks))
        parts = [self.given(x[index], here) for index, here in zip(rows, columns, strict=True)]
        weights = x.new_empty((len(x), len(self.weights)))
        for index, part in zip(rows, parts, strict=True):
            weights[index] = part.weights
        choice = noise.choice(weights.T, 1, "prior.component", "KB")[0]
        eps = noise.normal(tuple(x.shape), x, "prior.z", "BD")
        done = x.clone()
        for index, here, part in zip(rows, columns, parts, strict=True):
            chosen = choice[index]
            drawn = part.loc[torch.arange(len(index), device=x.device), chosen]
            drawn = drawn + _scaled(part.scale_tril, chosen, eps[index][:, ~here])
            done[index[:, None], (~here).nonzero()[:, 0]] = drawn
        return done

    def given(self, x: Tensor, known: Tensor) -> Conditional:
        """The conditional of the other columns, in closed form.

        Args:
            x: [N, D]; only the known columns are read.
            known: [D] bool.

        Returns:
            Weights [N, C], means [N, C, U] and Cholesky factors [C, U, U].
        """
        a, b = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        # With the known columns first, the Cholesky factor has the blocks [[S_aa^½, 0], [S_ba S_aa^−½, (S_bb − S_ba S_aa⁻¹ S_ab)^½]].
        # It is the transposed R of a QR decomposition, which does not square the condition number.
        factor = torch.linalg.qr(self.scale_tril.double()[:, torch.cat([a, b])].mT, mode="r").R.mT
        factor = factor * torch.where(factor.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]
        first, cross, last = factor[:, : len(a), : len(a)], factor[:, len(a) :, : len(a)], factor[:, len(a) :]
        white = _white(first, x[:, None, a].double() - self.loc.double()[:, a])  # [N, C, A]
        weights = (_log_density(first, white) + self.weights.double().log()).softmax(-1)
        loc = self.loc.double()[:, b] + torch.einsum("cua,nca->ncu", cross, white)
        return Conditional(weights.to(x), loc.to(x), last[:, :, len(a) :].to(x))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: [..., D] -> [...]."""
        each = _log_density(
            self.scale_tril, _white(self.scale_tril, z.reshape(-1, 1, self.latent) - self.loc)
        )
        log_prob: Tensor = (each + self.weights.log()).logsumexp(-1)
        return log_prob.view(z.shape[:-1])


def _mixture(x: Tensor, components: int, covariance: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [C], means [C, D] and Cholesky factors [C, D, D] by scikit-learn."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, covariance_type=covariance, random_state=seed, reg_covar=1e-4).fit(
        x.double().cpu().numpy()
    )
    matrices = torch.as_tensor(mixture.covariances_)
    tril = torch.linalg.cholesky(matrices) if covariance == "full" else torch.diag_embed(matrices.sqrt())
    weights, loc, scale_tril = (torch.as_tensor(x_).to(x) for x_ in (mixture.weights_, mixture.means_, tril))
    return weights, loc, scale_tril


def _shrunk(weights: Tensor, loc: Tensor, tril: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture with covariances shrunk towards their diagonals, as far as the draws held out suggest."""
    matrices = tril.double() @ tril.double().mT
    diagonal = torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    candidates = [
        FittedMixture(weights, loc, torch.linalg.cholesky(torch.lerp(matrices, diagonal, a)).to(tril))
        for a in SHRINKAGE
    ]
    best = max(candidates, key=lambda one: float(one.log_prob(held).mean()))
    return weights, loc, best.scale_tril


def _white(tril: Tensor, gap: Tensor) -> Tensor:
    """tril⁻¹ gap: [C, A, A], [N, C, A] -> [N, C, A]."""
    solved: Tensor = torch.linalg.solve_triangular(tril, gap.permute(1, 2, 0), upper=False)
    return solved.permute(2, 0, 1)


def _log_density(tril: Tensor, white: Tensor) -> Tensor:
    """Log-density of each component: [C, A, A], [N, C, A] -> [N, C]."""
    log_scale: Tensor = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_scale - 0.5 * white.shape[-1] * math.log(2 * math.pi)


def _scaled(tril: Tensor, choice: Tensor, eps: Tensor) -> Tensor:
    """tril_c eps with the component c of each row: [C, U, U], [N], [N, U] -> [N, U]. No matrix is copied for each row."""
    out = torch.zeros_like(eps)
    for c in torch.unique(choice).tolist():
        rows = (choice == c).nonzero()[:, 0]
        out[rows] = eps[rows] @ tril[c].T
    return out

"""Linear worlds, where log p(x of what was observed) is known: x_m = A_m z + C_m w_m + b_m + noise of scale s_m."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import laplace, multivariate_normal, norm
from torch import nn

from polyvae import Batch, Modality, build
from polyvae.core.vae import MultimodalVAE

PRIORS = {"normal": norm(0, 1), "laplace": laplace(0, 1)}


GRID = np.linspace(-14, 14, 1401)


class Affine(nn.Module):
    """weight @ x + bias."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight))
        self.bias = nn.Parameter(torch.as_tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def fixed(weight: np.ndarray, bias: np.ndarray, in_shape: tuple[int, ...], out: object) -> nn.Module:
    """A factory, once its weights are given."""
    assert weight.shape[1] == in_shape[0]
    return Affine(weight, bias)


def raw(scale: np.ndarray) -> np.ndarray:
    """What the softplus map takes to this scale."""
    return np.log(np.expm1((scale - 1e-6) / (1 - 1e-6))) - np.log(np.e - 1)


class World:
    """Modalities a [2], b [1], c [2]; one latent column (or ``latent``), ``private`` columns for each modality.

    ``experts``: "exact" are p(z | x_m) and p(w_m | x_m) (for normal priors), "factor" is p(x_m | z) as a density of z, "rough" is off.
    """

    names = ("a", "b", "c")

    def __init__(self, private: int = 0, latent: int = 1, experts: str = "rough", C: float = 1.0) -> None:
        draws = np.random.default_rng(5)
        self.latent, self.private, self.experts = latent, private, experts
        self.known: dict[tuple[int, str, bytes], np.ndarray] = {}
        self.A, self.C, self.b, self.s = [], [], [], []
        for size in (2, 1, 2) if latent < 2 else (2, 2, 2):
            turn = np.linalg.qr(draws.normal(size=(size, size)))[0][
                :, :latent
            ]  # orthogonal columns: diagonal posteriors are exact
            self.A.append(turn * draws.uniform(0.7, 1.6, size=latent))
            self.C.append(C * draws.normal(size=(size, private)))
            self.b.append(draws.normal(size=size))
            self.s.append(float(draws.uniform(0.6, 1.1)))

    def noise(self, m: int) -> np.ndarray:
        """Covariance of x_m given z, for normal w."""
        return self.C[m] @ self.C[m].T + self.s[m] ** 2 * np.eye(len(self.b[m]))

    def posterior(self, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """p(z | x_m) and p(w_m | x_m), w_m and z marginalised: gains [D, d], scales [D], gains [W, d], scales [W]."""
        total = np.linalg.inv(self.A[m] @ self.A[m].T + self.noise(m))
        out = []
        for factor in (self.A[m], self.C[m]):
            covariance = np.eye(factor.shape[1]) - factor.T @ total @ factor
            out += [factor.T @ total, np.sqrt(np.diag(covariance))]
        return tuple(out)

    def encoder(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of [z_loc, z_raw, w_loc, w_raw]."""
        gain_z, scale_z, gain_w, scale_w = self.posterior(m)
        if self.experts == "factor":
            precision = np.diag(self.A[m].T @ np.linalg.inv(self.noise(m)) @ self.A[m])
            gain_z, scale_z = (
                (self.A[m].T @ np.linalg.inv(self.noise(m))) / precision[:, None],
                precision**-0.5,
            )
        if self.experts == "rough":
            gain_z, scale_z, gain_w, scale_w = 0.9 * gain_z, 1.25 * scale_z, 0.8 * gain_w, 1.2 * scale_w
        weight = np.concatenate([gain_z, 0 * gain_z, gain_w, 0 * gain_w])
        loc_z, loc_w = -gain_z @ self.b[m], -gain_w @ self.b[m]
        return weight, np.concatenate([loc_z, raw(scale_z), loc_w, raw(scale_w)])

    def modalities(self) -> list[Modality]:
        return [
            Modality(
                name,
                self.b[m].shape,
                "normal",
                params={"scale": self.s[m]},
                private=self.private or None,
                encoder=partial(fixed, *self.encoder(m)),
                decoder=partial(fixed, np.concatenate([self.A[m], self.C[m]], 1), self.b[m]),
            )
            for m, name in enumerate(self.names)
        ]

    def model(self, name: str, **options: object) -> MultimodalVAE:
        if name == "vae":
            assert self.latent == 0
            return build(name, self.modalities(), latent=self.private, **options).double()
        return build(name, self.modalities(), latent=self.latent, **options).double()

    def data(self, size: int, seed: int = 1) -> dict[str, torch.Tensor]:
        """Draws from the world with normal priors."""
        draws = np.random.default_rng(seed)
        z = draws.normal(size=(size, self.latent))
        return {
            name: torch.as_tensor(z @ self.A[m].T + draws.multivariate_normal(self.b[m], self.noise(m), size))
            for m, name in enumerate(self.names)
        }

    def every_mask(self, copies: int = 1) -> Batch:
        """One datum under each of the seven masks, ``copies`` times each."""
        x = self.data(1)
        mask = torch.tensor(
            [[bool(bits >> m & 1) for bits in range(1, 8)] for m in range(3)]
        ).repeat_interleave(copies, 1)
        return Batch.of({name: value.expand(mask.shape[1], -1) for name, value in x.items()}, mask)

    def log_p(
        self, batch: Batch, family: str = "normal", prior: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """log p(x of what was observed) of each row [B], by quadrature over z (one column, or none)."""
        z = GRID if self.latent else np.zeros(1)
        log_prior = (
            (PRIORS[family].logpdf if prior is None else prior)(z) + np.log(GRID[1] - GRID[0])
            if self.latent
            else np.zeros(1)
        )
        out = []
        for row in range(batch.size):
            total = log_prior
            for m, name in enumerate(self.names):
                if batch.mask[m, row]:
                    total = total + self._log_x(m, batch.data[name][row].numpy(), z, family)
            out.append(logsumexp(total))
        return np.array(out)

    def _log_x(self, m: int, x: np.ndarray, z: np.ndarray, family: str) -> np.ndarray:
        """log p(x_m | z) on a grid of z, w_m integrated out."""
        key = (m, family, x.tobytes())
        if key not in self.known:
            self.known[key] = self._integrated(m, x, z, family)
        return self.known[key]

    def _integrated(self, m: int, x: np.ndarray, z: np.ndarray, family: str) -> np.ndarray:
        mean = self.b[m] + (z[:, None] * self.A[m][:, 0] if self.latent else np.zeros((1, 1)))  # [Z, d]
        if family == "normal" or not self.private:
            return np.atleast_1d(multivariate_normal(np.zeros(len(x)), self.noise(m)).logpdf(x - mean))
        w = np.linspace(-20, 20, 801)
        at = mean[:, None] + w[None, :, None] * self.C[m][:, 0]  # [Z, w, d]
        each = norm(0, self.s[m]).logpdf(x - at).sum(-1) + PRIORS[family].logpdf(w) + np.log(w[1] - w[0])
        return logsumexp(each, 1)

    def conditional(
        self, x: dict[str, torch.Tensor], given: tuple[str, ...], target: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean [B, d] and variance [d] of the decoder's mean of ``target``, A z + C w + b, given the exact posterior."""
        inputs = [self.names.index(name) for name in given]
        t = self.names.index(target)
        columns = self.latent + self.private * 3

        def loadings(m: int) -> np.ndarray:
            out = np.zeros((len(self.b[m]), columns))
            out[:, : self.latent] = self.A[m]
            start = self.latent + m * self.private
            out[:, start : start + self.private] = self.C[m]
            return out

        L = np.concatenate([loadings(m) for m in inputs])
        s = np.concatenate([np.full(len(self.b[m]), self.s[m] ** 2) for m in inputs])
        rest = np.concatenate([x[self.names[m]].numpy() - self.b[m] for m in inputs], 1)
        gain = L.T @ np.linalg.inv(L @ L.T + np.diag(s))
        T = loadings(t)
        return rest @ gain.T @ T.T + self.b[t], np.diag(T @ (np.eye(columns) - gain @ L) @ T.T)


def small(count: int, **options: object) -> list[Modality]:
    return [Modality(f"m{m}", (2,), params={"hidden": (3,)}, **options) for m in range(count)]

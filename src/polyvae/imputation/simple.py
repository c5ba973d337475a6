"""The simple methods that every imputation is compared with, and combined with: ridge, kernel ridge, k-NN on PCA.

Each predicts all columns of one table from the columns of others, with exact leave-one-out predictions of its training samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from polyvae.imputation.tables import Doubles, Floats

_ALPHAS = np.logspace(-3, 4, 22)
_LEVERAGE = 0.999  # above it a leave-one-out residual is a quotient of rounding errors
GAMMAS = (0.1, 0.3, 1.0)
_NEIGHBOURS = (5, 10, 20, 40)
_COMPONENTS = 30
_LANDMARKS = 2000


class Predictor(Protocol):
    """A fitted method.

    Attributes:
        left_out: [n, F], the prediction of each training sample by the method fitted without it.
    """

    left_out: Floats

    def predict(self, x: Floats) -> Floats:
        """[N, inputs] -> [N, F]."""


class Spectrum(NamedTuple):
    """The eigenvectors and eigenvalues of a Gram matrix of n samples: [n, r] and [r], and where they came from.

    Attributes:
        u: Eigenvectors.
        w: Eigenvalues, positive.
        to: [r', r], the map from features (or from kernel values with the training samples) to coordinates u √w.
    """

    u: Doubles
    w: Doubles
    to: Doubles


def spectrum_of_features(x: NDArray[Any]) -> Spectrum:
    """The spectrum of x x', by the smaller of x x' and x' x: [n, p]."""
    features = x.astype(np.float64)
    if len(features) <= features.shape[1]:
        w, u = _positive(features @ features.T)
        return Spectrum(u, w, features.T @ (u / np.sqrt(w)))
    w, v = _positive(features.T @ features)
    return Spectrum(features @ (v / np.sqrt(w)), w, v)


def spectrum_of_kernel(kernel: Doubles) -> Spectrum:
    """The spectrum of a kernel matrix [n, n]."""
    w, u = _positive(kernel)
    return Spectrum(u, w, u / np.sqrt(w))


Spectra = dict[float, tuple[Spectrum, Doubles | None, Doubles]]


def ridge_path(spectrum: Spectrum, y: Floats) -> tuple[float, Floats, Doubles]:
    """Ridge regression with an intercept and the penalty of the smallest exact leave-one-out error.

    With H = 11'/n + U diag(w / (w + α)) U', U orthogonal to 1, the residual of sample i without it is (y − H y)_i / (1 − H_ii)
    (Allen 1974). Penalties that leave a sample a leverage near 1 are not considered: there this quotient is of rounding errors, and
    with a bound on it the best α would be 0.

    Args:
        spectrum: Of centred inputs.
        y: [n, F].

    Returns:
        α, infinite where the mean predicts best; the leave-one-out predictions [n, F]; the coefficients of the coordinates U √w,
        [r, F].
    """
    u, w = spectrum.u, spectrum.w
    n = len(y)
    centred = y - y.mean(0, dtype=np.float64)
    uy, squares = u.T @ centred, u**2
    alpha, residual, path = np.inf, centred / (1 - 1 / n) if n > 1 else centred, np.zeros_like(uy)
    best = float((residual**2).sum())
    for candidate in _ALPHAS * max(float(w.sum()) / n, 1e-12):
        shrink = w / (w + candidate)
        leverage = squares @ shrink + 1 / n
        if leverage.max() > _LEVERAGE:
            continue
        found = (centred - u @ (shrink[:, None] * uy)) / (1 - leverage)[:, None]
        error = float((found**2).sum())
        if error < best:
            alpha, best, residual = float(candidate), error, found
            path = (np.sqrt(w) / (w + candidate))[:, None] * uy
    return alpha, (y - residual).astype(np.float32), path


class Ridge:
    """Linear ridge regression; in its dual form where there are fewer samples than columns."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        spectrum = spectrum_of_features(x - self.x_mean)
        self.alpha, self.left_out, path = ridge_path(spectrum, y)
        self.weights = (spectrum.to @ path).astype(np.float32)

    def predict(self, x: Floats) -> Floats:
        """[N, inputs] -> [N, F]."""
        predicted: Floats = (x - self.x_mean) @ self.weights + self.y_mean
        return predicted


class KernelRidge:
    """Ridge regression with the kernel exp(−γ |x − x'|² / p) of p columns; γ and the penalty by leave-one-out.

    Above 2,000 samples the kernel is that of as many landmarks (Williams & Seeger 2001, Nyström), drawn once.

    Args:
        x: [n, P].
        y: [n, F].
        gammas: The values of γ to choose from.
        spectra: γ -> the spectrum of the kernel, kept here for other tables that are predicted from the same inputs.
    """

    def __init__(
        self, x: Floats, y: Floats, gammas: tuple[float, ...] = GAMMAS, spectra: Spectra | None = None
    ) -> None:
        spectra = {} if spectra is None else spectra
        chosen = np.random.default_rng(0).permutation(len(x))[:_LANDMARKS]
        self.landmarks = x if len(x) <= _LANDMARKS else x[np.sort(chosen)]
        self.y_mean = y.mean(0)
        best = np.inf
        for gamma in gammas:
            if gamma not in spectra:
                spectra[gamma] = self._spectrum(x, gamma)
            spectrum, basis, centre = spectra[gamma]
            alpha, left_out, path = ridge_path(spectrum, y)
            error = float(((left_out - y) ** 2).sum())
            if error < best:
                best, self.gamma, self.alpha, self.left_out, self.centre = (
                    error,
                    gamma,
                    alpha,
                    left_out,
                    centre,
                )
                coefficients = spectrum.to @ path
                # In exact arithmetic those of samples sum to 0; rounding errors would be multiplied by the kernel of new samples.
                self.weights = coefficients - coefficients.mean(0) if basis is None else basis @ coefficients

    def _spectrum(self, x: Floats, gamma: float) -> tuple[Spectrum, Doubles | None, Doubles]:
        """The spectrum of the centred kernel, the map from kernel values to its features (None: themselves), and their mean."""
        kernel = _kernel(x, self.landmarks, gamma)
        centre = kernel.mean(0)
        if len(self.landmarks) == len(x):
            # The coefficients sum to 0, so centring the kernel of new samples by ``centre`` is enough.
            rows = kernel - centre
            return spectrum_of_kernel(rows - rows.mean(1, keepdims=True)), None, centre
        w, v = _positive(_kernel(self.landmarks, self.landmarks, gamma))
        basis = v / np.sqrt(w)
        return spectrum_of_features((kernel - centre) @ basis), basis, centre

    def predict(self, x: Floats) -> Floats:
        """[N, inputs] -> [N, F]."""
        predicted = (_kernel(x, self.landmarks, self.gamma) - self.centre) @ self.weights
        result: Floats = predicted.astype(np.float32) + self.y_mean
        return result


class Neighbours:
    """The mean of the nearest neighbours in the first principal components; their number by leave-one-out."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self.y = y
        self.pca = components(x, _COMPONENTS)
        known = self.pca.transform(x)
        largest = min(max(_NEIGHBOURS), len(x) - 1)
        self.index = NearestNeighbors(n_neighbors=largest, algorithm="brute").fit(known)
        near = self.index.kneighbors(return_distance=False)  # of the training samples, without themselves
        best = np.inf
        for k in sorted({min(k, largest) for k in _NEIGHBOURS}):
            left_out = _average(y, near[:, :k])
            error = float(((left_out - y) ** 2).sum())
            if error < best:
                best, self.k, self.left_out = error, k, left_out

    def predict(self, x: Floats) -> Floats:
        """[N, inputs] -> [N, F]."""
        return _average(self.y, self.index.kneighbors(self.pca.transform(x), self.k, return_distance=False))


def components(x: NDArray[Any], count: int) -> PCA:
    """Principal components by the method that is fast for the shape, and repeatable: [n, p], at most min(n, p) − 1 of them."""
    n, p = x.shape
    solver = "covariance_eigh" if p <= min(n, 2000) else "full" if min(n, p) <= 500 else "randomized"
    with np.errstate(invalid="ignore"):  # the shares of no variance are 0 / 0
        return PCA(max(1, min(count, n - 1, p - 1)), svd_solver=solver, random_state=0).fit(x)


def _positive(gram: Doubles) -> tuple[Doubles, Doubles]:
    w, u = eigh(gram)
    kept = w > max(float(w[-1]), 1e-300) * 1e-10
    return w[kept], u[:, kept]


def _kernel(a: Floats, b: Floats, gamma: float) -> Doubles:
    """[n, n']; in double precision, because the coefficients are large and of both signs."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    result: Doubles = np.exp(np.maximum(squares, 0).astype(np.float64) * (-gamma / a.shape[1]))
    return result


def _average(y: Floats, near: NDArray[np.intp]) -> Floats:
    """The mean of rows of y, without the array [N, k, F]."""
    total = np.zeros((len(near), y.shape[1]), np.float32)
    for column in near.T:
        total += y[column]
    mean: Floats = total / near.shape[1]
    return mean

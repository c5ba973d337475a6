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


def ridge_path(spectrum: Spectrum, y: Floats) -> tuple[Doubles, Floats, Doubles]:
    """Ridge regression with an intercept and a penalty for each column by exact leave-one-out errors.

    With H = 11'/n + U diag(w / (w + α)) U', U orthogonal to 1, the residual of sample i without it is (y − H y)_i / (1 − H_ii)
    (Allen 1974). The penalty of a column has the smallest sum of its own error and the mean error of all columns: the error of one column
    varies with its samples, and one penalty for all would be wrong for some. Penalties that leave a sample a leverage near 1 are not
    considered: there this quotient is of rounding errors, and with a bound on it the best α would be 0.

    Args:
        spectrum: Of centred inputs.
        y: [n, F].

    Returns:
        α, [F], infinite where the mean predicts best; the leave-one-out predictions [n, F]; the coefficients of the coordinates U √w,
        [r, F].
    """
    u, w = spectrum.u, spectrum.w
    n = len(y)
    centred = y - y.mean(0, dtype=np.float64)
    uy, squares = u.T @ centred, u**2

    def left_out(shrink: Doubles) -> Doubles:  # [r, 1] or [r, F] -> [n, F]
        leverage = squares @ shrink + 1 / n
        return np.asarray((centred - u @ (shrink * uy)) / (1 - leverage), np.float64)

    alphas = [np.inf]
    errors = [(centred**2).sum(0) * (1 if n < 2 else (n / (n - 1)) ** 2)]
    for candidate in _ALPHAS * max(float(w.sum()) / n, 1e-12):
        shrink = (w / (w + candidate))[:, None]
        if (squares @ shrink).max() + 1 / n <= _LEVERAGE:
            alphas.append(float(candidate))
            errors.append((left_out(shrink) ** 2).sum(0))
    each = np.stack(errors)
    alpha = np.asarray(alphas)[(each + each.mean(1, keepdims=True)).argmin(0)]
    shares = 1 / (w[:, None] + alpha)  # [r, F], 0 for an infinite penalty
    residual = left_out(w[:, None] * shares) if n > 1 else centred
    return alpha, (y - residual).astype(np.float32), np.sqrt(w)[:, None] * shares * uy


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

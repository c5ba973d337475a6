"""Ends of intervals where an effect of a covariate is not known."""

import numpy as np
from scipy.special import ndtri

from polyvae.imputation.filling.residuals import wider


def test_intervals_get_wider_wherever_their_ends_are() -> None:
    below = np.array([[-2.0, 0.0, 0.3, -np.inf, -1.0]])
    above = np.array([[2.0, 0.0, 0.5, np.inf, 1.0]])
    variance = np.array([[9.0, 9.0, 9.0, 9.0, 0.0]], np.float32)
    low, high = wider((below, above), variance, np.array([0]), 0.9)
    z = ndtri(0.95)
    assert np.allclose(high[0, :3], [np.sqrt(4 + 9 * z**2), 3 * z, 0.5 + np.sqrt(0.25 + 9 * z**2) - 0.5])
    assert np.allclose(low[0, :3], [-high[0, 0], -3 * z, 0.3 - 3 * z])
    assert low[0, 3] == -np.inf
    assert high[0, 3] == np.inf
    assert (low[0, 4], high[0, 4]) == (-1, 1)

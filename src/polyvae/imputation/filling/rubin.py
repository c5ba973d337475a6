"""Rubin's rules: one estimate, with its uncertainty, from the analyses of several imputed data sets.

Sources: Rubin (1987), Multiple Imputation for Nonresponse in Surveys, sections 3.1 to 3.3 (estimate, total variance, degrees of
freedom); Barnard and Rubin (1999), Biometrika 86, 948-955 (degrees of freedom for small samples); van Buuren (2018), Flexible Imputation of
Missing Data, section 2.3 (fraction of missing information).
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from polyvae.utils.errors import InputError
from polyvae.utils.text import named

Floats = NDArray[np.float64]


class Pooled(NamedTuple):
    """Pooled parameters, [P] each: arrays, or Series of pandas with the names of the parameters as their index.

    Attributes:
        estimate: The mean of the estimates.
        standard_error: Its standard error, of sampling and of what is missing together.
        degrees_of_freedom: Of the t distribution of (estimate − truth) / standard error; infinite where the draws agree.
        missing_information: The fraction of the information about a parameter that is lost because data are missing.

    Example:
        >>> from polyvae.imputation.filling.rubin import pool
        >>> pooled = pool([[1.0], [2.0], [3.0]], [[0.5], [0.5], [0.5]])
        >>> pooled.estimate, pooled.standard_error.round(4)
        (array([2.]), array([1.354]))
    """

    estimate: Any
    standard_error: Any
    degrees_of_freedom: Any
    missing_information: Any

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """The confidence interval of each parameter.

        Args:
            level: Its coverage.

        Returns:
            Lower and upper ends, [P] each.

        Raises:
            InputError: ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"interval: got level={level}; expected a number between 0 and 1; such as 0.95")
        reach = stats.t.ppf((1 + level) / 2, self.degrees_of_freedom) * self.standard_error
        return self.estimate - reach, self.estimate + reach


def pool(estimates: Any, variances: Any, complete_df: ArrayLike | None = None) -> Pooled:
    """Pool the analyses of D imputed data sets.

    With W the mean of the variances, B the variance of the estimates over the data sets (denominator D − 1), T = W + (1 + 1/D) B and
    λ = (1 + 1/D) B / T:

    * the standard error is √T;
    * the degrees of freedom are ν = (D − 1) / λ², and with those of the complete data, ν_com, Barnard and Rubin's
      ν ν_obs / (ν + ν_obs), where ν_obs = (1 − λ) ν_com (ν_com + 1) / (ν_com + 3);
    * the fraction of missing information is (r + 2 / (ν + 3)) / (1 + r), where r = λ / (1 − λ) and ν are the degrees of freedom
      returned.

    Args:
        estimates: [D, P], the parameters of each analysis, such as regression coefficients; [D] for one parameter. A data frame with a
            column for each parameter, or a list of Series of pandas, names them.
        variances: [D, P], their squared standard errors. Names are matched with those of the estimates.
        complete_df: Degrees of freedom if nothing were missing, such as n − p of a regression: a number or [P]. None: infinite.

    Returns:
        The pooled parameters, in the order of the estimates.

    Raises:
        InputError: Names that differ, fewer than two data sets, shapes that differ, values that are not finite, variances or degrees of
            freedom that are not positive.

    Example:
        >>> from polyvae.imputation.filling.rubin import pool
        >>> low, high = pool([1.0, 1.4, 1.2], [0.04, 0.05, 0.03], complete_df=48).interval(0.9)
        >>> print(f"{low[0]:.2f} to {high[0]:.2f}")
        0.57 to 1.83
    """
    names, estimates = _named(estimates)
    others, variances = _named(variances)
    if names is not None and others is not None:
        if set(names) != set(others):
            raise InputError(
                f"pool: got estimates of {named(names)} and variances of {named(others)}; expected the same parameters; check the analyses"
            )
        variances = variances[:, [others.index(name) for name in names]]
    q, u = (np.asarray(given, np.float64) for given in (estimates, variances))
    if q.ndim == 1:
        q, u = q[:, None], u.reshape(len(u), -1) if u.ndim else u
    if q.ndim != 2 or q.shape != u.shape or len(q) < 2:
        raise InputError(
            f"pool: got estimates of shape {np.shape(estimates)} and variances of shape {np.shape(variances)}; expected [D, P] "
            "for both, with D of at least 2; impute several times"
        )
    if not (np.isfinite(q).all() and np.isfinite(u).all() and (u > 0).all()):
        raise InputError(
            "pool: got estimates or variances that are not finite, or variances that are not positive; expected squared "
            "standard errors; check the analyses"
        )
    count, within, between = len(q), u.mean(0), q.var(0, ddof=1)
    between = (1 + 1 / count) * between
    total = within + between
    share = between / total
    with np.errstate(divide="ignore"):
        df = (count - 1) / share**2
    if complete_df is not None:
        df = _small_sample(df, share, np.asarray(complete_df, np.float64))
    ratio = between / within
    found = q.mean(0), np.sqrt(total), df, (ratio + 2 / (df + 3)) / (1 + ratio)
    names = others if names is None else names
    if names is None or importlib.util.find_spec("pandas") is None:
        return Pooled(*found)
    import pandas as pd

    return Pooled(*(pd.Series(each, index=pd.Index(names)) for each in found))


def _named(given: Any) -> tuple[list[Any] | None, Any]:
    """The names of the parameters and their values [D, P]; None, and what was given, where they have no names.

    Raises InputError: Series with other names in some analyses.
    """
    if nw.dependencies.is_pandas_dataframe(given):
        return list(given.columns), given.to_numpy()
    frame = nw.from_native(given, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return list(frame.columns), frame.to_numpy()
    series = list(given) if isinstance(given, list | tuple) else []
    if not series or not all(nw.dependencies.is_pandas_series(each) for each in series):
        return None, given
    names = series[0].index.tolist()
    for each in series:
        if len(set(names)) < len(names) or set(each.index) != set(names) or len(each) != len(names):
            raise InputError(
                f"pool: got parameters {named(names)} and {named(each.index.tolist())}; expected the same distinct names in each analysis; "
                "check the analyses"
            )
    return names, np.stack([each.loc[names].to_numpy() for each in series])


def _small_sample(df: Floats, share: Floats, complete: Floats) -> Floats:
    """Barnard and Rubin's degrees of freedom, in a form that stays finite where ``df`` is infinite: [P]."""
    if complete.shape not in ((), share.shape) or not (complete > 0).all():
        raise InputError(
            f"pool: got complete_df={complete.tolist()}; expected a positive number, or one per parameter; such as n − p of a regression"
        )
    with np.errstate(invalid="ignore"):
        observed = np.where(
            np.isinf(complete), np.inf, (1 - share) * complete * (complete + 1) / (complete + 3)
        )
    return 1 / (1 / df + 1 / observed)

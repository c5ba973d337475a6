"""Cox regression with a ridge penalty, the baseline hazard, and the concordance of risks with times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.stats import norm

from polyvae.imputation.tables import Doubles, Flags
from polyvae.utils.errors import InputError

_ROUNDS = 50
_CONVERGED = 1e-9  # half the Newton decrement, in units of the log-likelihood
_TIED = 1e-8  # risks that differ by no more are tied
_CELLS = 2**22  # pairs that are compared at a time


class Survival(NamedTuple):
    """Times to an event, some of them censored.

    Attributes:
        time: [N], positive: of the event, or of the last observation before it.
        event: [N] bool, whether the event was observed.
    """

    time: Doubles
    event: Flags

    def rows(self, index: NDArray[np.intp] | Flags) -> Survival:
        """Some of the samples."""
        return Survival(self.time[index], self.event[index])

    @property
    def events(self) -> int:
        """The number of observed events."""
        return int(self.event.sum())


class Slopes(NamedTuple):
    """Derivatives of a log partial likelihood.

    Attributes:
        gradient: [P].
        information: [P, P], minus the Hessian.
    """

    gradient: Doubles
    information: Doubles


class Partial:
    """The partial likelihood of Cox (1972) of given times, with Efron's (1977) approximation for events at one time.

    With w = exp(η), R_t the samples at risk at t, D_t those with an event at t and d their number, it is the product over events e of
    w_e / (Σ_{R_t} w − l_e / d Σ_{D_t} w), where l_e = 0 ... d − 1 counts the events at that time.

    Args:
        given: The times.
    """

    def __init__(self, given: Survival) -> None:
        self.order = np.lexsort((~given.event, -given.time))  # latest first
        time, self.event = given.time[self.order], given.event[self.order]
        self.rows = np.flatnonzero(self.event)  # of events
        at = time[self.rows]
        self.first = np.flatnonzero(np.r_[True, at[1:] != at[:-1]]) if len(at) else self.rows
        group_times = at[self.first]  # latest first
        self.deaths = np.diff(np.r_[self.first, len(at)])
        self.group = np.repeat(np.arange(len(self.first)), self.deaths)
        self.share = (np.arange(len(at)) - self.first[self.group]) / np.maximum(self.deaths[self.group], 1)
        # Of each time of an event the last row at risk, and of each row the first time of an event that it was at risk at.
        self.last = np.searchsorted(-time, -group_times, side="right") - 1
        self.since = np.searchsorted(-group_times, -time, side="left")

    def log_likelihood(self, eta: Doubles) -> float:
        """The log partial likelihood of log relative hazards [N]."""
        if not len(self.rows):
            return 0.0
        eta = eta[self.order]
        top = eta.max()
        _, below = self._below(np.exp(eta - top))
        return float((eta[self.rows] - top).sum() - np.log(below).sum())

    def slopes(self, x: Doubles, eta: Doubles) -> Slopes:
        """The derivatives by the coefficients of x [N, P], where η = x β."""
        x, eta = x[self.order], eta[self.order]
        if not len(self.rows):
            return Slopes(np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
        w = np.exp(eta - eta.max())
        _, below = self._below(w)
        # Each row is weighted by the hazard that it was exposed to; at the time of its own event by less, which is Efron's correction.
        exposed = np.r_[np.cumsum(np.add.reduceat(1 / below, self.first)[::-1])[::-1], 0.0]
        hazard = exposed[self.since]
        hazard[self.rows] -= np.add.reduceat(self.share / below, self.first)[self.group]
        wx = w[:, None] * x
        dying = np.add.reduceat(wx[self.rows], self.first)
        mean = np.cumsum(wx, 0)[self.last][self.group] - self.share[:, None] * dying[self.group]
        mean /= below[:, None]
        gradient = x[self.rows].sum(0) - mean.sum(0)
        return Slopes(gradient, x.T @ (hazard[:, None] * wx) - mean.T @ mean)

    def _below(self, w: Doubles) -> tuple[Doubles, Doubles]:
        """The sum of w over the samples at risk, [groups], and the denominator of each event."""
        at_risk = np.cumsum(w)[self.last]
        dying = np.add.reduceat(w[self.rows], self.first)
        return at_risk, at_risk[self.group] - self.share * dying[self.group]


def cox(x: Doubles, partial: Partial, penalty: float, start: Doubles | None = None) -> Doubles:
    """The coefficients [P] that maximise the log partial likelihood − penalty / 2 |β|², by Newton's method.

    Args:
        x: [N, P].
        partial: The partial likelihood of their times.
        penalty: Zero or more.
        start: Where to begin, [P]. None: at zero.
    """

    def objective(beta: Doubles) -> float:
        return partial.log_likelihood(x @ beta) - penalty / 2 * float(beta @ beta)

    beta = np.zeros(x.shape[1]) if start is None else start
    value = objective(beta)
    for _ in range(_ROUNDS):
        found = partial.slopes(x, x @ beta)
        gradient = found.gradient - penalty * beta
        step = _solved(found.information + penalty * np.eye(len(beta)), gradient)
        decrement = float(gradient @ step) / 2
        if decrement < _CONVERGED:
            break
        scale = 1.0
        while (new := objective(beta + scale * step)) < value and scale > 1e-6:
            scale /= 2
        if new < value:
            break
        beta, value = beta + scale * step, new
    return beta


def _solved(matrix: Doubles, vector: Doubles) -> Doubles:
    """The solution by Cholesky factors; where a column has no information, the smallest of all solutions."""
    try:
        return np.asarray(cho_solve(cho_factor(matrix), vector), np.float64)
    except LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, vector, rcond=None)[0], np.float64)


class Curve(NamedTuple):
    """A cumulative baseline hazard, constant between times.

    Attributes:
        time: [T], the times of events, rising.
        hazard: [T], cumulative.
    """

    time: Doubles
    hazard: Doubles

    def survival(self, eta: Doubles, times: Doubles) -> Doubles:
        """P(T > t) of log relative hazards [N] at times [S]: [N, S]."""
        place = np.searchsorted(self.time, times, side="right")
        return np.asarray(np.exp(-np.exp(eta)[:, None] * np.r_[0.0, self.hazard][place]))

    def quantile(self, eta: Doubles, probability: float) -> Doubles:
        """[N], the first time at which P(T > t) ≤ 1 − probability; infinite where there is none."""
        needed = -math.log1p(-probability) * np.exp(-eta)
        place = np.searchsorted(self.hazard, needed * (1 - 1e-12), side="left")
        found: Doubles = np.r_[self.time, np.inf][place]
        return found


def breslow(given: Survival, eta: Doubles) -> Curve:
    """The cumulative baseline hazard by Breslow's (1972) estimator: at each time the events over the sum of exp(η) at risk."""
    time, place = np.unique(given.time, return_inverse=True)
    events = np.bincount(place, given.event, len(time))
    at_risk = np.cumsum(np.bincount(place, np.exp(eta), len(time))[::-1])[::-1]
    some = events > 0
    return Curve(time[some], np.cumsum(events[some] / at_risk[some]))


def kaplan_meier(given: Survival) -> tuple[Doubles, Doubles]:
    """The estimate of P(T > t) by Kaplan & Meier (1958), from (0, 1) on: times and values."""
    time, place = np.unique(given.time, return_inverse=True)
    events = np.bincount(place, given.event, len(time))
    at_risk = np.cumsum(np.bincount(place, minlength=len(time))[::-1])[::-1]
    return np.r_[0.0, time], np.r_[1.0, np.cumprod(1 - events / at_risk)]


class Concordance(NamedTuple):
    """Harrell's C: of the pairs of which it is known which event came first, how often the risk of that one was higher.

    Attributes:
        value: C; pairs with tied risks count half.
        concordant: The number of such pairs.
        discordant: Of pairs in which it was lower.
        tied: Of pairs in which both risks are the same.
        standard_error: By the infinitesimal jackknife.
    """

    value: float
    concordant: int
    discordant: int
    tied: int
    standard_error: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The ends of an interval for C, normal on the scale of log(C / (1 − C)); (0, 1) where that is infinite."""
        c = self.value
        if not 0 < c < 1:
            return 0.0, 1.0
        reach = float(norm.ppf((1 + level) / 2)) * self.standard_error / (c * (1 - c))
        centre = math.log(c / (1 - c))
        low, high = (
            1 / (1 + math.exp(-min(max(end, -700), 700))) for end in (centre - reach, centre + reach)
        )
        return low, high


def concordance(given: Survival, risk: Sequence[float] | NDArray[np.floating]) -> Concordance:
    """How well risks order times (Harrell et al. 1996), as ``concordance_index_censored`` of scikit-survival.

    A pair is comparable if the earlier time is that of an event, or if both times are the same and one of them alone is.

    Args:
        given: The times, N of them.
        risk: [N]; higher where the event is expected earlier.

    Raises:
        InputError: No pair can be compared.

    Example:
        >>> import numpy as np
        >>> from polyvae.imputation.targets.cox import Survival, concordance
        >>> times = Survival(np.array([2.0, 3.0, 5.0, 7.0]), np.array([True, True, False, True]))
        >>> concordance(times, [4.0, 1.0, 3.0, 2.0]).value
        0.6
    """
    risks, n = np.asarray(risk, np.float64), len(given.time)
    earlier = np.flatnonzero(given.event)
    better, ties, pairs = (np.zeros(n) for _ in range(3))  # of each sample, over the pairs that it is in
    step = max(1, _CELLS // max(n, 1))
    for start in range(0, len(earlier), step):
        rows = earlier[start : start + step]
        later = (given.time > given.time[rows, None]) | (
            (given.time == given.time[rows, None]) & ~given.event
        )
        difference = risks[rows, None] - risks
        tied = later & (np.abs(difference) <= _TIED)
        won = later & ~tied & (difference > 0)
        for counts, found in ((better, won), (ties, tied), (pairs, later)):
            counts[rows] += found.sum(1)
            counts += found.sum(0)
    total = pairs.sum() / 2
    if not total:
        raise InputError(
            "C-index: got no pair of samples of which it is known which event came first; expected events before other times; add samples"
        )
    won, tied = better.sum() / 2, ties.sum() / 2
    value = float((won + tied / 2) / total)
    error = float(np.sqrt(((better + ties / 2 - value * pairs) ** 2).sum()) / total)
    return Concordance(value, int(won), int(total - won - tied), int(tied), error)

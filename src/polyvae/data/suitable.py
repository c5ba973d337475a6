"""Whether data suit their likelihood: values that it can have, but that it hardly ever has, or on another scale."""

from __future__ import annotations

import torch
from torch import Tensor

from polyvae.core.likelihoods import LIKELIHOODS, Likelihood, MixedLikelihood, Scaled

_MOST = 2**21  # values that are looked at, and rows in any case
_ROWS = 100
_FEWEST = 20  # values from which anything is concluded
_LARGE = 20  # root mean square of values, for networks that start near 0
_WIDE = 300  # of values, in scales of the likelihood
_NARROW = 0.1  # standard deviation, in scales of the likelihood
_NATS = 0.1  # what the variation of a sample changes its log-likelihood by
_DARK = 0.02  # share of the range of a discretised likelihood
AUTO = 'likelihood="auto", which chooses by the values: data.modalities(likelihood="auto"), or --set \'modality.*.likelihood=auto\''
STANDARDISE = "standardise these columns, or give center and std in the params of the part"


def unsuited(name: str, likelihood: Likelihood, x: Tensor, observed: Tensor, decoded: bool = True) -> str:
    """Why the observed values of a modality are improbable under its likelihood or on another scale, with the remedy, as one line.

    Args:
        name: The modality.
        likelihood: Its likelihood, under which the values are possible.
        x: Values, [N, *shape].
        observed: Entry mask, [N, *shape] bool.
        decoded: Whether the likelihood is used; if not, only the scale of values is judged, which matters to the encoder.

    Returns:
        "" if nothing is conspicuous.

    Example:
        >>> import torch
        >>> from polyvae import LIKELIHOODS
        >>> from polyvae.data.suitable import unsuited
        >>> x = (torch.arange(40).view(20, 2) % 2).float()
        >>> unsuited("smoker", LIKELIHOODS["normal"]((2,)), x, torch.ones_like(x, dtype=torch.bool)).split("; ")[0]
        "modality 'smoker' (normal): all values are 0 or 1"
    """
    rows = max(_ROWS, _MOST // max(1, x[:1].numel()))
    x, observed = x[:rows], observed[:rows]
    if isinstance(likelihood, MixedLikelihood):
        for part in likelihood.each():
            own, seen = x[:, part.columns], observed[:, part.columns]
            if problem := _problem("", part.likelihood, own, seen, decoded):
                return f"modality {name!r} (mixed): in {part.where} {problem}"
        return ""
    problem = _problem(name, likelihood, x, observed, decoded)
    return f"modality {name!r} ({_name(likelihood)}): {problem}" if problem else ""


def _problem(name: str, likelihood: Likelihood, x: Tensor, observed: Tensor, decoded: bool) -> str:
    seen = x[observed].double()
    if isinstance(likelihood, Scaled) and (problem := _far(name, likelihood, x, observed)):
        return problem
    if not decoded or len(seen) < _FEWEST or bool((seen == seen[0]).all()):
        return ""
    if isinstance(likelihood, Scaled):
        return _discrete(x, observed, seen, likelihood.standardises) or _flat(likelihood, x, observed)
    if type(likelihood) is LIKELIHOODS["bernoulli"] and bool(((seen > 0) & (seen < 1)).all()):
        return (
            "all values are between 0 and 1, and none is 0 or 1; expected classes 0 and 1, or probabilities of them; "
            "choose 'beta' for shares, or 'normal'"
        )
    if type(likelihood) is LIKELIHOODS["discretised_logistic"]:
        share = float(likelihood.features(seen).max())
        if share < _DARK:
            return (
                f"the largest value is {float(seen.max()):.3g}, {100 * share:.2g} % of the range of the likelihood; expected values over "
                "the range; correct step in params, or scale= of the data"
            )
    return ""


def _far(name: str, likelihood: Scaled, x: Tensor, observed: Tensor) -> str:
    """Values far from the scale of their likelihood and of untrained networks, such as images in 0..255. ``name`` is "" for a part."""
    seen = likelihood.features(x)[observed].double()
    size = float(seen.square().mean().sqrt()) if len(seen) else 0.0
    if size <= _LARGE and size <= _WIDE * (likelihood.fixed or 1.0):
        return ""
    whole = bool(((seen >= 0) & (seen % 1 == 0)).all())
    factor = "1/255" if whole and x.ndim > 2 and float(seen.max()) <= 255 else f"{1 / size:.2g}"
    # One factor for all columns of a mixed table would make fractions of its counts.
    by = f"standardise them, give MultimodalData(..., scale={{{name!r}: {factor}}})" if name else STANDARDISE
    return (
        f"got values whose root mean square is {size:.3g}, far from the scale of their likelihood; expected about 1, because networks "
        f"start near 0; {by}{'' if x.ndim > 2 or not name else f', take {AUTO}'}{', or choose a likelihood of counts' if whole else ''}"
    )


def _discrete(x: Tensor, observed: Tensor, seen: Tensor, standardised: bool) -> str:
    """Classes or counts under a density; whole numbers that are standardised have been taken as real numbers."""
    if bool(((seen == 0) | (seen == 1)).all()):
        classes = x.shape[-1]
        rows = x[observed.all(-1)].sum(-1)
        one_hot = classes > 1 and len(rows) > 0 and bool((rows == 1).all())
        chosen = "'categorical', since rows sum to 1," if one_hot else "'bernoulli'"
        return f"all values are 0 or 1; expected real numbers; choose {chosen} for classes"
    if not standardised and bool(((seen >= 0) & (seen == seen.round())).all()):
        choice = f" ({AUTO})" if x.ndim == 2 else ""
        return (
            f"all values are whole numbers from {int(seen.min())} to {int(seen.max())}; expected real numbers; choose 'poisson' or "
            f"'negative_binomial' for counts or 'ordinal' for ranks{choice}, or take logarithms, log(1 + x)"
        )
    return ""


def _flat(likelihood: Scaled, x: Tensor, observed: Tensor) -> str:
    """A fixed scale so far above the variation of the data that nothing can be learned of it."""
    if likelihood.fixed is None:
        return ""
    count = observed.double().sum(0)
    values = torch.where(observed, likelihood.features(x), 0).double()
    centre = values.sum(0) / count.clamp(min=1)
    squares = torch.where(observed, values - centre, 0).square().sum(0)
    each = squares / (count - 1).clamp(min=1)  # variances [*shape]
    spread = float(each.mean().sqrt()) / likelihood.fixed
    if spread >= _NARROW or each.numel() * spread**2 / 2 >= _NATS:
        return ""
    return (
        f"got values whose standard deviation is {spread * likelihood.fixed:.2g} for a likelihood of scale {likelihood.fixed:g}, to which "
        "they are all the same; expected about the scale; standardise them, or set scale='learned' in params"
    )


def _name(likelihood: Likelihood) -> str:
    return next(
        (name for name, made in LIKELIHOODS.items() if type(likelihood) is made), type(likelihood).__name__
    )

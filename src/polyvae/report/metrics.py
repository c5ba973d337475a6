"""What the numbers of an evaluation are called, what they mean, and which way is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Better = Literal["higher", "lower", ""]


class Metric(NamedTuple):
    """``better``: which way is; "" where neither is, because the number is none of the model's, or its best value is that of real data."""

    title: str
    meaning: str = ""
    better: Better = ""


KNOWN = {
    "conditional_coherence": Metric(
        "conditional coherence",
        "Given one modality, how often another that is generated shows the same class.",
        "higher",
    ),
    "unconditional_coherence": Metric(
        "unconditional coherence",
        "Drawn from p(z), how often all modalities show one class; a constant would score 1.",
        "higher",
    ),
    "unconditional_coherence_fitted": Metric(
        "… with the fitted prior",
        "The same, with z from a density fitted after training; a constant would score 1.",
        "higher",
    ),
    "judge_agreement": Metric(
        "judges agree on real data",
        "How often all judges agree on a real held-out sample: what to hold the two before against.",
    ),
    "unconditional_entropy": Metric("evenness of classes drawn", "1: all classes alike; 0: one alone."),
    "unconditional_entropy_fitted": Metric("… with the fitted prior", "1: all classes alike; 0: one alone."),
    "log_likelihood": Metric(
        "log-likelihood",
        "Nats per datum, all modalities jointly; an importance-sampled lower bound.",
        "higher",
    ),
    "log_likelihood_conditional": Metric(
        "conditional log-likelihood",
        "Nats per datum of one modality given all others, mean over modalities; no bound.",
        "higher",
    ),
    "gradient_conflict": Metric(
        "share of pairs in conflict",
        "How often two modalities’ gradients with respect to z have a negative cosine.",
    ),
    "gradient_cosine": Metric("mean cosine of gradients", "Of two modalities’ gradients with respect to z."),
    "reconstruction_error": Metric(
        "reconstruction error", "Mean squared, per entry, mean over modalities.", "lower"
    ),
    "reconstruction_error_relative": Metric(
        "reconstruction error, relative", "1: no better than the training part’s mean.", "lower"
    ),
    "cross_reconstruction_error": Metric(
        "cross-reconstruction error", "The same of one modality given another.", "lower"
    ),
    "cross_reconstruction_error_relative": Metric(
        "cross-reconstruction error, relative", "1: no better than the training part’s mean.", "lower"
    ),
    "diversity": Metric(
        "diversity of draws", "Distance between two draws given one sample, root mean square per entry."
    ),
    "diversity_real": Metric(
        "diversity of real samples",
        "The same between two real samples of one class: what to hold it against.",
    ),
    "probe_z_shared": Metric(
        "z tells what is shared", "A linear probe of z, each modality encoded alone.", "higher"
    ),
    "probe_z_shared_joint": Metric(
        "z tells what is shared, all observed", "The same probe, all modalities encoded together.", "higher"
    ),
    "probe_w_shared": Metric(
        "w tells what is shared", "A leak: the same probe of each modality’s w.", "lower"
    ),
    "probe_w_private": Metric(
        "w tells what is private", "A linear probe of w for its own modality’s factors.", "higher"
    ),
    "probe_z_private": Metric("z tells what is private", "A leak: the same probe of z.", "lower"),
    "probe_w_private_r2": Metric(
        "w tells what is private (R²)", "Amounts instead of classes, by ridge regression.", "higher"
    ),
    "probe_z_private_r2": Metric("z tells what is private (R²)", "A leak: the same of z.", "lower"),
    "probe_shared_chance": Metric("chance, what is shared", "The most frequent class alone."),
    "probe_private_chance": Metric("chance, what is private", "The most frequent class alone."),
    "active_units_z": Metric(
        "active columns of z", "Whose posterior mean varies by more than 0.01 over the data."
    ),
    "active_units_w": Metric("active columns of w", "The same, over all modalities."),
    "kl_z": Metric("KL of z", "From the prior, in nats per datum, all modalities observed."),
    "seconds_per_epoch": Metric("seconds per epoch", "By the clock, whatever else the machine did.", "lower"),
    "processor_seconds_per_epoch": Metric(
        "processor seconds per epoch", "Of one thread, measured before the study.", "lower"
    ),
    "kl_w": Metric("KL of w", "From the prior, in nats per datum, over all modalities."),
}

# For numbers that are not known by name: what their names say. The first that is found decides.
_WORDS: tuple[tuple[str, Better], ...] = (
    (r"^real_|entropy|agreement|diversity", ""),
    (r"distance|error|(^|_)[fk]id(_|$)", "lower"),
    (r"coherence|log_likelihood|precision|recall|coverage|accuracy", "higher"),
)
_QUALITY = re.compile(
    "(unconditional|conditional|real)_(frechet_distance|kernel_distance|fid|kid|precision|recall|density|coverage)"
    "(_fitted)?"
)
_SAYS = {
    "frechet_distance": "Between Gaussians fitted to the features of generated and of real images.",
    "kernel_distance": "Squared maximum mean discrepancy of the features, cubic kernel.",
    "precision": "How many generated images lie among real ones.",
    "recall": "How many real images lie among generated ones.",
    "density": "How many real neighbourhoods hold a generated image; real ones have 1 on average, collapsed ones more.",
    "coverage": "How many real images have a generated one among their neighbours.",
}
_SAYS |= {"fid": _SAYS["frechet_distance"], "kid": _SAYS["kernel_distance"]}


def measure_title(measure: str) -> str:
    """What a measure of image quality is called."""
    return {"frechet_distance": "Fréchet distance", "fid": "FID", "kid": "KID"}.get(
        measure, measure.replace("_", " ")
    )


def quality(name: str) -> str | None:
    """Which measure of image quality a headline number is; None: another kind of number."""
    found = _QUALITY.fullmatch(name)
    return found[2] if found else None


def metric(name: str) -> Metric:
    """The metric of that name; of one that is not known, what its name says."""
    if name in KNOWN:
        return KNOWN[name]
    found = _QUALITY.fullmatch(name)
    if found:
        kind, measure, fitted = found.groups()
        of = "real training images" if kind == "real" else "fitted prior" if fitted else kind
        better: Better = (
            "higher"
            if measure in ("precision", "recall", "coverage")
            else ""
            if measure == "density"
            else "lower"
        )
        return Metric(f"{measure_title(measure)}, {of}", _SAYS[measure], "" if kind == "real" else better)
    return Metric(
        name.replace("_", " "), "", next((better for word, better in _WORDS if re.search(word, name)), "")
    )


def number(value: float, decimals: int | None = None) -> str:
    """A number as the page shows it: three decimals below 10, one above, or as many as asked for; "–" where there is none.

    A number too small for that keeps two digits.
    """
    if not math.isfinite(value):
        return "–"
    if decimals is None and 0 < abs(value) < 1e-3:
        return f"{value:.2g}".replace("-", "−")
    if decimals is None:
        decimals = 1 if abs(value) >= 10 else 3
    return f"{value:,.{decimals}f}".replace("-", "−")


def best(values: Sequence[float | None], better: Better) -> list[bool]:
    """Which are the best; none where fewer than two are known, all are equal, or neither way is better."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not better or len(known) < 2 or len(set(known)) == 1:
        return [False] * len(values)
    top = max(known) if better == "higher" else min(known)
    return [value == top for value in values]


def classes(evaluation: Mapping[str, Any]) -> int:
    """How many classes the judges know; 0 where there are none."""
    return len(evaluation.get("unconditional_histogram") or {})


def worth(name: str, evaluation: Mapping[str, Any]) -> list[str]:
    """What a number is to be held against, for it says little alone: judges and chance, errors, effective samples."""
    if quality(name):
        nets = list(
            dict.fromkeys(((evaluation.get("quality_settings") or {}).get("features") or {}).values())
        )
        return [f"feature net: {'; '.join(nets)}"] if nets else []
    known, accuracy = classes(evaluation), list((evaluation.get("judge_accuracy") or {}).values())
    joint = evaluation.get("log_likelihood_joint")
    if name == "log_likelihood" and joint:
        return [
            f"standard error {number(joint['standard_error'])}",
            f"effective samples {joint['effective_samples']:.1f} of {evaluation.get('log_likelihood_samples', 0):,}",
        ]
    if not ("coherence" in name or name == "judge_agreement") or not accuracy:
        return []
    kinds = list((evaluation.get("judge_kind") or {}).values())
    which = (
        f"judges ({', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))})"
        if kinds
        else "judges"
    )
    found = [
        f"{which} on real images {number(sum(accuracy) / len(accuracy))}, weakest {number(min(accuracy))}"
    ]
    if name == "unconditional_coherence_fitted" and evaluation.get("fitted_prior"):
        found.insert(0, str(evaluation["fitted_prior"]))
    if known and name.startswith("unconditional"):
        # All judges agree by accident: C classes, M judges, C · C^-M.
        found.append(f"chance {known ** (1 - len(accuracy)):.2g}")
    elif known and name == "conditional_coherence":
        found.append(f"chance {number(1 / known)}")
    return found

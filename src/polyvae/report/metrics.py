"""The numbers of an evaluation: their titles, their meanings, and whether higher or lower values are better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Better = Literal["higher", "lower", ""]


class Metric(NamedTuple):
    """``better``: "higher", "lower", or "" where neither is: the number is not of the model, or its best value is that of real data."""

    title: str
    meaning: str = ""
    better: Better = ""


KNOWN = {
    "conditional_coherence": Metric(
        "conditional coherence",
        "Given one modality, how often a generated one shows the same class, according to a judge (a classifier used for evaluation).",
        "higher",
    ),
    "conditional_coherence_fitted": Metric(
        "conditional coherence, fitted prior",
        "Conditional coherence with the private latents of what is not observed drawn from a distribution fitted to all latents after "
        "training.",
        "higher",
    ),
    "unconditional_coherence": Metric(
        "unconditional coherence",
        "With z drawn from p(z), how often all modalities show the same class; a constant output would score 1.",
        "higher",
    ),
    "unconditional_coherence_fitted": Metric(
        "unconditional coherence, fitted prior",
        "With the latents from a distribution fitted after training, how often all modalities show the same class; a constant output "
        "would score 1.",
        "higher",
    ),
    "joint_coherence": Metric(
        "joint coherence",
        "Modalities generated together given one input: how often they agree on what this input leaves open (with labels alone: on the "
        "class); a constant output would score 1.",
        "higher",
    ),
    "joint_entropy": Metric(
        "class entropy of what is generated together",
        "Of what the modalities agree on. 1: all classes equally frequent; 0: one class only.",
    ),
    "unconditional_exact": Metric(
        "unconditional draws that agree in everything",
        "The share of draws from p(z) whose modalities agree in every attribute that two of them state.",
        "higher",
    ),
    "unconditional_exact_fitted": Metric(
        "unconditional draws that agree in everything, fitted prior",
        "The share of draws, with z from a density fitted after training, whose modalities agree in every attribute that two of them "
        "state.",
        "higher",
    ),
    "attribute_accuracy": Metric(
        "stated attributes right in images",
        "Of what another modality states, the share that is right in images generated given it.",
        "higher",
    ),
    "attribute_accuracy_all": Metric(
        "all attributes right", "The same for every attribute, stated or not: what was not stated is a guess."
    ),
    "attribute_chance": Metric(
        "stated attributes right in images, by chance",
        "Of the same attributes, the share that is right if the class most frequent in training is always guessed.",
    ),
    "attribute_exact": Metric(
        "images right in everything stated",
        "The share of generated images in which every stated attribute is right.",
        "higher",
    ),
    "sentence_accuracy": Metric(
        "attributes right in sentences",
        "Of the attributes that generated sentences state, the share that is right.",
        "higher",
    ),
    "sentence_chance": Metric(
        "attributes right in sentences, by chance",
        "Of the same attributes, the share that is right if the class most frequent in training is always guessed.",
    ),
    "sentence_exact": Metric(
        "exact sentences", "Grammatical, and right in everything that they state.", "higher"
    ),
    "sentence_grammatical": Metric(
        "grammatical sentences", "According to the grammar of the data.", "higher"
    ),
    "sentence_stated": Metric("attributes that sentences state", "The share of all attributes."),
    "unsaid_entropy": Metric(
        "entropy of what was not stated",
        "Over draws given one input, relative to that of the data. 1: as varied as the data; 0: always the same.",
    ),
    "unsaid_diversity": Metric(
        "diversity of what was not stated",
        "How often two draws given one input differ, relative to two samples of the data. 1: as varied as the data; 0: always the same.",
    ),
    "unsaid_accuracy": Metric(
        "stated attributes right, in the draws of what was not",
        "The share of the stated attributes that are right in the draws from which the diversity of what was not stated is taken.",
        "higher",
    ),
    "judge_agreement": Metric(
        "judges agree on real data",
        "How often all judges agree on a real held-out sample: the reference for coherence.",
    ),
    "unconditional_entropy": Metric(
        "class entropy (normalised)",
        "Of unconditional draws. 1: all classes equally frequent; 0: one class only.",
    ),
    "unconditional_entropy_fitted": Metric(
        "class entropy (normalised), fitted prior",
        "Of unconditional draws with latents from the fitted prior. 1: all classes equally frequent; 0: one class only.",
    ),
    "log_likelihood": Metric(
        "log-likelihood",
        "Nats per sample, all modalities jointly; an importance-sampled lower bound.",
        "higher",
    ),
    "log_likelihood_conditional": Metric(
        "conditional log-likelihood",
        "Nats per sample, of one modality given all others; mean over modalities; not a bound.",
        "higher",
    ),
    "gradient_conflict": Metric(
        "share of pairs in conflict",
        "How often two modalities’ gradients with respect to z have a negative cosine.",
    ),
    "gradient_cosine": Metric(
        "mean cosine of gradients", "Between the gradients of two modalities with respect to z."
    ),
    "clisi": Metric("separation of classes (cLISI)", "Of the labels among nearest neighbours.", "higher"),
    "silhouette_label": Metric("silhouette of classes", "0 to 1; 0.5: classes overlap.", "higher"),
    "nmi": Metric("NMI of classes", "Of the labels and the clusters of k-means.", "higher"),
    "ari": Metric("ARI of classes", "Of the labels and the clusters of k-means; 0: by chance.", "higher"),
    "reconstruction_error": Metric(
        "reconstruction error", "Mean squared error per entry; mean over modalities.", "lower"
    ),
    "reconstruction_error_relative": Metric(
        "reconstruction error, relative", "1: no better than the mean of the training data.", "lower"
    ),
    "cross_reconstruction_error": Metric(
        "cross-reconstruction error", "The same, of one modality given another.", "lower"
    ),
    "cross_reconstruction_error_relative": Metric(
        "cross-reconstruction error, relative", "1: no better than the mean of the training data.", "lower"
    ),
    "variance_explained": Metric(
        "variance explained", "R² of the means decoded from all latents; mean over modalities.", "higher"
    ),
    "variance_explained_shared": Metric(
        "variance explained by z", "The same with every w at its mean.", "higher"
    ),
    "variance_explained_private": Metric("variance explained by w", "The same with z at its mean."),
    "variance_explained_others": Metric(
        "variance explained from the others",
        "R² of each modality predicted from the other ones; mean over modalities.",
        "higher",
    ),
    "foscttm": Metric(
        "FOSCTTM",
        "Given z of a sample from one modality, the fraction of samples of another modality that are closer than its own match. 0: none; "
        "0.5: at random.",
        "lower",
    ),
    "recall_at_10": Metric(
        "recall at 10",
        "How often the match of a sample in another modality is among its 10 nearest; it depends on the number of samples.",
        "higher",
    ),
    "diversity": Metric(
        "diversity of draws", "Distance between two draws given one sample, root mean square per entry."
    ),
    "diversity_fitted": Metric(
        "diversity of draws, fitted prior",
        "The same with the latents of what is not observed drawn from a distribution fitted after training.",
    ),
    "diversity_real": Metric(
        "diversity of real samples",
        "The same between two real samples of one class: the reference for the diversity of draws.",
    ),
    "probe_z_shared": Metric(
        "z predicts what is shared", "A linear probe of z, with each modality encoded alone.", "higher"
    ),
    "probe_z_shared_joint": Metric(
        "z predicts what is shared, all observed",
        "The same probe, with all modalities encoded together.",
        "higher",
    ),
    "probe_w_shared": Metric(
        "w predicts what is shared", "A leak: the same probe of the w of each modality.", "lower"
    ),
    "probe_w_private": Metric(
        "w predicts what is private", "A linear probe of w for the factors of its modality.", "higher"
    ),
    "probe_z_private": Metric("z predicts what is private", "A leak: the same probe of z.", "lower"),
    "probe_w_private_r2": Metric(
        "w predicts what is private (R²)", "Continuous factors, by ridge regression.", "higher"
    ),
    "probe_z_private_r2": Metric("z predicts what is private (R²)", "A leak: the same probe of z.", "lower"),
    "probe_shared_chance": Metric(
        "chance, what is shared", "Accuracy of predicting the most frequent class."
    ),
    "probe_private_chance": Metric(
        "chance, what is private", "Accuracy of predicting the most frequent class."
    ),
    "active_units_z": Metric(
        "active units of z", "Dimensions whose posterior mean has a variance above 0.01 over the data."
    ),
    "active_units_w": Metric("active units of w", "The same, summed over modalities."),
    "kl_z": Metric("KL of z", "From the prior, in nats per sample, with all modalities observed."),
    "seconds_per_epoch": Metric(
        "seconds per epoch", "Wall-clock time, which depends on the load of the machine.", "lower"
    ),
    "processor_seconds_per_epoch": Metric(
        "processor seconds per epoch", "Processor time of one thread, measured before the study.", "lower"
    ),
    "kl_w": Metric("KL of w", "From the prior, in nats per sample, summed over modalities."),
}

# Instead of those above, for data with attributes: coherence is of attributes, and not of one class.
_ATTRIBUTES = {
    "conditional_coherence": "Given one modality, the share of the attributes it states that are right in a generated one. Images are "
    "read by judges (classifiers used for evaluation), sentences by a parser.",
    "conditional_coherence_fitted": "The share of the stated attributes that are right in a generated modality, with the private latents "
    "of what is not observed drawn from a distribution fitted to all latents after training.",
    "unconditional_coherence": "With z drawn from p(z), the share of attributes in which all modalities that state them agree; a constant "
    "output would score 1.",
    "unconditional_coherence_fitted": "With the latents from a distribution fitted after training, the share of attributes in which all "
    "modalities that state them agree; a constant output would score 1.",
    "unconditional_entropy": "Of each attribute in unconditional draws, mean over attributes. 1: all its classes equally frequent; 0: one "
    "class only.",
    "unconditional_entropy_fitted": "Of each attribute in unconditional draws from the fitted prior, mean over attributes. 1: all its "
    "classes equally frequent; 0: one class only.",
}
UNRELIABLE = 10  # effective samples below which an importance-sampled likelihood is not reliable

# For numbers that are not in KNOWN: the first pattern that occurs in the name decides.
_WORDS: tuple[tuple[str, Better], ...] = (
    (r"^real_|entropy|agreement|diversity", ""),
    (r"distance|error|(^|_)[fk]id(_|$)", "lower"),
    (r"coherence|log_likelihood|precision|recall|coverage|accuracy", "higher"),
)
_FITTED = (
    "Latents of what is not observed are drawn from a distribution fitted to all latents after training."
)
_SIZED = re.compile(r"coherence_(\d+)_inputs(_fitted)?")
_QUALITY = re.compile(
    "(unconditional|conditional|real)_(frechet_distance|kernel_distance|fid|kid|precision|recall|density|coverage)"
    "(_fitted)?"
)
_MIXING = re.compile("(ilisi|silhouette_batch)_(.+)")
_MIXED = {"ilisi": "iLISI", "silhouette_batch": "silhouette within classes"}
_MEANINGS = {
    "frechet_distance": "Between Gaussians fitted to the features of generated and of real images.",
    "kernel_distance": "Squared maximum mean discrepancy of the features, cubic kernel.",
    "precision": "Share of generated images in the neighbourhood of real ones.",
    "recall": "Share of real images in the neighbourhood of generated ones.",
    "density": "How many neighbourhoods of real images contain a generated image: about 1 for real images, more for collapsed ones.",
    "coverage": "Share of real images whose neighbourhood contains a generated one.",
}
_MEANINGS |= {"fid": _MEANINGS["frechet_distance"], "kid": _MEANINGS["kernel_distance"]}


def measure_title(measure: str) -> str:
    """The title of a measure of image quality."""
    return {"frechet_distance": "Fréchet distance", "fid": "FID", "kid": "KID"}.get(
        measure, measure.replace("_", " ")
    )


def quality(name: str) -> str | None:
    """The measure of image quality of a headline number; None for another kind of number."""
    found = _QUALITY.fullmatch(name)
    return found[2] if found else None


def by_size(name: str) -> bool:
    """Whether a number is the coherence for one number of inputs, of which a curve shows all."""
    return _SIZED.fullmatch(name) is not None


def by_attribute(evaluation: Mapping[str, Any]) -> bool:
    """Whether coherence is of several attributes, and not of labels."""
    return "unconditional_by_attribute" in evaluation or bool(evaluation.get("attributes"))


def metric(name: str, evaluation: Mapping[str, Any] | None = None) -> Metric:
    """The metric with this name, as measured in ``evaluation``; if it is not known, what can be derived from the name."""
    if name in _ATTRIBUTES and evaluation and by_attribute(evaluation):
        title = KNOWN[name].title.replace("class entropy", "entropy of attributes")
        return KNOWN[name]._replace(title=title, meaning=_ATTRIBUTES[name])
    if name in KNOWN:
        return KNOWN[name]
    of_known = name.removesuffix("_fitted")
    if of_known in KNOWN:
        known = metric(of_known, evaluation)
        return known._replace(title=f"{known.title}, fitted prior", meaning=f"{known.meaning} {_FITTED}")
    sized = _SIZED.fullmatch(name)
    if sized:
        title = f"coherence given {sized[1]}" + (", fitted prior" if sized[2] else "")
        return Metric(title, "Conditional coherence given this number of modalities.", "higher")
    mixed = _MIXING.fullmatch(name)
    if mixed:
        return Metric(f"mixing of {mixed[2]} ({_MIXED[mixed[1]]})", "0: apart; 1: mixed.", "higher")
    found = _QUALITY.fullmatch(name)
    if found:
        kind, measure, fitted = found.groups()
        of = "real training images" if kind == "real" else kind
        if fitted:
            of = "fitted prior" if kind == "unconditional" else f"{kind}, fitted prior"
        better: Better = (
            "higher"
            if measure in ("precision", "recall", "coverage")
            else ""
            if measure == "density"
            else "lower"
        )
        return Metric(f"{measure_title(measure)}, {of}", _MEANINGS[measure], "" if kind == "real" else better)
    return Metric(
        name.replace("_", " "), "", next((better for word, better in _WORDS if re.search(word, name)), "")
    )


def number(value: float, decimals: int | None = None) -> str:
    """A number as text: three decimals below 10, one above, or the given number; "–" if it is not finite.

    A number too small for that keeps two digits.
    """
    if not math.isfinite(value):
        return "–"
    if decimals is None and 0 < abs(value) < 1e-3:
        return f"{value:.2g}".replace("-", "−")
    if decimals is None:
        decimals = 1 if abs(value) >= 10 else 3
    text = f"{value:,.{decimals}f}"
    return (text if text.strip("-0.") else text.removeprefix("-")).replace("-", "−")  # no −0.000


def best(values: Sequence[float | None], better: Better) -> list[bool]:
    """Which values are the best; none if fewer than two are known, all are equal, or neither direction is better."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not better or len(known) < 2 or len(set(known)) == 1:
        return [False] * len(values)
    top = max(known) if better == "higher" else min(known)
    return [value == top for value in values]


def classes(evaluation: Mapping[str, Any]) -> int:
    """The number of classes of the judges; 0 if there are no judges."""
    return len(evaluation.get("unconditional_histogram") or {})


def span(ends: Sequence[float]) -> str:
    """The ends of an interval, such as "0.810 to 0.850", with three decimals however small they are."""
    return " to ".join(number(end, 3 if abs(end) < 10 else None) for end in ends)


def interval(name: str, evaluation: Mapping[str, Any]) -> str:
    """The interval of a headline number in words, such as "95 % interval 0.810 to 0.850"; empty if there is none."""
    ends = (evaluation.get("intervals") or {}).get(name)
    return f"95 % interval {span(ends)}" if ends else ""


def unreliable(line: Mapping[str, Any]) -> bool:
    """Whether a likelihood has too few effective samples."""
    return float(line["effective_samples"]) < UNRELIABLE


def worth(name: str, evaluation: Mapping[str, Any]) -> list[str]:
    """What to compare a number with: its interval, the accuracy of judges, chance, errors, effective sample size."""
    ends = interval(name, evaluation)
    return ([ends] if ends else []) + _beside(name, evaluation)


def _beside(name: str, evaluation: Mapping[str, Any]) -> list[str]:
    if quality(name):
        nets = list(
            dict.fromkeys(((evaluation.get("quality_settings") or {}).get("features") or {}).values())
        )
        return [f"feature network: {'; '.join(nets)}"] if nets else []
    known, accuracy = classes(evaluation), list((evaluation.get("judge_accuracy") or {}).values())
    joint = evaluation.get("log_likelihood_joint")
    if name == "log_likelihood" and joint:
        few = [f"not reliable: fewer than {UNRELIABLE} effective samples"] if unreliable(joint) else []
        return [
            f"standard error {number(joint['standard_error'])}",
            f"effective samples {joint['effective_samples']:.1f} of {evaluation.get('log_likelihood_samples', 0):,}",
            *few,
        ]
    chance = {"attribute_accuracy": "attribute_chance", "sentence_accuracy": "sentence_chance"}.get(
        name.removesuffix("_fitted")
    )
    if chance and isinstance(evaluation.get(chance), float):
        return [f"always the most frequent class {number(evaluation[chance])}"]
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
    if name.endswith("coherence_fitted") and evaluation.get("fitted_prior"):
        found.insert(0, str(evaluation["fitted_prior"]))
    if known and name.startswith("unconditional"):
        # All judges agree by chance: C classes, M judges, C · C^-M.
        found.append(f"chance {known ** (1 - len(accuracy)):.2g}")
    elif known and name.startswith("conditional_coherence"):
        found.append(f"chance {number(1 / known)}")
    elif name.startswith("conditional_coherence"):
        guesses = [evaluation.get(key) for key in ("attribute_chance", "sentence_chance")]
        shown = dict.fromkeys(number(guess) for guess in guesses if isinstance(guess, float))
        found += [f"always the most frequent class {' and '.join(shown)}"] if shown else []
    return found

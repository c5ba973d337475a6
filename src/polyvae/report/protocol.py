"""How the numbers of an evaluation were obtained, in sentences."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.generation import even
from polyvae.report.metrics import by_attribute

_EACH = "over the latents of each modality"  # in the summary of such a prior


def protocol(
    model: MultimodalVAE,
    data: MultimodalData,
    evaluation: Mapping[str, Any],
    *,
    mixed: bool,
    config: str,
    seed: int,
) -> list[tuple[str, str]]:
    """Pairs (what, how) for everything that was measured or shown.

    Args:
        model: The trained model.
        data: The held-out data.
        evaluation: The numbers of the evaluation.
        mixed: Whether the posterior is a mixture.
        config: The TOML of the run; "" if there is none.
        seed: The seed of the report.
    """
    lines = []
    rules = evaluation.get("protocol") or {}
    if rules.get("name"):
        lines.append(
            (
                "Protocol",
                f"“{rules['name']}”"
                + (f"; private latents {rules['private_codes']}" if "private_codes" in rules else "")
                + ".",
            )
        )
    shared = rules.get("name") == "published" and even(
        model
    )  # one draw of w for all modalities that are not observed
    component = ", from one component of the mixture, drawn independently for each sample" if mixed else ""
    heads = ", with a head for each attribute" if by_attribute(evaluation) else ""
    if evaluation.get("judges"):
        lines += [
            (
                "Judges",
                f"One classifier per image modality{heads}, in evaluation mode (no dropout; batch norm uses running "
                f"averages): {evaluation['judges']}. Their input is the decoder output, neither clamped nor rounded to bytes.",
            ),
            (
                "Conditional generation",
                f"One posterior draw of z per sample given what is observed{component}; "
                f"{_private(model)}{', one draw for all of them' if shared and len(model.owner) else ''}; "
                "the mean of the likelihood, not a draw from it."
                + (
                    f" With the fitted prior, {_drawn_given(evaluation)}."
                    if "conditional_coherence_fitted" in evaluation or "attributes_fitted" in evaluation
                    else ""
                ),
            ),
            (
                "Inputs and targets",
                "Input and target differ: no observed modality is evaluated."
                + (
                    " By number of observed modalities: all sets of that size, at most 64 drawn at random, and every modality outside "
                    "the set."
                    if evaluation.get("coherence_by_observed")
                    else ""
                ),
            ),
            (
                "Averages",
                "For a pair, or a set and a target: over samples with equal weights; classes are not balanced. "
                + (
                    "Of each sample, the attributes that count have equal weights. "
                    if by_attribute(evaluation)
                    else ""
                )
                + "Over pairs, and over sets and targets: the arithmetic mean.",
            ),
            (
                "Samples",
                f"All {evaluation.get('rows', len(data)):,} {evaluation.get('part', 'held-out')} samples in which the input was observed.",
            ),
        ]
    if evaluation.get("judges") and any(name.startswith("unconditional_") for name in evaluation):
        lines.append(
            (
                "Unconditional generation",
                f"{_draws(evaluation)}z from p(z), or from a distribution fitted after training to {_fitted_to(evaluation)}; "
                f"{_fresh(shared, evaluation) if len(model.owner) else ''}the mean of the likelihood. "
                + (
                    "The number is the share of attributes in which all modalities that state them agree."
                    if by_attribute(evaluation)
                    else "A draw counts if all judges assign the same class."
                ),
            )
        )
    if evaluation.get("log_likelihood_joint"):
        lines.append(
            (
                "Likelihood",
                f"{evaluation.get('log_likelihood_samples', 0):,} importance samples per sample of the data, for the first "
                f"{evaluation['log_likelihood_joint']['rows']:,} held-out samples, from (and divided by) 0.9 times the "
                "posterior plus 0.1 times the prior. Likelihood weights are 1. By modality: each observed alone.",
            )
        )
    lines.append(("Image quality", _quality(evaluation)))
    lines += [("Note", f"{note[:1].upper()}{note[1:]}.") for note in evaluation.get("notes") or ()]
    sentences = any(net.likelihood.ids for net in model.modalities.values())
    lines.append(
        (
            "Pictures",
            "Means of the likelihood, clamped to the range shown; samples are chosen at random."
            + (" Of sentences: the most probable word at each position." if sentences else ""),
        )
    )
    lines.append(
        (
            "Data",
            " ".join(
                str(data.card[key]).rstrip(".") + "."
                for key in ("what", "composition", "pairing")
                if key in data.card
            )
            or "As given, without a description.",
        )
    )
    lines.append(("Seeds", "; ".join(_seeds(data, evaluation, config, seed))))
    return lines


def _private(model: MultimodalVAE) -> str:
    if not len(model.owner):
        return "there are no private latents"
    if model.options.get("private_prior") == "auxiliary":
        return "private latents of unobserved modalities from the auxiliary priors r(w)"
    return "private latents of unobserved modalities from p(w)"


def _fitted_to(evaluation: Mapping[str, Any]) -> str:
    summary = str(evaluation.get("fitted_prior") or "none was fitted")
    draws = "up to ten posterior draws" if summary.startswith("score network") else "one posterior draw"
    complete = "complete " if "over all latents" in summary or _EACH in summary else ""
    return f"{draws} per {complete}training sample ({summary})"


def _drawn_given(evaluation: Mapping[str, Any]) -> str:
    if _EACH in str(evaluation.get("fitted_prior")):
        return (
            "the latents of unobserved modalities are drawn from it, given those of the observed ones, and each modality is decoded from "
            "its own"
        )
    return "the private latents of unobserved modalities are drawn from it, given z and those of the observed ones"


def _fresh(shared: bool, evaluation: Mapping[str, Any]) -> str:
    summary = str(evaluation.get("fitted_prior"))
    fitted = "over all latents" in summary or _EACH in summary
    return (
        f"w from p(w){' (with the fitted prior, from it)' if fitted else ''}, "
        f"{'one draw for all modalities' if shared else 'one draw for each modality'}; "
    )


def _quality(evaluation: Mapping[str, Any]) -> str:
    settings = evaluation.get("quality_settings")
    if not settings:
        return "FID and other measures of image quality were not computed."
    nets = "; ".join(dict.fromkeys((settings.get("features") or {}).values()))
    rules = evaluation.get("protocol") or {}
    fid = any("_fid" in name for name in evaluation)
    parts = [
        f"Features of {nets}",
        f"pairs: {rules['quality_pairs']}" if "quality_pairs" in rules else "",
        f"pixels: {rules['pixels']}" if "pixels" in rules else "",
        f"kernel distance and neighbours of at most {settings['kept']:,} images of either side"
        if settings.get("kept")
        else "",
        "" if fid else "the standard Inception weights were not used, so there is no FID",
    ]
    return ". ".join(part[0].upper() + part[1:] for part in parts if part) + "."


def _draws(evaluation: Mapping[str, Any]) -> str:
    """The number of draws: the histogram counts the draws that agree, and the coherence is their share."""
    agreed, share = (
        sum((evaluation.get("unconditional_histogram") or {}).values()),
        evaluation.get("unconditional_coherence"),
    )
    return f"{round(agreed / share):,} draws: " if share else ""


def _seeds(data: MultimodalData, evaluation: Mapping[str, Any], config: str, seed: int) -> list[str]:
    train = tomllib.loads(config).get("train", {}) if config else {}
    known = (
        ("training", train.get("seed")),
        ("evaluation", evaluation.get("seed")),
        ("data", data.seed),
        ("this page", seed),
    )
    return [f"{what} {value}" for what, value in known if value is not None] + [
        "one training run, so the spread over seeds is not known"
    ]

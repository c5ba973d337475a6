"""How the numbers of an evaluation came about, in sentences: the choices without which they cannot be compared."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.generation import even


def protocol(
    model: MultimodalVAE,
    data: MultimodalData,
    evaluation: Mapping[str, Any],
    *,
    mixed: bool,
    config: str,
    seed: int,
) -> list[tuple[str, str]]:
    """(what, how) for all that was measured or shown.

    ``mixed``: the posterior is a mixture. ``config``: the run's TOML, "" where there is none. ``seed``: the report's.
    """
    lines = []
    rules = evaluation.get("protocol") or {}
    if rules.get("name"):
        lines.append(
            (
                "Protocol",
                f"“{rules['name']}”"
                + (f"; private codes {rules['private_codes']}" if "private_codes" in rules else "")
                + ".",
            )
        )
    shared = rules.get("name") == "published" and even(model)  # one draw of w for all that is not observed
    component = ", from one component of the mixture, drawn anew for each sample" if mixed else ""
    if evaluation.get("judges"):
        lines += [
            (
                "Judges",
                f"One classifier per image modality, in evaluation mode (no dropout; batch norm uses running averages): "
                f"{evaluation['judges']}. They see the decoder’s output as it is, neither clamped nor rounded to bytes.",
            ),
            (
                "Conditional generation",
                f"One posterior draw of z per sample given what is observed{component}; "
                f"{_private(model)}{', one draw for all of them' if shared and len(model.owner) else ''}; "
                "the decoder’s mean, not a draw from the likelihood.",
            ),
            (
                "Sources and targets",
                "Source and target differ: nothing is judged that was observed. By number of observed modalities: all "
                "sets of that size, at most 64 drawn at random, and every modality outside the set.",
            ),
            (
                "Averages",
                "Within a pair (or set) and target: over samples, every sample alike, classes not balanced. Over pairs, and over "
                "sets and targets: the plain mean.",
            ),
            (
                "Samples",
                f"All {evaluation.get('rows', len(data)):,} held-out samples in which the source was observed.",
            ),
            (
                "Unconditional generation",
                f"{_draws(evaluation)}z from p(z), or from a density fitted after training to one "
                f"posterior draw per training sample ({evaluation.get('fitted_prior') or 'none was fitted'}); "
                f"{_fresh(shared) if len(model.owner) else ''}the decoder’s mean. "
                "A draw counts when all judges say the same class.",
            ),
        ]
    if evaluation.get("log_likelihood_joint"):
        lines.append(
            (
                "Likelihood",
                f"{evaluation.get('log_likelihood_samples', 0):,} importance samples per datum on the first "
                f"{evaluation['log_likelihood_joint']['rows']:,} held-out samples, from (and divided by) 0.9 times the "
                "posterior plus 0.1 times the prior. Likelihood weights count as 1. By modality: each observed alone.",
            )
        )
    lines.append(("Image quality", _quality(evaluation)))
    lines.append(
        (
            "Pictures",
            "Decoder means, clamped to the range shown; samples chosen at random, not by how they look.",
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
            or "As given; its card says no more.",
        )
    )
    lines.append(("Seeds", "; ".join(_seeds(data, evaluation, config, seed))))
    return lines


def _private(model: MultimodalVAE) -> str:
    if not len(model.owner):
        return "there are no private codes"
    if model.options.get("private_prior") == "auxiliary":
        return "private codes of what is not observed from the auxiliary priors r(w)"
    return "private codes of what is not observed from p(w)"


def _fresh(shared: bool) -> str:
    return f"w from p(w), {'one draw for all modalities' if shared else 'each modality its own'}; "


def _quality(evaluation: Mapping[str, Any]) -> str:
    settings = evaluation.get("quality_settings")
    if not settings:
        return "No FID, nor any other measure of image quality, was computed for this page."
    nets = "; ".join(dict.fromkeys((settings.get("features") or {}).values()))
    rules = evaluation.get("protocol") or {}
    fid = any("_fid" in name for name in evaluation)
    said = [
        f"Features of {nets}",
        f"pairs: {rules['quality_pairs']}" if "quality_pairs" in rules else "",
        f"pixels: {rules['pixels']}" if "pixels" in rules else "",
        f"kernel distance and neighbours of at most {settings['kept']:,} images of either side"
        if settings.get("kept")
        else "",
        "" if fid else "not the standard Inception weights, so no FID",
    ]
    return ". ".join(part[0].upper() + part[1:] for part in said if part) + "."


def _draws(evaluation: Mapping[str, Any]) -> str:
    """How many draws there were: the histogram counts those that the coherence is a share of."""
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
        "one training run: no spread over seeds is shown"
    ]

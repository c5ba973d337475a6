"""The protocol of an evaluation in words: the choices without which numbers of two papers are not comparable."""

from __future__ import annotations

from typing import Any

from polyvae.core.vae import MultimodalVAE
from polyvae.metrics.context import Context
from polyvae.metrics.features import Inception
from polyvae.metrics.generation import even
from polyvae.metrics.quality import PARTIAL


def checklist(context: Context) -> dict[str, Any]:
    """The protocol and its choices for this model and these data. "published" is the protocol of the code of MMVAE+ (2023)."""
    model, published = context.model, context.config.protocol == "published"
    card = context.data.card
    return {
        "name": context.config.protocol,
        "judges": "evaluation mode",
        "generated": "mean of the likelihood, one posterior draw",
        "private_codes": _private(model, published),
        "expert": "drawn anew for each sample, where the posterior is a mixture",
        "coherence_pairs": "source and target differ",
        "quality_pairs": "all, reconstruction (source = target) included"
        if published
        else "source and target differ",
        "averages": "over samples (micro), then plain means over pairs",
        "images": {
            "held_out": len(context.data),
            "draws": context.config.draws,
            "dropped": f"in image quality, a last partial batch of {PARTIAL}" if published else "none",
        },
        "pixels": _pixels(context),
        "data": {key: card[key] for key in ("name", "variant", "composition") if key in card},
        "seed": context.config.seed,
        "training_runs": 1,
    }


def _pixels(context: Context) -> str:
    if context.config.protocol == "published":
        return "judges of coherence see the decoder's output as it is; feature nets see 8-bit values as a PNG holds them, clamped to [0, 1]"
    if isinstance(context.features, Inception):
        return "judges see the decoder's output as it is; Inception sees 8-bit values as a PNG holds them, clamped to [0, 1]"
    return "judges and feature nets see the decoder's output as it is"


def _private(model: MultimodalVAE, published: bool) -> str:
    if not len(model.owner):
        return "there are none"
    prior = "the auxiliary priors r(w)" if model.options.get("private_prior") == "auxiliary" else "p(w)"
    own = f"of what is not observed from {prior}, of draws from the prior from p(w); "
    if not published:
        return own + "each modality has a draw of its own"
    return own + (
        "one draw is shared by all modalities"
        if even(model)
        else "each modality has a draw of its own, for their priors differ"
    )

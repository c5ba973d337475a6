"""Importance-sampled log-likelihoods, in nats per datum: a lower bound whose quality the effective sample size tells."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polyvae.data import mix
from polyvae.evaluate.setting import Setting
from polyvae.vae import Estimate, MultimodalVAE


def likelihood(model: MultimodalVAE, setting: Setting) -> dict[str, Any]:
    """``log_likelihood`` (joint, of all that was observed) and ``log_likelihood_by_modality``, each with what it is worth.

    Empty for models without a joint density.
    """
    if not model.facts.density:
        return {}
    data = setting.test.rows(slice(0, setting.likelihood_rows))
    batch = data.take(slice(None))
    names = [name for name, net in model.modalities.items() if net.encoder is not None and name in data.names]
    setting.report.start("likelihood", len(names) + 1)
    with torch.random.fork_rng():
        torch.manual_seed(mix(setting.seed, 3))
        joint = _summary(model.log_marginal(batch, K=setting.likelihood_samples), batch.mask.any(0))
        setting.report.advance()
        each = {}
        for name in names:
            seen = batch.mask[data.names.index(name)]
            if bool(seen.any()):
                each[name] = _summary(model.log_marginal(batch.observe(name), K=setting.likelihood_samples), seen)
            setting.report.advance()
    return {"log_likelihood": joint["mean"], "log_likelihood_joint": joint, "log_likelihood_by_modality": each,
            "log_likelihood_samples": setting.likelihood_samples}


def _summary(estimate: Estimate, seen: Tensor) -> dict[str, float]:
    """Over the data that have it: mean, the standard error of that mean (of data, and of sampling), effective samples (median)."""
    value, error, effective = (part[seen].double().cpu() for part in estimate)
    spread = float(value.std()) / math.sqrt(len(value)) if len(value) > 1 else math.nan
    return {"mean": float(value.mean()), "standard_error": spread, "sampling_error": float(error.square().sum().sqrt() / len(error)),
            "effective_samples": float(effective.median()), "rows": len(value)}

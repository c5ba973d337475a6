"""How well are labels told? A label is a categorical modality that is decoded and never encoded; to predict it is to generate it."""

from __future__ import annotations

from typing import Any

import torch

from polyvae.metrics import generation
from polyvae.metrics.context import Context


def prediction(context: Context) -> dict[str, Any]:
    """``label_accuracy`` given every modality that is encoded, ``label_accuracy_single`` given one: means over labels and modalities.

    In full under ``prediction``: label -> {"all", and each modality} -> the share of held-out samples whose most probable class is the
    observed one (of several entries: all that were observed), K = 10 draws of the latents averaged. Empty where the model has no label.
    """
    model = context.model
    labels = [
        name
        for name, net in model.modalities.items()
        if net.encoder is None and net.spec.likelihood == "categorical" and name in context.data.names
    ]
    sources = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    if not labels or not sources:
        return {}
    context.report.start("prediction", 1 + len(sources))
    found: dict[str, dict[str, float]] = {name: {} for name in labels}
    for number, (key, members) in enumerate({"all": sources, **{name: [name] for name in sources}}.items()):
        right, counted = dict.fromkeys(labels, 0), dict.fromkeys(labels, 0)
        for batch, made in generation.conditional(context, members, labels, context.seed(31, number), K=10):
            for name, shares in made.items():
                seen = batch.mask[list(batch.data).index(name)]
                told = shares.mean(0).argmax(-1) == batch.data[name].to(shares.device).argmax(
                    -1
                )  # [B, *entries]
                known = torch.ones_like(told)
                if name in batch.entries:
                    known = (
                        model.modalities[name].likelihood.counted(batch.entries[name]).any(-1).to(told.device)
                    )
                told, some = (
                    ((told | ~known), known)
                    if told.ndim == 1
                    else ((told | ~known).flatten(1).all(1), known.flatten(1).any(1))
                )
                rows = seen.to(told.device) & some
                right[name] += int(told[rows].sum())
                counted[name] += int(rows.sum())
        for name in labels:
            if counted[name]:
                found[name][key] = right[name] / counted[name]
        context.report.advance()
    whole = [by["all"] for by in found.values() if "all" in by]
    single = [share for by in found.values() for key, share in by.items() if key != "all"]
    headlines = {"label_accuracy": whole, "label_accuracy_single": single}
    return {name: sum(values) / len(values) for name, values in headlines.items() if values} | {
        "prediction": found
    }

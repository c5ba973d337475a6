"""Accuracy of predicted labels. A label is a categorical modality that is decoded but not encoded, so it is predicted by generation."""

from __future__ import annotations

from typing import Any

import torch

from polyvae.metrics import generation
from polyvae.metrics.context import Context


def prediction(context: Context) -> dict[str, Any]:
    """``label_accuracy`` given all encoded modalities, ``label_accuracy_single`` given one: means over labels and modalities.

    ``prediction`` has the details: label -> {"all", and each modality} -> the share of held-out samples whose most probable class is the
    observed one (for several entries, of all observed ones), averaged over K = 10 draws of the latents. Empty if the model has no label.
    """
    model = context.model
    labels = [
        name
        for name, net in model.modalities.items()
        if net.encoder is None and net.spec.likelihood == "categorical" and name in context.data.names
    ]
    inputs = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    if not labels or not inputs:
        return {}
    context.report.start("prediction", 1 + len(inputs))
    found: dict[str, dict[str, float]] = {name: {} for name in labels}
    for number, (key, members) in enumerate({"all": inputs, **{name: [name] for name in inputs}}.items()):
        right, counted = dict.fromkeys(labels, 0), dict.fromkeys(labels, 0)
        for batch, made, _ in generation.conditional(
            context, members, labels, context.seed("prediction", number), K=10
        ):
            for name, shares in made.items():
                seen = batch.mask[list(batch.data).index(name)]
                observed = batch.data[name].to(shares.device)
                hit = shares.mean(0).argmax(-1) == observed.argmax(-1)  # [B, *entries]
                known = torch.ones_like(hit)
                if name in batch.entries:
                    known = (
                        model.modalities[name].likelihood.counted(batch.entries[name]).any(-1).to(hit.device)
                    )
                hit = hit | ~known
                if hit.ndim > 1:
                    hit, known = hit.flatten(1).all(1), known.flatten(1).any(1)
                rows = seen.to(hit.device) & known
                right[name] += int(hit[rows].sum())
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

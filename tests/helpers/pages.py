"""Small data, runs and evaluations for reports, and a parser of pages."""

from __future__ import annotations

from html.parser import HTMLParser

import torch

from polyvae.data import MultimodalData
from polyvae.models import build
from polyvae.training.loop import fit

ODD = "<b>rna & 'co'</b>"


class Elements(HTMLParser):
    """Every tag with its attributes, every id, and the text between tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def vectors(names=("a", "b"), count=64, labels=None):
    draws = torch.Generator().manual_seed(1)
    return MultimodalData(
        {name: torch.rand(count, 5, generator=draws) for name in names},
        labels=labels,
        splits={"train": range(count // 2), "test": range(count // 2, count)},
        card={"name": "vectors"},
    )


def run_of(folder, name, data, modalities=None, **options):
    model = build(name, modalities or data.modalities(), latent=2, **options)
    fit(model, data.train, epochs=2, batch_size=16, out=folder, show=False, validation=0.2)
    return model


def small_evaluation(names):
    """What evaluate answers, in the smallest form that has everything."""
    line = {
        "mean": -1234.5,
        "standard_error": 2.25,
        "sampling_error": 0.125,
        "effective_samples": 7.5,
        "rows": 32,
    }
    return {
        "model": "mmvae+",
        "rows": 32,
        "seed": 4,
        "fitted_prior": "3 components, full",
        "judges": "2 epochs on 32 training tuples",
        "conditional_coherence": 0.8125,
        "unconditional_coherence": 0.4321,
        "unconditional_coherence_fitted": 0.9876,
        "judge_agreement": 0.9531,
        "unconditional_entropy": 0.7654,
        "unconditional_entropy_fitted": 0.9988,
        "log_likelihood": -1234.5,
        "something_new": 0.2468,
        "judge_accuracy": {name: 0.97 + 0.01 * place for place, name in enumerate(names)},
        "coherence_matrix": {a: {b: 0.81 for b in names if b != a} for a in names},
        "coherence_by_observed": {"1": 0.81, "2": 0.83},
        "unconditional_histogram": {"0": 300, "1": 132},
        "unconditional_histogram_fitted": {"0": 500, "1": 487},
        "log_likelihood_joint": line,
        "log_likelihood_by_modality": dict.fromkeys(names, line),
        "log_likelihood_samples": 100,
    }

"""The lists of models and data sets."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table

from polyvae.core.vae import MultimodalVAE
from polyvae.data import DATASETS
from polyvae.models import MODELS, model_class

_QUESTIONS = {
    "bound": "is the objective at most log p(x), in expectation?",
    "density": "can likelihoods be estimated?",
    "per_sample": "is the result for a batch the same as for its rows?",
    "nested": "does a missing modality have the same effect as a model built without it?",
    "symmetric": "is the result independent of the order of the modalities?",
}


def list_models() -> None:
    """Print one line for each model."""
    head = ("name", "citation", "private latents", "missing data", "facts", "needs")
    _print(
        head,
        [
            (
                key,
                cls.citation,
                cls.private_latents,
                cls.requires.missing,
                _facts(key),
                cls.requires.text or "-",
            )
            for key, cls in MODELS.items()
        ],
    )


def list_datasets() -> None:
    """Print one line for each data set."""
    head = ("name", "modalities", "samples", "description", "licence", "needs")
    _print(
        head,
        [
            (name, entry.modalities, entry.samples, entry.what, entry.licence, entry.needed or "-")
            for name, entry in DATASETS.items()
        ],
    )


def described(kind: type[MultimodalVAE]) -> Iterator[str]:
    """The lines that describe a model: its docstring, its properties, and its options."""
    yield from (inspect.getdoc(kind) or "", "")
    facts = kind.facts
    lines = {
        "citation": kind.citation,
        "private latents": kind.private_latents,
        "missing data": kind.requires.missing,
        "needs": kind.requires.text or "-",
    }
    lines |= {
        word.replace("_", " "): f"{'yes' if getattr(facts, word) else 'no '} ({question})"
        for word, question in _QUESTIONS.items()
    }
    yield from (f"{head:<15}  {value}" for head, value in lines.items())
    yield from ("", "options, as [model] in a TOML file or --set model.NAME=VALUE, and their defaults:")
    for name, option in inspect.signature(kind).parameters.items():
        if name != "modalities":
            default = (
                "(required)"
                if option.default is option.empty
                else "(not set)"
                if option.default is None
                else ""
            )
            # TOML and JSON write these values in the same way.
            yield f"  {name} {default or f'= {json.dumps(option.default, default=str)}'}"


def _facts(name: str) -> str:
    facts = model_class(name).facts
    return ", ".join(word.replace("_", " ") for word in _QUESTIONS if getattr(facts, word))


def _print(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(row))
        return
    table, names = Table(), [row[0] for row in rows]
    # Names are copied from the terminal, so they are never wrapped.
    table.add_column(head[0], no_wrap=True, min_width=max(map(len, names), default=0))
    for title in head[1:]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)

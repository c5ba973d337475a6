"""A comparison: one page with the differences, numbers and curves of several runs, and the same samples from each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from polyvae.core.fitted import FittedPrior
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.models.bundles import describe_modality
from polyvae.report.drawing import SERIES
from polyvae.report.figures import Trace, traces
from polyvae.report.gallery import Scene, Shown, beside, beside_fresh, show, stage
from polyvae.report.learning import NO_HISTORY, curve_names, trace, watched
from polyvae.report.metrics import KNOWN, best, metric, number, quality, worth
from polyvae.report.sections import Section
from polyvae.report.templates import render
from polyvae.utils.errors import InputError
from polyvae.utils.files import write_atomic

_NONE = "–"
_CONDITIONS = (
    "rows",
    "seed",
    "judges",
    "fitted_prior",
    "log_likelihood_samples",
    "probed",
    "probe_rows",
    "diversity_draws",
    "diversity_rows",
    "protocol",
    "quality_settings",
)


@dataclass(frozen=True)
class Contender:
    """One of the compared runs.

    Attributes:
        label: The name of the run on the page.
        model: The trained model.
        settings: The configuration, such as {"train": {"lr": 1e-3}}.
        evaluation: The contents of evaluation.json; empty if there is none.
        history: The records of training.
        prior: The fitted prior, if any.
    """

    label: str
    model: MultimodalVAE
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    prior: FittedPrior | None = None


class Cell(NamedTuple):
    """``text`` as shown; ``exact``, the number in full; ``beside``, what to compare it with."""

    text: str
    best: bool = False
    exact: str = ""
    beside: str = ""


class Row(NamedTuple):
    title: str
    cells: Sequence[Cell]
    meaning: str = ""


def write_comparison(
    path: str | Path, runs: Sequence[Contender], data: MultimodalData, *, seed: int = 0
) -> Path:
    """Write one self-contained page that compares ``runs``; the same inputs give the same bytes.

    The modes of the models and the global random generator keep their state.

    Args:
        path: The path of the page.
        runs: The runs to compare.
        data: Held-out data such as ``data.test``, or a data set, whose test part is used.
        seed: Seed of the choice of samples and of their draws, the same for all runs.

    Returns:
        The path of the page.

    Raises:
        InputError: If there are fewer than two runs, two with the same label, or models with different modalities.
        StorageError: If the page cannot be written. The old page is unchanged.
    """
    names = [run.label for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"comparison: got runs {names}; expected two or more, each once; give each run a different label"
        )
    for run in runs[1:]:
        if set(run.model.modalities) != set(runs[0].model.modalities):
            raise InputError(
                f"comparison: got modalities {list(runs[0].model.modalities)} in {names[0]} and {list(run.model.modalities)} "
                f"in {run.label}; expected the same in all runs; compare runs on one data set"
            )
    path, part = Path(path), data.test if "test" in data.splits else data
    name = str(data.card.get("name") or "custom data")
    sections = [_curves(runs), *_samples(runs, part, seed)]
    write_atomic(
        path,
        render(
            "comparison.html.jinja",
            title=f"{len(runs)} runs on {name}",
            colours=[f"s{place % len(SERIES)}" for place in range(len(runs))],
            runs=[(run.label, run.model.name) for run in runs],
            groups=_groups(runs, name),
            sections=sections,
            unlike=_unlike(runs),
            samples=f"{len(part):,}",
            version=metadata.version("polyvae"),
            citations=sorted({run.model.citation for run in runs}),
        ).encode(),
    )
    return path


def labels(paths: Sequence[Path]) -> list[str]:
    """Labels of runs: the shortest ends of their paths that differ. Raises InputError if a run is given twice."""
    parts = [path.resolve().parts for path in paths]
    for one in parts:
        if parts.count(one) > 1:
            raise InputError(f"report: got {Path(*one)} twice; expected different runs; give each once")
    length = next(
        n
        for n in range(1, max(len(one) for one in parts) + 1)
        if len({one[-n:] for one in parts}) == len(parts)
    )
    return ["/".join(one[-length:]) for one in parts]


# ---- the table -------------------------------------------------------------------------------------------------------------------


def _groups(runs: Sequence[Contender], data: str) -> list[tuple[str, list[Row]]]:
    names = [
        name
        for name in dict.fromkeys([*KNOWN, *(name for run in runs for name in run.evaluation)])
        if any(isinstance(run.evaluation.get(name), float) for run in runs)
    ]
    ends = [run.history[-1] if run.history else {} for run in runs]
    weights = [sum(parameter.numel() for parameter in run.model.parameters()) for run in runs]
    settings = [
        Row("model", [Cell(run.model.name) for run in runs]),
        Row("data", [Cell(data)] * len(runs)),
        *(
            Row(key, [Cell(value) for value in values])
            for key, values in differences([facts(run) for run in runs]).items()
        ),
    ]
    whole = "Up to the last completed epoch." + (f" –: {NO_HISTORY}" if not all(ends) else "")
    training = [
        Row("seconds of training", [_count(end.get("seconds")) for end in ends], whole),
        Row("steps", [_count(end.get("step")) for end in ends], whole),
        Row("parameters", [Cell(f"{count:,}", exact=str(count)) for count in weights]),
    ]
    groups = [("Settings", settings), ("Training", training), *_reached(names, runs)]
    accuracy = [run.evaluation.get("judge_accuracy") or {} for run in runs]
    kinds = [run.evaluation.get("judge_kind") or {} for run in runs]
    judges = [
        Row(
            f"judge of {name}",
            [
                _value(values.get(name))._replace(beside=kind.get(name, ""))
                for values, kind in zip(accuracy, kinds, strict=True)
            ],
        )
        for name in dict.fromkeys(name for values in accuracy for name in values)
    ]
    return [
        (title, rows)
        for title, rows in [*groups, ("Accuracy of the judges on real held-out images", judges)]
        if rows
    ]


def _reached(names: Sequence[str], runs: Sequence[Contender]) -> list[tuple[str, list[Row]]]:
    """The numbers by topic. Those of image quality are grouped by measure, and the meaning of each measure is given once."""
    kinds = {name: quality(name) for name in names}
    images = sorted((name for name in names if kinds[name]), key=lambda name: kinds[name] or "")
    latents = [name for name in names if name.startswith(("probe_", "active_units_", "kl_", "gradient_"))]
    errors = [
        name for name in names if name.startswith(("reconstruction_", "cross_reconstruction_", "diversity"))
    ]
    described: set[str | None] = set()
    rows = []
    for name in images:
        row = _measured(name, runs)
        rows.append(
            row._replace(meaning=row.meaning.removeprefix(metric(name).meaning).strip())
            if kinds[name] in described
            else row
        )
        described.add(kinds[name])
    first = [name for name in names if name not in {*images, *latents, *errors}]
    return [
        ("Generation and likelihood", [_measured(name, runs) for name in first]),
        ("Image quality", rows),
        ("Reconstruction and diversity", [_measured(name, runs) for name in errors]),
        ("Latents and gradients", [_measured(name, runs) for name in latents]),
    ]


def _measured(name: str, runs: Sequence[Contender]) -> Row:
    measured = [run.evaluation for run in runs if isinstance(run.evaluation.get(name), float)]
    known = metric(name, measured[0] if measured else None)
    values = [run.evaluation.get(name) for run in runs]
    marks = best([value if isinstance(value, float) else None for value in values], known.better)
    meaning = f"{known.meaning} Better: {known.better}.".strip() if known.better else known.meaning
    cells = [
        _value(value)._replace(
            best=mark, beside=" · ".join(worth(name, run.evaluation)) if isinstance(value, float) else ""
        )
        for run, value, mark in zip(runs, values, marks, strict=True)
    ]
    beside = {cell.beside for cell in cells if cell.exact}
    if len(beside) == 1:  # the same for all runs, so it is given once
        return Row(
            known.title,
            [cell._replace(beside="") for cell in cells],
            " ".join(part for part in (meaning, *beside) if part),
        )
    return Row(known.title, cells, meaning)


def _value(value: Any) -> Cell:
    return Cell(number(value), exact=repr(value)) if isinstance(value, float) else Cell(_NONE)


def _count(value: float | None) -> Cell:
    return Cell(_NONE) if value is None else Cell(f"{value:,.0f}", exact=repr(value))


def facts(run: Contender) -> dict[str, Any]:
    """Everything that may differ between runs, flat: options and modalities of the model, and the settings of training and data."""
    found = {f"model.{key}": value for key, value in run.model.options.items()}
    for spec in run.model.specs:
        found |= {
            f"modality.{spec.name}.{key}": value
            for key, value in describe_modality(spec).items()
            if key != "name"
        }
    return found | {
        key: value
        for section in ("data", "train")
        for key, value in _flat(section, run.settings.get(section, {}))
        if key not in ("data.name", "data.root")
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, value


def differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings that differ: key -> the value of each run, "–" where it has none.

    A field that differs in the same way for all modalities is one line, "modality.*".
    """
    keys = dict.fromkeys(key for one in settings for key in one)
    found = {
        key: [_text(one[key]) if one.get(key) is not None else _NONE for one in settings] for key in keys
    }
    found = {key: values for key, values in found.items() if len(set(values)) > 1}
    fields: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith("modality."):
            fields.setdefault(key.rpartition(".")[2], []).append(key)
    merged: dict[str, list[str]] = {}
    for key, values in found.items():
        like = fields.get(key.rpartition(".")[2], []) if key.startswith("modality.") else []
        if len(like) > 1 and all(found.get(other) == values for other in like):
            key = f"modality.*.{key.rpartition('.')[2]}"
        merged[key] = values
    return merged


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _unlike(runs: Sequence[Contender]) -> list[str]:
    """How the evaluations differ, in words. Numbers that were measured differently are not comparable."""
    lines = []
    conditions = {
        run.label: {key: run.evaluation.get(key) for key in _CONDITIONS}
        | {"log_likelihood_rows": (run.evaluation.get("log_likelihood_joint") or {}).get("rows")}
        for run in runs
    }
    for key in (*_CONDITIONS, "log_likelihood_rows"):
        having = [run for run in runs if conditions[run.label][key] is not None]
        settings = [
            {
                name: value
                for name, value in _flat(key, conditions[run.label][key])
                if name != "protocol.private_codes"
            }
            for run in having
        ]
        for name, values in differences(settings).items():
            text = "; ".join(f"{value} ({run.label})" for run, value in zip(having, values, strict=True))
            lines.append(f"{name.replace('_', ' ')}: {text}")
    return lines


# ---- curves and samples ----------------------------------------------------------------------------------------------------------


def _curves(runs: Sequence[Contender]) -> Section:
    """The bound, and what else was measured during training, over seconds and over steps."""
    title = "Training"
    panels: dict[str, list[Trace]] = {}
    for place, run in enumerate(runs):
        records = [record for record in run.history if "train" in record]
        kinds = [
            kind for kind in ("validation", "train") if records and all(kind in record for record in records)
        ]
        for kind in kinds:
            bounds = [{**record, "bound": record[kind]["bound"]} for record in records]
            panels.setdefault("bound", []).append(
                trace(place, run.label, bounds, "bound")._replace(faint=kind != kinds[0])
            )
    for name in curve_names([watched(run.history) for run in runs]):
        lines = [trace(place, run.label, watched(run.history), name) for place, run in enumerate(runs)]
        panels[metric(name).title] = [line for line in lines if line.values]
    if not panels:
        return Section("learning", title, f"Left out: {NO_HISTORY}")
    ends = "; ".join(
        f"{name}: "
        + ", ".join(f"{trace.label} {number(trace.values[-1])}" for trace in lines if not trace.faint)
        for name, lines in panels.items()
    )
    lead = "Left: over seconds of training, which depend on the machine and its load. Right: over steps."
    without = [run.label for run in runs if not run.history]
    lead += f" Without curves: {', '.join(without)}: {NO_HISTORY}" if without else ""
    caption = (
        "The bound, in nats per sample. Solid: on validation data; faint: on training data (solid if there are no validation data). Bounds "
        "of different objectives, K or β are different quantities, so only their shapes are comparable."
    )
    return Section(
        "learning",
        title,
        lead,
        [traces("learning", panels, f"Curves of each run. At the end, {ends}.", caption)],
    )


def _samples(runs: Sequence[Contender], part: MultimodalData, seed: int) -> list[Section]:
    scenes, shown = [], []
    for run in runs:
        training = run.model.training
        run.model.eval()
        try:
            with torch.no_grad():
                scenes.append(stage(run.model, part, run.prior, seed))
                shown.append(show(scenes[-1], run.label))
        finally:
            run.model.train(training)
    scene = max(scenes, key=lambda one: len(one.inputs))
    made = (
        _given_section(scene, scenes, shown),
        _fresh_section(scene, shown, "own"),
        _fresh_section(scene, shown, "fitted"),
    )
    return [section for section in made if section]


def _given_section(scene: Scene, scenes: Sequence[Scene], shown: Sequence[Shown]) -> Section:
    title = "Conditional generation"
    if not scene.inputs or not scene.targets or not any(run.given for run in shown):
        return Section(
            "beside",
            title,
            "Left out: no modality is observed, has an effect on others, and can be shown as a small picture.",
        )
    lead = "The generated modalities should agree with the observed one in what is shared, and vary in everything else."
    passing = [
        run.label for run, one in zip(shown, scenes, strict=True) if run.given and not one.model.shared
    ]
    if passing:
        lead += f" {', '.join(passing)}: no shared latent (D = 0); all information passes through the fitted prior."
    without = [run.label for run in shown if not run.given]
    if without:
        lead += (
            f" {', '.join(without)}: no shared latent (D = 0), so no information passes between modalities."
        )
    return Section("beside", title, lead, [beside(scene, shown)])


def _fresh_section(scene: Scene, shown: Sequence[Shown], prior: str) -> Section | None:
    """Draws from one kind of prior; None if no run has it, or if nothing can be shown."""
    having = [run.label for run in shown if prior in run.fresh]
    if not scene.targets or not having:
        return None
    lead = (
        "z is drawn from the prior of each model. Within a column, modalities should agree; along a row, draws should differ."
        if prior == "own"
        else "z, or all latents, are drawn from the distribution that was fitted after training."
    )
    without = [run.label for run in shown if run.label not in having]
    if without:
        lead += f" Not available for {', '.join(without)}."
    title = "Unconditional generation" if prior == "own" else "Unconditional generation with fitted priors"
    return Section(prior, title, lead, beside_fresh(scene, shown, prior), wide=False)

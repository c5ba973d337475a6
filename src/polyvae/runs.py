"""Runs from a configuration: data, model, training, evaluation and report. The commands and scripts call these functions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyvae.config import EvaluateConfig, RunConfig, assignment, check_options, read_config
from polyvae.core.batch import Batch
from polyvae.core.fitted import FITTED, FittedPrior
from polyvae.core.likelihoods import Text
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData, load_dataset
from polyvae.data.automatic import AUTO, changed, chosen
from polyvae.data.custom import is_import
from polyvae.metrics import Context, Evaluation, available, evaluate, judges_of
from polyvae.metrics.coherence import coherence
from polyvae.models import build, options_of
from polyvae.models.bundles import check_import, load_model
from polyvae.report import Contender, labels, write_comparison, write_report
from polyvae.training.directory import RunDirectory
from polyvae.training.history import History
from polyvae.training.loop import Watch, fit
from polyvae.training.store import check_trained_on
from polyvae.utils.devices import device_of
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.files import load_tensors, save_tensors, short, write_atomic
from polyvae.utils.progress import reporter
from polyvae.utils.records import StoredEvaluation
from polyvae.utils.seeds import fold_in

_LOOK = 2_000  # held-out samples, and unconditional draws, to measure coherence during training
DEMO = Path(__file__).with_name("cli") / "demo.toml"


def data_of(config: RunConfig, trust: Sequence[str] | None = None) -> tuple[MultimodalData, MultimodalData]:
    """The data set, and its training part with the fraction ``data.hide`` of the modalities hidden.

    ``trust``: the packages that may be imported for data that a function returns; None: any, because the caller wrote the configuration.
    """
    if config.data.name == "custom":
        raise InputError(
            "data: this run was trained on data given in Python, which cannot be loaded; expected the name of a data set; "
            "pass data= to evaluate_run or report_run of polyvae.runs, or call pv.evaluate(pv.load_model(run), data)"
        )
    if trust is not None and is_import(config.data.name):
        check_import("data.name", config.data.name, trust, "function")
    data = load_dataset(config.data.name, config.data.root, **config.data.options)
    data = data if config.data.only is None else data.select(*config.data.only)
    data = data if config.data.target is None else data.with_labels_as(config.data.target)
    train = data.train
    hidden = config.data.hide, config.data.hide_seed, config.data.hide_mechanism
    return data, train.hide(*hidden) if config.data.hide else train


def modalities_of(config: RunConfig, data: MultimodalData) -> list[Modality]:
    """The modalities of the data with the changes of the ``[[modality]]`` tables; the name "*" changes all."""
    specs = {spec.name: spec for spec in data.modalities()}
    for table in config.modality:
        if table.name != "*" and table.name not in specs:
            raise InputError(
                f"modality.{table.name}: not in data set {config.data.name!r}; {nearest(table.name, specs)}"
            )
        for name in specs if table.name == "*" else [table.name]:
            specs[name] = changed(data, specs[name], table.changes, alone=table.name != "*")
    return data.resolved(list(specs.values()))


def model_of(config: RunConfig, data: MultimodalData) -> MultimodalVAE:
    """The untrained model, which depends on the configuration alone."""
    check_options(config.model.name, config.model.options, options_of(config.model.name))
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(config.train.seed, "initial weights"))
        return build(config.model.name, modalities_of(config, data), **config.model.options)


def train_run(
    config: RunConfig, out: str | Path, *, resume: bool = False, force: bool = False, show: bool = True
) -> History:
    """Train a model into the run directory ``out``.

    Raises InputError before training, also if the evaluation that is configured is not possible.
    """
    available(config.evaluate)
    data, train = data_of(config)
    model = model_of(config, data)
    if any(table.likelihood == AUTO for table in config.modality):
        with reporter(show) as report:
            for net in model.modalities.values():
                report.say(chosen(data, net.spec))
    return fit(
        model,
        train,
        out=out,
        resume=resume,
        force=force,
        show=show,
        run=config,
        watch=_curve(config, data, show),
    )


def _curve(config: RunConfig, data: MultimodalData, show: bool) -> Watch | None:
    """Measures coherence every ``evaluate.curve_seconds`` of training, with judges that are trained before.

    None if it is not requested, or, after reporting why, if there can be no judges.
    """
    every = config.evaluate.curve_seconds
    if every is None:
        return None
    with reporter(show) as report:
        judges = judges_of(data, report.say)
    if judges is None:
        return None
    last = 0.0
    held_out = data.test.rows(slice(0, _LOOK))
    settings = EvaluateConfig(seed=config.evaluate.seed, draws=_LOOK, inputs=1)

    def look(model: MultimodalVAE, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
        nonlocal last
        if record["seconds"] - last < every:
            return None
        last = record["seconds"]
        found = coherence(Context(model, held_out, settings, judges))
        return {name: value for name, value in found.items() if isinstance(value, float)}

    return look


def evaluate_run(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    show: bool = True,
    trust: Sequence[str] = (),
    data: MultimodalData | None = None,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Evaluate a trained run on the test part; write ``evaluation.json`` and ``fitted_prior.safetensors``.

    ``overrides`` changes settings of the evaluation. ``trust``: see ``load_model``. ``data``: the data that the run was trained on, where
    they were given in Python; raises InputError if they are others. ``device``: where to compute.
    """
    run, config = open_run(path)
    model = load_model(run.path, trust, device)
    if config.train.max_rows is not None:
        model.max_rows = config.train.max_rows  # memory that training did not have, evaluation does not have
    data, train = _handed(run, model, config, data, trust)
    settings = EvaluateConfig.check(config.evaluate.model_dump() | dict(overrides or {}), "evaluate")
    result = evaluate(model, data, train=train, show=show, **settings.model_dump())
    run.write_json(
        "evaluation.json", dict(result) | {"settings": settings.model_dump(exclude={"curve_seconds"})}
    )
    if result.prior is not None:
        save_tensors(run.fitted_prior, result.prior.cpu().state_dict(), result.prior.settings)
    return result


def report_run(
    path: str | Path,
    trust: Sequence[str] = (),
    data: MultimodalData | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Write ``report.html`` of the run, with its evaluation if there is one; also of a run of ``polyvae fit``.

    ``data`` and ``device``: see ``evaluate_run``; a run of ``polyvae fit`` needs none.
    """
    device_of("report", device)
    if (Path(path) / "fit.json").is_file() and not (Path(path) / "config.toml").exists():
        from polyvae.imputation.files.runs import open_fitted  # seconds of import
        from polyvae.report.cohort import write_fit_report

        return write_fit_report(open_fitted(Path(path)))
    run, config = open_run(path)
    evaluation = stored_evaluation(run)
    run.read_history()  # before the data are read
    model, prior = load_model(run.path, trust, device), fitted_prior(run)
    data, _ = _handed(run, model, config, data, trust)
    with reading(
        f"{run.path}: evaluation.json or history.jsonl",
        "what polyvae wrote for this model",
        f"write it again with: polyvae evaluate {run.path}",
    ):
        return write_report(run, model, data, evaluation, prior=prior, command=config.command)


def _handed(
    run: RunDirectory,
    model: MultimodalVAE,
    config: RunConfig,
    data: MultimodalData | None,
    trust: Sequence[str],
) -> tuple[MultimodalData, MultimodalData | None]:
    """The data of a run and its training part: loaded, or those that are given if the run was trained on them."""
    if data is None:
        return data_of(config, trust)
    check_trained_on(run, model, data, config.train)
    return data, data.train if "train" in data.splits else None


def compare_runs(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    trust: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Path:
    """Write one page that compares runs on one data set; by default ``comparison.html`` next to the first run.

    Raises InputError if a run is given twice, or if the data differ, because then the numbers are not comparable.
    """
    opened = [open_run(path) for path in paths]
    (first, config), names = opened[0], labels([run.path for run, _ in opened])
    for run, other in opened[1:]:
        if _shown(other) != _shown(config):
            raise InputError(
                f"report: got {first.path} on {_named(config)} and {run.path} on {_named(other)}; expected runs on one data "
                "set; compare runs with the same data"
            )
    data, _ = data_of(config, trust)
    contenders = [
        Contender(
            name,
            load_model(run.path, trust, device),
            config.model_dump(),
            stored_evaluation(run) or {},
            run.read_history(),
            fitted_prior(run),
        )
        for name, (run, config) in zip(names, opened, strict=True)
    ]
    with reading(
        f"report: evaluation.json or history.jsonl of {', '.join(names)}",
        "what polyvae wrote for these models",
        "report each run alone to find the damaged file, and evaluate it again",
    ):
        return write_comparison(
            first.path.resolve().parent / "comparison.html" if out is None else out, contenders, data
        )


def write_sentences(
    path: Path, model: MultimodalVAE, made: Mapping[str, Tensor], given: Batch | None = None
) -> int:
    """Write what was generated of text modalities, name -> [n, L] or [K, n, L], as a table with a row for each sentence.

    If sentences are observed in ``given``, the column "given" has those of each sample. Returns the number of sentences; without any
    there is no file.
    """
    rows = []
    for name, x in made.items():
        likelihood = model.modalities[name].likelihood
        if isinstance(likelihood, Text):
            draws = likelihood.vocabulary.decode((x if x.ndim == 3 else x[None]).cpu().numpy())
            rows += [(name, k, n, one) for k, draw in enumerate(draws) for n, one in enumerate(draw)]
    if rows:
        inputs = [] if given is None else _given_sentences(model, given)
        head = ("modality", "draw", "sample", "sentence", *(["given"] if inputs else []))
        table = io.StringIO(newline="")
        csv.writer(table).writerows([head, *((*row, *inputs[row[2] : row[2] + 1]) for row in rows)])
        write_atomic(path, table.getvalue().encode())
    return len(rows)


def _given_sentences(model: MultimodalVAE, batch: Batch) -> list[str]:
    """The observed sentences of each sample, empty where there are none; no rows if no sentence is observed."""
    said: list[list[str]] = [[] for _ in range(batch.size)]
    for m, name in enumerate(batch.names):
        likelihood = model.modalities[name].likelihood
        if isinstance(likelihood, Text):
            rows = batch.mask[m].nonzero().flatten().tolist()
            for row, one in zip(
                rows, likelihood.vocabulary.decode(batch.data[name][rows].cpu().numpy()), strict=True
            ):
                said[row].append(one)
    return [" / ".join(own) for own in said] if any(said) else []


def stored_evaluation(run: RunDirectory) -> dict[str, Any] | None:
    """The contents of evaluation.json; None if there is none. Raises InputError: they are not what ``evaluate_run`` writes."""
    if not run.evaluation.exists():
        return None
    found = run.read_json("evaluation.json")
    StoredEvaluation.check(found, str(run.evaluation), f"write it again with: polyvae evaluate {run.path}")
    return found


def open_run(path: str | Path) -> tuple[RunDirectory, RunConfig]:
    """An existing, trained run and its configuration."""
    run = RunDirectory.open(path)
    if not run.model.exists():
        raise InputError(
            f"{run.path}: the run has no trained model yet; expected model.safetensors; "
            f"resume with: polyvae train --resume --out {run.path}"
        )
    return run, read_config(run.config)


def stored_config(path: str | Path, changes: Sequence[str] = (), trust: Sequence[str] = ()) -> RunConfig:
    """The configuration of the run to resume, with ``changes`` such as "train.epochs=5".

    Raises InputError, before any code is imported, for an import path that is not in ``changes``, not of a package in ``trust``, and not
    part of polyvae.
    """
    run = RunDirectory.open(path)
    config, typed = read_config(run.config, changes), dict(assignment(text) for text in changes)
    for key, given in imports_of(config):
        if typed.get(key) != given:
            what = {"model.name": "Class", "data.name": "function"}.get(
                key, "likelihood" if key.endswith(".likelihood") else "factory"
            )
            check_import(f"{run.config}: {key}", given, trust, what)
    return config


def imports_of(config: RunConfig) -> list[tuple[str, str]]:
    """The import paths in a configuration, each with its dotted key."""
    given = [("model.name", config.model.name)]
    given += [("data.name", config.data.name)] if is_import(config.data.name) else []
    given += [
        (f"modality.{table.name}.{side}", value)
        for table in config.modality
        for side, value in table.changes.items()
        if side in ("likelihood", "encoder", "decoder")
    ]
    return [(key, value) for key, value in given if ":" in value]


def fitted_prior(run: RunDirectory) -> FittedPrior | None:
    """The fitted prior of the run, or None. Raises InputError if the file is damaged, incomplete, or of an unknown kind."""
    if not run.fitted_prior.exists():
        return None
    tensors, settings = load_tensors(run.fitted_prior)
    kind = settings.get("kind", "gmm")
    if not isinstance(kind, str) or kind not in FITTED:
        raise InputError(
            f"{run.fitted_prior}: unknown kind of fitted prior {short(repr(kind), 80)}; {nearest(str(kind)[:80], FITTED)}; "
            f"fit it again with: polyvae evaluate {run.path}"
        )
    try:
        with reading(
            "fitted prior", "one that polyvae wrote", f"fit it again with: polyvae evaluate {run.path}"
        ):
            return FITTED[kind].restore(settings, tensors)
    except InputError as problem:
        raise InputError(f"{run.fitted_prior}: {problem}") from problem.__cause__


def _named(config: RunConfig) -> str:
    """The data set in an error message."""
    name, *rest = _shown(config)
    return " ".join([str(name), *(str(part) for part in rest if part)])


def _shown(config: RunConfig) -> tuple[Any, ...]:
    """The settings that identify the data of a run."""
    return config.data.name, config.data.options, config.data.only, config.data.target

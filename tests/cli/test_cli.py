"""The command line: what it prints, what it writes, and one clear line when something is wrong."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import signal
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae import runs
from polyvae.cli import main
from polyvae.config import read_config
from polyvae.core.fitted import FittedMixture
from polyvae.models import model_class, options_of
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import save_tensors
from tests.helpers.cli import SMALL, polyvae, train_judges_briefly
from tests.helpers.processes import command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = polyvae(
        "train",
        "--model",
        "mmvae+",
        "--data",
        "polydigits",
        "--hide",
        "0.5",
        "--epochs",
        "1",
        "--out",
        out,
        "--set",
        "model.latent=4",
        "-q",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_directory_holds_what_the_design_says(run: Path) -> None:
    names = {entry.name for entry in run.iterdir()}
    assert {"config.toml", "model.safetensors", "checkpoints", "history.jsonl"} <= names
    config = read_config(run / "config.toml")
    assert (config.model.name, config.data.hide, config.train.epochs, config.train.batch_size) == (
        "mmvae+",
        0.5,
        1,
        500,
    )
    assert len(RunDirectory(run).read_history()) == 1


def test_a_finished_run_that_is_resumed_has_nothing_left_to_do(run: Path) -> None:
    before = {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "config.toml"
    }
    done = polyvae("train", "--resume", "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing was left to do (done, step ")
    assert "no step was left to take" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_evaluate_sample_and_report_follow(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_judges_briefly(monkeypatch, tmp_path)
    done = polyvae(
        "evaluate",
        run,
        "-q",
        "--set",
        "evaluate.likelihood_rows=5",
        "--set",
        "evaluate.likelihood_samples=50",
        "--set",
        "evaluate.draws=500",
        "--set",
        "evaluate.fitted_prior.latents=all",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluation.json").read_text())
    for name in (
        "conditional_coherence",
        "conditional_coherence_fitted",
        "unconditional_coherence",
        "unconditional_coherence_fitted",
        "judge_agreement",
    ):
        assert isinstance(found[name], float)
        assert f"{found[name]:.3f}" in done.stdout
    effective = found["log_likelihood_joint"]["effective_samples"]
    assert f"effective samples {effective:.1f} of 50" in " ".join(done.stdout.replace("│", "").split())
    assert set(found["judge_accuracy"]) == {"m0", "m1", "m2"}
    assert min(found["judge_accuracy"].values()) >= 0.95
    rows = [value for row in found["coherence_matrix"].values() for value in row.values()]
    assert found["conditional_coherence"] == pytest.approx(sum(rows) / 6)
    assert len(rows) == 6

    for words, shape in (
        ((), (7, 3, 16, 16)),
        (("--prior", "fitted"), (7, 3, 16, 16)),
        (("--given", "m1", "-k", "2"), (2, 7, 3, 16, 16)),
        (("--given", "m1", "--prior", "fitted"), (1, 7, 3, 16, 16)),
    ):
        done = polyvae("sample", run, "-n", "7", "-o", tmp_path / "new.npz", *words)
        assert done.returncode == 0, done.stderr
        assert {name: x.shape for name, x in np.load(tmp_path / "new.npz").items()} == {
            f"m{m}": shape for m in range(3)
        }

    done = polyvae("report", run)
    assert done.returncode == 0, done.stderr
    assert f"{found['conditional_coherence']:.3f}"[1:] in (run / "report.html").read_text()

    only_z = FittedMixture.fit(torch.randn(20, 4), 2)
    save_tensors(RunDirectory(run).fitted_prior, only_z.state_dict(), only_z.settings)
    done = polyvae("sample", run, "--given", "m1", "--prior", "fitted", "-o", tmp_path / "new.npz")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is over z alone; expected one over all latents" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--model", "mmvaee"], "did you mean 'mmvae'?"),
        (["train", "--data", "polydigit"], "did you mean 'polydigits'?"),
        (["train", "--set", "train.epohcs=3"], "did you mean 'epochs'?"),
        (["train", "--set", "model.latnt=3"], "did you mean 'latent'?"),
        (["train", "--set", "modality.m7.private=3"], "'m"),
        (["train", "missing.toml"], "missing.toml: no such file"),
        (["train", "--epochs", "many"], "'--epochs'"),
        (["train", "--set", "evaluate.features=inception"], "expected 'judges', 'inception:PATH'"),
        (["train", "--set", "evaluate.features=inception:no.pth"], "no.pth: no such file"),
        (["train", "--set", 'evaluate.metrics=["coherense"]'], "did you mean 'coherence'?"),
        (["train", "--resume", "--out", "nowhere"], "nowhere: no such run"),
        (["evaluate", "nowhere"], "nowhere: no such run"),
        (["report", "nowhere"], "nowhere: no such run"),
        (["models", "mmvae++"], "did you mean 'mmvae+'?"),
        (["trian"], "trian"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(words: list[str], says: str, tmp_path: Path) -> None:
    done = polyvae(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "given", "names", "remedy"),
    [
        ("meme", [], ["data.only", "data.select("], ["data.only=['m0', 'm3']"]),
        ("bivcca", [], ["data.only", "data.select("], ["data.only=['m0', 'm3']"]),
        (
            "vcca-private",
            ["data.only=['m0']"],
            ["data.target", "data.with_labels_as("],
            ["data.target=digit"],
        ),
        (
            "mmvae-contrastive",
            ["data.only=['m0']"],
            ["data.target", "data.with_labels_as("],
            ["data.target=digit"],
        ),
        (
            "deepimv",
            [],
            ["data.target", "[[modality]]"],
            ["data.target=digit", "modality.*.role=source", "modality.digit.role=target"],
        ),
        (
            "deepimv",
            ["modality.*.role=source"],
            ["data.target", "data.with_labels_as("],
            ["data.target=digit", "modality.digit.role=target"],
        ),
        (
            "deepimv",
            ["modality.*.role=source", "data.target=digit"],
            ["'digit'", "[[modality]]"],
            ["modality.digit.role=target"],
        ),
    ],
)
def test_what_an_error_about_modalities_names_is_the_remedy(
    model: str,
    given: list[str],
    names: list[str],
    remedy: list[str],
    tmp_path: Path,
) -> None:
    small = [
        f"model.name={model}",
        "data.options.train=50",
        "data.options.test=20",
        "modality.*.params={hidden = [5]}",
        *given,
    ]
    done = polyvae("train", *[word for change in small for word in ("--set", change)], cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert all(name in done.stderr for name in names)
    config = read_config(None, [*small, *remedy])
    assert runs.model_of(config, runs.data_of(config)[0]).name == model


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "x.csv"], "ends in .npz"),
        (["-k", "3"], "without --given"),
        (["--given", "m1", "-n", "3000"], "at most 200"),
        (["--given", "m9"], "known: m0, m1, m2"),
        (["--prior", "other"], "expected 'own' or 'fitted'"),
    ],
)
def test_samples_that_cannot_be_made_are_refused_in_one_line(run: Path, words: list[str], says: str) -> None:
    done = polyvae("sample", run, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr


def test_data_that_are_not_here_say_how_to_point_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYVAE_DATA", raising=False)
    done = polyvae("train", "--data", "polymnist", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "or the archive polymnist/MMNIST; pass root= (--set data.root=FOLDER on the command line) or set POLYVAE_DATA"
        in done.stderr
    )


def test_an_existing_run_is_kept_and_debug_shows_the_traceback(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = polyvae("train", "--out", run, "--debug")
    assert done.returncode == 2
    assert "--force replaces it" in done.stderr.splitlines()[-1]
    assert "Traceback" in done.stderr
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_truncated_bundle_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((run / "config.toml").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-100])
    done = polyvae("evaluate", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "model.safetensors" in done.stderr


def test_models_prints_one_tab_separated_line_each() -> None:
    """Piped: six fields, none empty, none cut short, no header, no borders; what they say is what the class says."""
    text = polyvae("models").stdout
    rows = [line.split("\t") for line in text.split("\n")[:-1]]
    assert text.endswith("\n")
    assert [row[0] for row in rows] == list(pv.MODELS)
    for name, citation, codes, missing, facts, needs in rows:
        kind = pv.MODELS[name]
        assert (citation, codes, missing, needs) == (
            kind.citation,
            kind.private_latents,
            kind.requires.missing,
            kind.requires.text or "-",
        )
        assert facts.split(", ") == [
            word
            for word in ("bound", "density", "per sample", "nested", "symmetric")
            if kind.facts._asdict()[word.replace(" ", "_")]
        ]
        for field in (name, citation, codes, missing, facts, needs):
            assert field == " ".join(field.split())
            assert field
            assert not set(field) & set("│┃|…")
    assert len({row[1] for row in rows}) > 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["models", "datasets"])
@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_folds_everything_but_names_and_cuts_nothing(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stdout(Terminal()) as shown, pytest.raises(SystemExit):
        main([command])
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue()).splitlines()
    assert {len(line) for line in lines} == {width}
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if cells[0]:  # a name stands in one line
                rows.append(cells)
            else:
                rows[-1] = [before + cell for before, cell in zip(rows[-1], cells, strict=True)]
    piped = [line.split("\t") for line in polyvae(command).stdout.splitlines()]
    assert [row[0] for row in rows] == [row[0] for row in piped]
    assert [[cell.replace(" ", "") for cell in row] for row in rows] == [
        [cell.replace(" ", "") for cell in row] for row in piped
    ]


@pytest.mark.parametrize("name", ["mmvae+", "nexus", "meme", "u-hved", "polyvae.models.mopoe:MoPoE"])
def test_models_name_prints_the_formula_what_the_class_says_of_itself_and_every_option_with_its_default(
    name: str,
) -> None:
    kind = model_class(name)
    text = polyvae("models", name).stdout
    docstring = inspect.getdoc(kind)
    assert docstring
    assert text.startswith(docstring)
    told, _, options = text.removeprefix(docstring).partition(
        "options, as [model] in a TOML file or --set model.NAME=VALUE"
    )
    said = dict(re.split(r"  +", line, maxsplit=1) for line in told.strip().splitlines() if "  " in line)
    facts = kind.facts._asdict()
    assert (said["citation"], said["private latents"], said["missing data"], said["needs"]) == (
        kind.citation,
        kind.private_latents,
        kind.requires.missing,
        kind.requires.text or "-",
    )
    for word in ("bound", "density", "per_sample", "nested", "symmetric"):
        assert said[word.replace("_", " ")].split()[0] == ("yes" if facts[word] else "no")
    lines = options.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(options_of(name))
    for line in lines:  # as a TOML file would say it
        default = inspect.signature(kind).parameters[line.split()[0]].default
        given = tomllib.loads(line) if default is not None else {line.removesuffix("(not set)").strip(): None}
        assert given == {line.split()[0]: list(default) if isinstance(default, tuple) else default}


def test_datasets_prints_one_tab_separated_line_each() -> None:
    rows = [line.split("\t") for line in polyvae("datasets").stdout.splitlines()]
    assert [row[0] for row in rows] == list(pv.DATASETS)
    assert {len(row) for row in rows} == {6}
    assert all(field == " ".join(field.split()).rstrip(",;") and field for row in rows for field in row)


def test_version_and_help_answer() -> None:
    assert polyvae("--version").stdout == f"polyvae {pv.__version__}\n"
    for name in ("demo", "train", "evaluate", "sample", "report", "models", "datasets"):
        text = polyvae(name, "--help").stdout
        assert "Example" in text
        assert f"polyvae {name}" in " ".join(text.split())
        # Flags take no value. That of --help itself is typer's.
        assert "<bool>" not in "".join(line for line in text.splitlines() if "--help" not in line)


def test_ctrl_c_keeps_a_checkpoint_that_resume_continues(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "--epochs", "1000000", "--out", out, "--set", "train.checkpoint_every=100000", *SMALL)
    with command(*words, errors=tmp_path / "errors") as process:
        end = time.monotonic() + 90
        while not (out / "history.jsonl").exists() and process.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
    said = (tmp_path / "errors").read_text()
    assert process.exitcode == 130, said
    assert f"resume with: polyvae train --resume --out {out}" in said
    steps = [path.name for path in (out / "checkpoints").glob("step-*")]
    assert max(steps) > "step-000000000.safetensors"
    done = polyvae("train", "--resume", "--out", out, "--epochs", "1", "-q")
    assert done.returncode == 0, done.stderr

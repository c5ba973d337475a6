"""The comparison page: every number is its run's own, the best of a row is the best, and what cannot be compared is said."""

from __future__ import annotations

import json
import re

import pytest
import torch

from polyvae.cli import main
from polyvae.config import DataConfig, ModelConfig, RunConfig, write_config
from polyvae.core.fitted import FittedMixture
from polyvae.data import load_dataset
from polyvae.models import build
from polyvae.models.bundles import save_model
from polyvae.report import Contender, labels, number, write_comparison
from polyvae.report.compare import differences
from polyvae.report.metrics import best, metric
from polyvae.runs import model_of
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError
from tests.helpers.pages import Elements, small_evaluation, vectors

NAMES = ("first", "second", "third & <b>last</b>")


def contender(place, name, **options):
    torch.manual_seed(0)
    model = build(name, vectors().modalities(), latent=2, **options)
    evaluation = small_evaluation(("a", "b")) | {
        "conditional_coherence": (0.8125, 0.7512, 0.8124)[place],
        "unconditional_frechet_distance": (31.25, 7.5, 8.125)[place],
        "log_likelihood": (-1234.5, -99.75, -100.25)[place],
        "judge_kind": {"a": "released", "b": "trained"},
    }
    if place == 2:
        del evaluation["log_likelihood"], evaluation["unconditional_coherence_fitted"]
    history = [
        {
            "step": 10 * n,
            "epoch": n,
            "seconds": 1.5 * n,
            "train": {"bound": -50.0 / n},
            "validation": {"bound": -60.0 / n},
        }
        for n in range(1, 4 + place)
    ]
    history[-1]["watched"] = {"conditional_coherence": 0.5 + place / 8}
    settings = {
        "data": {"name": "vectors", "root": f"/elsewhere/{place}"},
        "train": {"lr": (1e-3, 1e-3, 5e-4)[place], "epochs": 9},
    }
    prior = FittedMixture.fit(torch.randn(64, 2), 3) if place == 0 else None
    return Contender(NAMES[place], model, settings, evaluation, history, prior)


@pytest.fixture(scope="module")
def runs():
    return [contender(0, "mmvae+"), contender(1, "mmvae+", beta=2.0), contender(2, "vae")]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    state = torch.get_rng_state()
    runs[1].model.train()
    path = write_comparison(tmp_path_factory.mktemp("page") / "comparison.html", runs, vectors(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [run.model.training for run in runs] == [True, True, True]
    return path


def table(page):
    """Title of a row -> its cells: text, the exact number, and whether it is marked as the best."""
    html = page.read_text("utf-8")
    rows = re.findall(r'<tr><th scope="row">(.*?)(?:<small>.*?</small>)?</th>(.*?)</tr>', html, re.DOTALL)
    cells = {title: re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for title, row in rows}
    assert len(cells) == len(rows)
    return {
        title: [
            (
                " ".join(Elements(cell.partition("<small>")[0]).words.split()),
                *re.findall(r'<data value="(.*?)"', cell),
                "<strong>" in cell,
            )
            for cell in row
        ]
        for title, row in cells.items()
    }


def test_every_number_is_its_runs_own(page, runs):
    """Shown as on a run's own page, with all its digits behind it; a dash where a run has none."""
    rows = table(page)
    for name in runs[0].evaluation:
        if isinstance(runs[0].evaluation[name], float):
            title = metric(name).title.replace("… with the", f"{metric(name.removesuffix('_fitted')).title},")
            values = [run.evaluation.get(name) for run in runs]
            assert [cell[0] for cell in rows[title]] == [
                "–" if value is None else number(value) for value in values
            ], name
            assert [cell[1] for cell in rows[title] if len(cell) == 3] == [
                repr(value) for value in values if value is not None
            ], name
    assert [cell[0] for cell in rows["seconds of training"]] == ["4", "6", "8"]
    assert [cell[1] for cell in rows["seconds of training"]] == ["4.5", "6.0", "7.5"]
    assert [cell[1] for cell in rows["parameters"]] == [
        str(sum(p.numel() for p in run.model.parameters())) for run in runs
    ]


def test_the_best_of_a_row_is_marked(page):
    marked = {title: [cell[-1] for cell in row] for title, row in table(page).items()}
    assert marked["conditional coherence"] == [True, False, False]
    assert marked["Fréchet distance, unconditional"] == [False, True, False]  # less is better
    assert marked["log-likelihood"] == [False, True, False]
    assert marked["unconditional coherence"] == [False] * 3  # all the same
    assert marked["judges agree on real data"] == [False] * 3  # none of the model's
    assert marked["parameters"] == [False] * 3


@pytest.mark.parametrize(
    ("values", "better", "marks"),
    [
        ([1.0, 2.0, 2.0], "higher", [False, True, True]),
        ([1.0, None, 2.0], "lower", [True, False, False]),
        ([1.0, float("nan")], "lower", [False, False]),
        ([1.0, 2.0], "", [False, False]),
    ],
)
def test_best(values, better, marks):
    assert best(values, better) == marks


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("unconditional_coherence_fitted", "higher"),
        ("conditional_kernel_distance", "lower"),
        ("unconditional_fid_fitted", "lower"),
        ("conditional_recall", "higher"),
        ("unconditional_density", ""),
        ("real_fid", ""),
        ("cross_reconstruction_error_relative", "lower"),
        ("diversity", ""),
        ("probe_z_shared", "higher"),
        ("probe_w_shared", "lower"),
        ("probe_z_private", "lower"),
        ("probe_w_private", "higher"),
        ("kl_z", ""),
        ("gradient_conflict", ""),
        ("unconditional_entropy", ""),
        ("log_likelihood_conditional", "higher"),
        ("something_new", ""),
    ],
)
def test_which_way_is_better(name, better):
    assert metric(name).better == better


def test_options_that_differ_are_listed_and_no_others(page):
    rows = {title: [cell[0] for cell in row] for title, row in table(page).items()}
    assert rows["model"] == ["mmvae+", "mmvae+", "vae"]
    assert rows["data"] == ["vectors"] * 3
    assert rows["model.beta"] == ["1.0", "2.0", "1.0"]
    assert rows["train.lr"] == ["0.001", "0.001", "0.0005"]
    assert not {"train.epochs", "data.root", "model.latent"} & rows.keys()  # the same; a path; the same


def test_what_differs_in_all_modalities_alike_is_one_line():
    one = {
        "modality.a.private": 2,
        "modality.b.private": 2,
        "modality.a.likelihood": "normal",
        "modality.b.likelihood": "normal",
    }
    other = {
        "modality.a.private": 4,
        "modality.b.private": 4,
        "modality.a.likelihood": "laplace",
        "modality.b.likelihood": "normal",
    }
    assert differences([one, other]) == {
        "modality.*.private": ["2", "4"],
        "modality.a.likelihood": ["normal", "laplace"],
    }
    assert differences([{"x": None}, {"x": 1}, {}]) == {"x": ["–", "1", "–"]}
    assert differences([{"x": [1, 2]}, {"x": [1, 2]}]) == {}


def test_the_page_asks_for_nothing_from_outside(page):
    html = page.read_text("utf-8")
    found = Elements(html)
    assert not {"link", "script", "iframe", "object", "embed", "base", "b"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(key, "#")), attributes
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(found.ids) == len(set(found.ids))
    assert NAMES[2] in found.words  # a name cannot become markup
    assert not list(page.parent.glob("*/"))  # nothing beside the page


def test_equal_inputs_give_equal_bytes(page, runs, tmp_path):
    torch.rand(5)
    again = write_comparison(tmp_path / "again.html", runs, vectors().test, seed=3)
    assert again.read_bytes() == page.read_bytes()
    assert (
        write_comparison(tmp_path / "other.html", runs, vectors(), seed=4).read_bytes() != page.read_bytes()
    )


def test_what_was_not_measured_alike_and_what_is_missing_is_said(page, runs, tmp_path):
    words = Elements(page.read_text("utf-8")).words
    assert "These runs were evaluated with different settings" not in words
    assert f"{NAMES[2]}: no shared latent (D = 0), so no information passes between modalities" in words
    assert f"Not available for {NAMES[1]}, {NAMES[2]}" in words  # the fitted prior
    assert words.count("judges (1 released, 1 trained) on real images 0.975, weakest 0.970") == 4
    one, other = (
        Contender(
            name,
            runs[0].model,
            evaluation=runs[0].evaluation | {"rows": rows, "protocol": {"name": protocol}},
        )
        for name, rows, protocol in (("first", 32, "sound"), ("other", 31, "published"))
    )
    few, many = (
        Contender(
            str(rows),
            runs[0].model,
            evaluation=runs[0].evaluation
            | {"log_likelihood_joint": runs[0].evaluation["log_likelihood_joint"] | {"rows": rows}},
        )
        for rows in (100, 200)
    )
    unlike = Elements(
        write_comparison(tmp_path / "page.html", [few, many], vectors()).read_text("utf-8")
    ).words
    assert "log likelihood rows: 100 (100); 200 (200)" in unlike
    third = Contender("third", runs[0].model, evaluation={"rows": 32})
    unlike = Elements(
        write_comparison(tmp_path / "page.html", [one, other, third], vectors()).read_text("utf-8")
    ).words
    assert "rows: 32 (first); 31 (other); 32 (third)" in unlike
    assert "protocol.name: sound (first); published (other)" in unlike


def test_the_curves_end_where_the_runs_do(page):
    alt = [
        attributes["aria-label"] for tag, attributes in Elements(page.read_text("utf-8")).tags if tag == "svg"
    ]
    curve = next(text for text in alt if text.startswith("Curves"))
    ends = ", ".join(f"{name} {number(-60 / n)}" for name, n in zip(NAMES, (3, 4, 5), strict=True))
    assert f"bound: {ends}" in curve
    assert f"conditional coherence: {NAMES[0]} 0.500, {NAMES[1]} 0.625, {NAMES[2]} 0.750" in curve


def test_runs_without_history_or_evaluation_make_a_page(runs, tmp_path):
    page = write_comparison(
        tmp_path / "page.html", [Contender(name, runs[0].model) for name in ("a", "b")], vectors(labels=None)
    )
    rows = table(page)
    assert [cell[0] for cell in rows["steps"]] == ["–", "–"]
    assert (
        "Left out: training ended within the first epoch, and the history is written at the end of each epoch."
        in Elements(page.read_text("utf-8")).words
    )
    page = write_comparison(
        tmp_path / "page.html", [runs[0], Contender("short", runs[0].model)], vectors(labels=None)
    )
    words = Elements(page.read_text("utf-8")).words
    assert "Without curves: short: training ended within the first epoch" in words
    assert "Up to the last completed epoch. –: training ended within the first epoch" in words


def run_on(folder, data, **options):
    run = RunDirectory.create(folder)
    run.write_text("config.toml", write_config(RunConfig(data=DataConfig(name=data, options=options))))
    run.write_text("model.safetensors", "")
    return folder


def test_what_cannot_be_compared_is_one_line(runs, tmp_path, capsys):
    one, two, three = (
        run_on(tmp_path / "one", "polydigits"),
        run_on(tmp_path / "two", "polydigits", seed=1),
        tmp_path / "three",
    )
    for words, said in (
        (
            [one, two],
            f"{one} on polydigits and {two} on polydigits {{'seed': 1}}; expected runs on one data set",
        ),
        ([one, one], "twice; expected different runs"),
        ([one, three], f"{three}: no such run"),
        ([one, "-o", "x.html"], "with one run; expected two or more"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["report", *map(str, words)])
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n")) == (2, 1), error
        assert said in error
    other = Contender("c", build("vae", vectors(("a", "c")).modalities(), latent=2))
    with pytest.raises(InputError, match="expected the same in all runs"):
        write_comparison(tmp_path / "x.html", [runs[0], other], vectors())
    with pytest.raises(InputError, match="expected two or more, each once"):
        write_comparison(tmp_path / "x.html", [runs[0], runs[0]], vectors())
    assert not (tmp_path / "x.html").exists()


def test_runs_are_called_by_as_little_of_their_paths_as_tells_them_apart(tmp_path):
    paths = [tmp_path / "x" / "mine", tmp_path / "y" / "mine", tmp_path / "y" / "other"]
    assert labels(paths) == ["x/mine", "y/mine", "y/other"]
    assert labels(paths[1:]) == ["mine", "other"]


def test_two_runs_are_compared_from_the_command_line(tmp_path, capsys):
    """The page stands beside the first run, and says what evaluation.json says."""
    options = {"train": 20, "test": 10}
    for place, name in enumerate(("one", "two")):
        config = RunConfig(
            data=DataConfig(name="polydigits", options=options),
            model=ModelConfig(name="mvae", latent=2 + place),
        )
        run = RunDirectory.create(tmp_path / name)
        run.write_text("config.toml", write_config(config))
        save_model(model_of(config, load_dataset("polydigits", **options)), run.model)
        run.write_text(
            "evaluation.json",
            json.dumps({"model": "mvae", "rows": 10, "seed": 0, "conditional_coherence": 0.25 + place / 8}),
        )
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "one"), str(tmp_path / "two")])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"written: {tmp_path / 'comparison.html'}"
    rows = table(tmp_path / "comparison.html")
    assert rows["conditional coherence"] == [("0.250", "0.25", False), ("0.375", "0.375", True)]
    assert [cell[0] for cell in rows["model.latent"]] == ["2", "3"]

"""The report of a fitted estimator: one page that stands alone, with the numbers of the estimator and the names of the data."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.data.groups import Group
from polyvae.imputation.files.runs import FitRecord, FittedRun
from polyvae.imputation.filling.classes import Calibration
from polyvae.report import number
from polyvae.report.classes import _counts
from polyvae.report.cohort import _view, write_fit_report
from polyvae.report.held import coverage
from tests.helpers.pages import Elements

NAME = "<b>rna & co</b>"


def run_of(
    folder: Path, x: object, y: object = None, target: str | None = None, id: object = False, **params: object
) -> FittedRun:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        estimator = pv.Estimator(steps=20, members=2, latent=3, seed=0, id=id, **params).fit(x, y)
    record = FitRecord(
        command="polyvae fit '<x>'", files={NAME: "a.csv"}, samples=50, target=target, seconds=1.5
    )
    return FittedRun(folder, estimator, record)


def tables(count: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(count, 2))
    x = {
        NAME: z @ rng.normal(size=(2, 30)),
        "b": z @ rng.normal(size=(2, 4)),
        "c": rng.normal(size=(count, 2)),
    }
    x["b"][:12] = np.nan
    x["c"][5:30] = np.nan
    x[NAME][3, 4] = np.nan
    x[NAME][:, 7] = 5.0
    return x


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FittedRun:
    y = ["ill & <old>" if at % 3 else "well" for at in range(50)]
    found = run_of(tmp_path_factory.mktemp("run"), tables(), y, "state <1>")
    write_fit_report(found)
    return found


@pytest.fixture(scope="module")
def page(run: FittedRun) -> str:
    return (run.path / "report.html").read_text("utf-8")


def test_the_page_asks_for_nothing_from_outside(page: str) -> None:
    found = Elements(page)
    assert not {"link", "script", "iframe", "object", "embed", "base", "b"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        for key in ("src", "href", "xlink:href"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(key, "#")), attributes
    assert len(set(found.ids)) == len(found.ids)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))


def test_it_shows_every_section_and_the_scores(run: FittedRun, page: str) -> None:
    found, scores = Elements(page), run.estimator.scores_
    for anchor in (
        "samples",
        "scores",
        "features",
        "calibration",
        "embedding",
        "variance",
        "pairs",
        "target",
        "diagnosis",
        "made",
    ):
        assert anchor in found.ids
    for name in run.estimator.schema_.names:
        assert name in found.words
        for method in scores.methods:
            value = scores.value(name, method, "r2")
            assert value is None or number(value) in found.words
    assert scores.sentence()[1:] in found.words
    assert "state <1>" in found.words
    assert "polyvae fit '<x>'" in found.words


def test_it_counts_samples_and_what_is_missing(page: str) -> None:
    words = Elements(page).words
    assert "20 of 50" in words  # samples 30 to 49 have all three, and samples 0 to 4 lack b
    assert "38 (76 %)" in words  # with b
    assert "25 (50 %)" in words  # with c
    spoken = " ".join(
        attributes.get("aria-label", "") for tag, attributes in Elements(page).tags if tag == "svg"
    )
    assert "all: 20" in spoken
    assert "without c: 18" in spoken


def test_calibration_is_what_the_intervals_do(run: FittedRun) -> None:
    for combination in _view(run).held.values():
        observed = coverage(combination)
        assert observed is not None
        assert (np.diff(observed) >= 0).all()
        assert abs(observed[4] - 0.5) < 0.2  # at .5


def test_patterns_are_those_of_the_samples(page: str) -> None:
    words = Elements(page).words
    assert (
        "without c c 18 25 (pooled)" in words
    )  # 18 samples lack c alone; 25 have c and another, 20 of them all three
    assert "without b b 5" in words


def test_each_feature_has_a_figure_of_its_own(run: FittedRun, page: str) -> None:
    """Side by side on a wide screen, and below one another on a narrow one."""
    spoken = [attributes.get("aria-label", "") for tag, attributes in Elements(page).tags if tag == "svg"]
    pairs = [text for text in spoken if text.startswith("Measured against imputed values of ")]
    assert [sum(f" of {name}, R²" in text for text in pairs) for name in run.estimator.schema_.names] == [
        3,
        3,
        2,
    ]


def test_text_can_be_read_on_every_screen(page: str) -> None:
    """No text is smaller than 10 px, figures of one panel fit a phone, and no screen shrinks a figure below its size."""
    assert ".scroll svg { width: max(min(calc(1.4 * var(--w)), 100%), var(--w)); }" in page
    for width, body in re.findall(r'<svg viewBox="0 0 (\d+) .*?>(.*?)</svg>', page, re.DOTALL):
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", body)]
        assert min(sizes) >= 10
        assert int(width) <= 380 or "samples with" in body or "1: exact" in body


def test_tables_scroll_and_their_captions_do_not(page: str) -> None:
    assert re.search(r"\.tablewrap \{ overflow-x: auto; \}", page)
    assert re.search(r"caption \{ position: sticky; left: 0; max-width: min\(44rem, calc\(100vw", page)
    assert page.count("<table") == page.count('<div class="tablewrap"><table')


def test_long_names_wrap_and_only_tables_scroll(page: str) -> None:
    """The page itself has no text that cannot wrap: names and paths break anywhere, and tables are no wider than the window."""
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", page)
    assert re.search(r"\.tablewrap, \.scroll \{ max-width: calc\(100vw - 2.2rem\); \}", page)
    assert re.search(r"dl \{[^}]*minmax\(0, 1fr\)", page)
    assert re.search(r"\.long:first-child \{ white-space: normal; overflow-wrap: anywhere", page)


def test_weights_that_do_not_add_up_to_one_are_explained(page: str) -> None:
    assert "They need not add up to 1: with a sum below 1, imputed values are closer" in page


def test_one_table_with_gaps_is_one_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1)) @ rng.normal(size=(1, 6)) + 0.1 * rng.normal(size=(40, 6))
    x[rng.random(x.shape) < 0.1] = np.nan
    page = write_fit_report(run_of(tmp_path, x)).read_text("utf-8")
    assert "1 modality" in page
    assert 'id="pairs"' in page


@pytest.mark.parametrize("count", [2, 3, 6])
def test_few_samples_have_a_report_too(tmp_path: Path, count: int) -> None:
    x = {
        "a": np.random.default_rng(0).normal(size=(count, 3)),
        "b": np.random.default_rng(1).normal(size=(count, 2)),
    }
    page = write_fit_report(run_of(tmp_path, x)).read_text("utf-8")
    assert f"{count} samples" in page


def test_a_number_as_target(tmp_path: Path) -> None:
    x = tables()
    y = np.where(np.arange(50) % 5 == 0, np.nan, np.linspace(0, 1, 50))
    page = write_fit_report(run_of(tmp_path, x, y, "age")).read_text("utf-8")
    assert "Prediction of age" in page


def test_covariates_are_listed_with_what_was_never_measured_in_a_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z, ids = rng.normal(size=(40, 2)), [f"p{at}" for at in range(40)]
    rna = pd.DataFrame(z @ rng.normal(size=(2, 5)), ids)
    rna["site"], rna["age"] = np.where(np.arange(40) < 25, "a", "b"), 60 + rng.normal(size=40)
    protein = pd.DataFrame(z @ rng.normal(size=(2, 3)), ids)
    protein.iloc[25:, :2] = np.nan
    run = run_of(tmp_path, {"rna": rna, "protein": protein}, id=None, covariates=["site", "age"])
    words = Elements(write_fit_report(run).read_text("utf-8")).words
    assert (
        "covariate level samples never measured there site a 25 – site b 15 2 of 3 columns of protein age number"
        in words
    )


def test_columns_of_classes_have_scores_features_and_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z, ids = rng.normal(size=(60, 2)), [f"p{at}" for at in range(60)]
    stage = np.array(["i", "ii", "iii"])[np.digitize(z[:, 0], [-0.4, 0.4])]
    clinical = pd.DataFrame({"age": 60 + z[:, 1], "stage": stage, "smoker": z[:, 1] > 0}, ids)
    x = {"rna": pd.DataFrame(z @ rng.normal(size=(2, 6)), ids), "clinical": clinical}
    run = run_of(tmp_path, x, id=None)
    words = Elements(write_fit_report(run).read_text("utf-8"))
    scores = run.estimator.scores_
    values = [
        scores.value("clinical", "stack", name, feature="stage") for name in ("r2", "accuracy", "auroc")
    ]
    assert f"stage {number(values[0])}" in words.words  # among the features
    common = max(np.unique(stage, return_counts=True)[1]) / 60
    assert f"stage 3 {number(values[1], 2)} {number(common, 2)} {number(values[2])}" in words.words
    shown = words.words
    assert "stage=" not in shown[shown.index("R² of single features") : shown.index("Intervals of samples")]
    spoken = [attributes.get("aria-label", "") for tag, attributes in words.tags if tag == "svg"]
    assert f"Measured against imputed values of stage of clinical, accuracy {number(values[1], 2)}." in spoken
    assert any(
        text.startswith("Measured against imputed values of smoker of clinical, accuracy") for text in spoken
    )
    assert "Accuracy of imputed classes" in words.words
    assert "a share for each of its classes, such as stage=i." in shown


def test_the_rarest_of_many_classes_are_drawn_as_one() -> None:
    group = Group(name="site", levels=list("abcdefghij"), start=0, ranks=False)
    codes = np.repeat(np.arange(10), np.arange(10, 0, -1))
    found = _counts(
        group,
        Calibration(np.eye(10)[codes], codes, np.ones(len(codes), bool), codes, np.zeros((len(codes), 10))),
    )
    assert list(found) == [*"abcdefg", "(others)"]
    assert found["a"]["a"] == 10
    assert found["(others)"] == {**dict.fromkeys("abcdefg", 0), "(others)": 3 + 2 + 1}

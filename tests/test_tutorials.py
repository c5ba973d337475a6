"""What the tutorial and the README show about tables runs, command by command."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import polyvae
from tests.helpers.cohorts import read_csv

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorials" / "cohort.md").read_text()
README = (ROOT / "README.md").read_text()
BRIEF = ["--set", "steps=20", "--set", "members=2", "-q"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort that the script of the tutorial writes."""
    where = tmp_path_factory.mktemp("tutorial") / "cohort"
    subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tutorials" / "make_cohort.py"), str(where)], check=True
    )
    return where


def commands(page: str) -> list[list[str]]:
    """The words of the commands of a page."""
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    return [
        shlex.split(line, comments=True)[1:]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("polyvae ")
    ]


def run(words: list[str], folder: Path) -> str:
    done = polyvae(*words, *(BRIEF if words[0] == "fit" else []), cwd=folder)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def python(code: str, folder: Path, names: dict[str, object]) -> str:
    out, here = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            exec(code.replace("seed=0", "seed=0, steps=20, members=2"), names)
    finally:
        os.chdir(here)
    return out.getvalue()


def test_the_tutorial(folder: Path) -> None:
    shown = commands(TUTORIAL)
    assert [words[0] for words in shown] == ["fit", "impute", "impute", "embed", "predict"]
    table = run(shown[0], folder)
    (printed,) = re.findall(r"```\n(R².*?)```", TUTORIAL, re.DOTALL)
    assert set(re.findall(r"[A-Za-z-]+", printed)) <= set(re.findall(r"[A-Za-z-]+", table))
    for words in shown[1:]:
        run(words, folder)
    assert len(read_csv(folder / "filled" / "protein.csv")[1]) == 200
    assert len(read_csv(folder / "filled_new" / "protein.low.csv")[1]) == 30
    (code,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    said = python(code, folder, {})
    inside, left = (float(number) for number in re.findall(r": (\d\.\d\d)", said)[-2:])
    assert inside > 0.8
    assert left < 0.95


def test_the_lines_about_tables_of_the_readme(folder: Path, tmp_path: Path) -> None:
    import pandas as pd

    for name in ("mrna", "mirna", "protein", "clinical", "new_mrna"):
        shutil.copy(folder / f"{name}.csv", tmp_path)
    for name in ("mrna", "protein"):
        shutil.copy(folder / f"{name}.csv", tmp_path / f"other_{name}.csv")
    section = README.partition("## Your own tables")[2].partition("\n## ")[0]
    shown = commands(section)
    assert [words[0] for words in shown] == ["fit", "impute", "embed", "predict", "score"]
    for words in shown:
        run(words, tmp_path)
    code, target = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    frames = {
        name: pd.read_csv(folder / f"{name}.csv", index_col=0)
        for name in ("mrna", "mirna", "protein", "new_mrna", "clinical")
    }
    import polyvae as pv

    names: dict[str, object] = {**frames, "pv": pv}
    python(code, tmp_path, names)
    assert len(names["z"]) == 30  # type: ignore[arg-type]
    assert (tmp_path / "cohort.polyvae").exists()
    python(target, tmp_path, names)
    subtype, probabilities = names["subtype"], names["probabilities"]
    assert list(subtype.columns) == ["prediction"]  # type: ignore[attr-defined]
    assert subtype.index.tolist() == frames["new_mrna"].index.tolist()  # type: ignore[attr-defined]
    assert set(probabilities.columns) == set(frames["clinical"]["subtype"].dropna())  # type: ignore[attr-defined]


def test_the_pooled_regression_of_the_page_about_data(tmp_path: Path) -> None:
    """Outcome = 1 + 2 P53 − EGFR + noise, of which a quarter lacks the proteins: the coefficients, and information that is missing."""
    import numpy as np
    import pandas as pd

    import polyvae as pv
    from polyvae.imputation.rubin import Pooled

    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "your_data.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "pv.pool" in block)
    rng = np.random.default_rng(0)
    z, ids = rng.normal(size=(120, 2)), [f"p{i}" for i in range(120)]
    protein = pd.DataFrame(z + 0.3 * rng.normal(size=z.shape), ids, ["P53", "EGFR"])
    rna = pd.DataFrame(z @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(120, 6)), ids, list("abcdef"))
    outcome = (1 + protein @ [2, -1]).to_numpy() + 0.5 * rng.normal(size=120)
    frames = {"rna": rna, "protein": protein.iloc[30:]}
    est = pv.Estimator(steps=20, members=2, latent=2, seed=0).fit(frames)
    names: dict[str, object] = {
        "est": est,
        "frames": frames,
        "outcome": outcome,
        "np": np,
        "pd": pd,
        "pv": pv,
    }
    python(code, tmp_path, names)
    pooled = names["pooled"]
    assert isinstance(pooled, Pooled)
    assert pooled.estimate.index.tolist() == ["intercept", "P53", "EGFR"]
    assert np.abs(pooled.estimate - [1, 2, -1]).max() < 0.5
    assert (pooled.missing_information > 0.02).all()
    low, high = pooled.interval(0.95)
    assert (low < pooled.estimate).all()
    assert (high > pooled.estimate).all()


@pytest.mark.filterwarnings("ignore:.*validation")
def test_the_recipe_from_a_sentence_to_images_and_back(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    import polyvae as pv

    *_, fit, recipe = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "your_data.md").read_text(), re.DOTALL)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    frame = pd.DataFrame({"caption": ["A red circle.", "a blue square", None, "Two dots."] * 5})
    names: dict[str, object] = {"images": images, "frame": frame, "pv": pv}
    python(fit.replace("epochs=20", "epochs=1, show=False"), tmp_path, names)
    python(recipe, tmp_path, names)
    made, captions = names["images"], names["captions"]
    assert tuple(made.shape) == (4, 1, 3, 32, 32)  # type: ignore[attr-defined]
    assert [len(draw) for draw in captions] == [4] * 5  # type: ignore[attr-defined]
    assert all(isinstance(said, str) for draw in captions for said in draw)  # type: ignore[attr-defined]

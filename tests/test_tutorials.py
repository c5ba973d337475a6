"""What the tutorials and the README show runs; calls that they name exist, with their arguments."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polyvae as pv
from polyvae.core.vae import MultimodalVAE
from polyvae.imputation.methods import trees
from polyvae.metrics.explained import VarianceExplained
from polyvae.training.settings import TrainSettings
from tests.helpers.cli import polyvae
from tests.helpers.cohorts import read_csv

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
TUTORIAL = (TUTORIALS / "cohort.md").read_text()
PAGES = sorted(path.stem for path in TUTORIALS.glob("*.md"))
# What the names of variables on the pages stand for.
KINDS: dict[str, type] = {
    **dict.fromkeys(("model", "plain", "more", "linear"), MultimodalVAE),
    **dict.fromkeys(("data", "whole", "scaled"), pv.MultimodalData),
    "batch": pv.Batch,
    "table": VarianceExplained,
}
ABSENT = object()
ATTRIBUTES = {pv.MultimodalData: ("ids", "columns", "levels", "factors", "groups", "card", "scale", "seed")}
README = (ROOT / "README.md").read_text()
BRIEF = ["--set", "steps=20", "--set", "members=2", "-q"]


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small forests, as steps and members are few: most of the time of these pages is theirs."""
    monkeypatch.setattr(trees, "_TREES", (3, 5))


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


@pytest.mark.usefixtures("few_trees")
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


@pytest.mark.usefixtures("few_trees")
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
    from polyvae.imputation.filling.rubin import Pooled

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


def blocks(page: str, *kinds: str) -> list[str]:
    return [
        code
        for kind, code in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
        if kind in (kinds or ("python", "py"))
    ]


def spans(page: str) -> list[str]:
    """Calls of polyvae in the text and in the last column of tables: code between quotes that begins with one of its names."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    text = re.sub(r"^\|.*\|([^|\n]*)\|$", r"\1", text, flags=re.MULTILINE)
    first = "|".join((*KINDS, "pv", "est"))
    return [
        code
        for code in re.findall(r"`([^`]+)`", text)
        if re.match(rf"(?:{first})[.(]", code) and "..." not in code
    ]


def mistakes(code: str) -> Iterator[str]:
    """Names of polyvae that do not exist, and arguments that its functions do not have."""
    tree = ast.parse(code)
    stored = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "polyvae":
            module = importlib.import_module(node.module or "")
            yield from (f"{node.module}.{each.name}" for each in node.names if each.name not in dir(module))
        if isinstance(node, ast.Attribute) and found(node, stored) is ABSENT:
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            yield from unknown_arguments(node, stored)


def found(node: ast.expr, stored: set[str]) -> Any:
    """What a name or an attribute stands for; None: unknown; ABSENT: polyvae does not have it."""
    if isinstance(node, ast.Name):
        # ``table`` and ``batch`` are also names of other things.
        other = node.id in ("table", "batch") and node.id in stored
        return {"pv": pv, "est": pv.Estimator, **({} if other else KINDS)}.get(node.id)
    owner = found(node.value, stored) if isinstance(node, ast.Attribute) else None
    if not isinstance(node, ast.Attribute) or (owner is not pv and not isinstance(owner, type)):
        return None
    if node.attr.endswith("_"):  # attributes of an Estimator after fit
        return None
    if node.attr in dir(owner):
        return getattr(owner, node.attr)
    fields = {name for each in getattr(owner, "__mro__", ()) for name in getattr(each, "__annotations__", {})}
    return None if node.attr in fields or node.attr in ATTRIBUTES.get(owner, ()) else ABSENT


def unknown_arguments(node: ast.Call, stored: set[str]) -> Iterator[str]:
    target = found(node.func, stored)
    if target is None or not callable(target):
        return
    parameters = inspect.signature(target).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    settings = TrainSettings.__annotations__ if target in (pv.fit, pv.extend) else {}
    for argument in node.keywords:
        if argument.arg not in parameters and argument.arg not in settings and (settings or not open_ended):
            yield f"{ast.unparse(node.func)}({argument.arg}=)"


@pytest.mark.parametrize("name", PAGES)
def test_calls_that_a_tutorial_shows_exist(name: str) -> None:
    page = (TUTORIALS / f"{name}.md").read_text()
    for code in blocks(page):
        compile(code, f"{name}.md", "exec")
    assert [wrong for code in (*blocks(page), *spans(page)) for wrong in mistakes(code)] == []
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (TUTORIALS / target).exists(), target
    for picture in re.findall(r"\]\((\w+\.png)\)", page):
        assert (TUTORIALS / picture).stat().st_size <= 60 * 1024, picture


def test_mistakes_in_calls_are_found() -> None:
    code = "import polyvae as pv\npv.fitt(model)\npv.extend(model, data, epoch=1)\nmodel.embed(b, K=1)\npv.MultimodalData.from_frame(x)"
    assert sorted(mistakes(code)) == sorted(
        ["pv.fitt", "pv.extend(epoch=)", "pv.MultimodalData.from_frame", "model.embed(K=)"]
    )
    assert spans("`pv.fit(model)` and `fit`, `model.embed(...)`") == ["pv.fit(model)"]


def executed(name: str, folder: Path, shorten: Callable[[str], str] = lambda code: code) -> dict[str, Any]:
    """The names that the code of a tutorial leaves; what it prints has the words that the page shows."""
    names: dict[str, Any] = {}
    for printed, shown in runpy.run_path(str(TUTORIALS / "run.py"))["run"](name, folder, shorten, names):
        words = [set(re.findall(r"[A-Za-z]{3,}", text)) for text in (shown, printed)]
        assert words[0] <= words[1], (words[0] - words[1], printed)
    return names


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*:UserWarning")
def test_a_tutorial_runs(tmp_path: Path) -> None:
    names = executed(
        "scvi_users",
        tmp_path,
        lambda code: code.replace("epochs=120", "epochs=1").replace(
            "Estimator(seed=0)", "Estimator(seed=0, steps=5, members=2)"
        ),
    )
    assert names["mean"]["protein"].shape == names["real"].shape


CLAIMS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "multiomics": lambda names: all(r2 > 0.3 and inside > 0.8 for _, _, r2, inside in names["errors"]),
    "citeseq": lambda names: (
        names["ilisi"](names["mdata"].obsm["X_polyvae"], names["batch"]) > 0.6
        and np.abs(names["z_ab"] - names["mdata"].obsm["X_polyvae"]).max() < 1e-6
        and names["correlation"](names["found"]["Estimator"], names["truth"])
        > names["correlation"](names["found"]["ridge"], names["truth"])
        and np.square(names["guesses"]["polyvae, mapped"] - names["real"]).mean()
        < 0.8 * np.square(names["guesses"]["polyvae, as batch a"] - names["real"]).mean()
    ),
    "lesions": lambda names: names["scores"](names["drawn"])["diameter, R²"] > 0.8,
    "sensors": lambda names: (
        names["row"]["polyvae"]["pulse"] > names["row"]["k-NN, features by hand"]["pulse"]
        and names["row"]["polyvae"]["breathing"] < 0.1
    ),
    "scvi_users": lambda names: (
        np.square(names["guesses"]["Estimator"] - names["real"]).mean()
        < np.square(names["guesses"]["ridge"] - names["real"]).mean()
    ),
    "mofa_users": lambda names: 0.8 < names["inside"].to_numpy().mean() <= 1,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("name", CLAIMS)
def test_tutorials_from_start_to_end(name: str, tmp_path: Path) -> None:
    """Each page, at full size; and what it says of its numbers, with room for other machines."""
    assert CLAIMS[name](executed(name, tmp_path))


def test_every_tutorial_is_executed() -> None:
    assert sorted([*CLAIMS, "cohort"]) == PAGES


@pytest.mark.slow
def test_the_commands_about_images_with_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path(str(TUTORIALS / "make_lesions.py"))["main"](tmp_path)
    page = (TUTORIALS / "lesions.md").read_text()
    (tmp_path / "lesions.py").write_text(blocks(page)[0])
    (tmp_path / "lesions.toml").write_text(blocks(page, "toml")[0])
    shown = [shlex.split(line)[1:] for line in re.findall(r"^polyvae .*$", page, re.MULTILINE)]
    assert [words[0] for words in shown] == ["train", "evaluate", "report"]
    for words in shown:
        brief = ["--set", "train.epochs=1", "-q"] if words[0] == "train" else []
        done = polyvae(*words, *brief, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "runs" / "lesions" / "report.html").exists()

"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import polyvae as pv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]
PACKAGE = ROOT / "src" / "polyvae"
# Paths of data, runs and studies, and the reader's own file.
ELSEWHERE = (
    "polymnist/",
    "mnist/",
    "5.jpg",
    "study.",
    "results.",
    "history.",
    "evaluation.",
    "leave_one_out.",
)


def test_the_ten_lines_run_and_say_what_they_give(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("pv.fit(model, data, epochs=20)", "pv.fit(model, data, epochs=20, show=False)"), names)
    shapes = {name: tuple(names[name].shape) for name in ("embedding", "protein", "bound")}  # type: ignore[attr-defined]
    assert shapes == {"embedding": (10, 4), "protein": (100, 10, 8), "bound": (10,)}
    batch, protein = names["batch"], names["protein"]
    assert isinstance(batch, pv.Batch)
    assert isinstance(protein, torch.Tensor)
    both = batch.mask.all(0)
    error = (protein.mean(0) - batch.data["protein"])[both].square().mean()
    assert error < 0.8 * batch.data["protein"][both].square().mean()  # better than the mean, which is zero


def test_every_page_and_picture_it_links_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_it_shows_is_one() -> None:
    from polyvae.cli import app

    known = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    }
    shown = set(re.findall(r"^polyvae (\w+)", README, re.MULTILINE))
    assert shown <= known
    assert known - shown == set()


def test_the_table_lists_every_model() -> None:
    assert set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)) == set(pv.MODELS)


def paths(page: str) -> set[str]:
    """The files and folders that a page names in quotes, and in code those that begin with a folder of the repository."""
    blocks = re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)
    text = re.sub(r"```\w*\n.*?```", "", page, flags=re.DOTALL)
    words = {word for quoted in re.findall(r"`([^`]+)`", text) for word in quoted.split()}
    kinds = r"(py|md|toml|jsonl?|html|csv|png|jpg)"
    shapes = rf"[\w.<>/-]+/|[\w./<>-]+\.{kinds}|[\w.]+(/[\w.<>-]+)+"
    named = {
        word for word in words if re.fullmatch(shapes, word) and not re.search(r"[A-Z]{3}/|^runs/", word)
    }
    inside = r"\b(?:src|tests|docs|experiments|benchmarks)/[\w./-]*"
    named |= {word for block in blocks for word in re.findall(inside, block)}
    return {word for word in named if not word.startswith(ELSEWHERE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_it_names_exists(page: Path) -> None:
    """A path begins at the root or in the package; a single name is anywhere in the package; <paper> is any name."""
    absent = set()
    for path in paths(page.read_text()):
        pattern = re.sub(r"<\w+>", "*", path).strip("/")
        found = [*ROOT.glob(pattern), *(PACKAGE.glob(pattern) if "/" in pattern else PACKAGE.rglob(pattern))]
        if not found:
            absent.add(path)
    assert not absent, f"{page.name}: got {sorted(absent)}, which do not exist"


def test_paths_are_found_in_a_page() -> None:
    page = (
        "`core/vae.py`, `tests/models/test_<paper>.py`, `polyvae study experiments/x.toml`, `runs/a`, `E[x]/K`\n"
        "```\npolyvae train experiments/y.toml --out runs/y\n```\n"
    )
    expected = {"core/vae.py", "tests/models/test_<paper>.py", "experiments/x.toml", "experiments/y.toml"}
    assert paths(page) == expected
    assert {"batch.py", "sets/", "src/polyvae/core"} <= paths((ROOT / "docs" / "design.md").read_text())

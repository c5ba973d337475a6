"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import polyvae as pv

README = (Path(__file__).parent.parent / "README.md").read_text()


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
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (root / target).exists(), target


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

"""docs/adding_a_model.md: what it shows runs, and models by import path are models."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import polyvae as pv
from polyvae.config import read_config, write_config
from polyvae.core import noise
from polyvae.models import model_class, name_of, options_of
from polyvae.testing import check_model, example_data, plain_world
from polyvae.utils.errors import InputError
from tests.helpers.cli import SMALL, polyvae

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_model.md").read_text()
PATH = "leave_one_out:LeaveOneOut"
QUICK = [*SMALL, "-q"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The page's file, where Python finds it."""
    folder = tmp_path_factory.mktemp("adding")
    (folder / "leave_one_out.py").write_text(blocks("python")[0])
    (folder / "broken.py").write_text("import no_such_package\n")
    (folder / "other.py").write_text(
        "from polyvae.models.mopoe import MoPoE\nclass Mine(MoPoE): ...\nclass Half:\n    name = 'half'\n"
        "from polyvae.core.vae import MultimodalVAE\n"
    )
    sys.path.insert(0, str(folder))
    yield importlib.import_module("leave_one_out")
    sys.path.remove(str(folder))
    for name in ("leave_one_out", "other"):
        sys.modules.pop(name, None)


def test_the_page_s_model_obeys_the_laws(module):
    exec(blocks("python")[1], {})


def test_its_bound_is_the_formula(module):
    """By loops over views, one normal product at a time, with the noise that the model drew."""
    model = module.LeaveOneOut(plain_world()[:3], latent=2, beta=1.5).double()
    x = example_data(model, 3)
    mask = torch.tensor([[True, True, False], [True, False, True], [True, True, False]])
    batch = pv.Batch.of(x, mask)
    with noise.record() as draws, torch.no_grad():
        value = model(batch).value
    eps = draws["z"].value  # [K, V, B, D]
    codes = [net.encode(x[name]).z for name, net in model.modalities.items()]
    for b in range(3):
        observed = [m for m in range(3) if mask[m, b]]
        views = [(0, observed)] + [
            (1 + n, [m for m in observed if m != n]) for n in observed if len(observed) > 1
        ]
        total = 0.0
        for row, members in views:
            precision = 1 + sum(codes[m].scale[b] ** -2 for m in members)
            loc = (
                sum((codes[m].scale[b] ** -2 * codes[m].loc[b] for m in members), torch.zeros(2)) / precision
            )
            z = loc + eps[0, row, b] * precision**-0.5
            kl = 0.5 * (loc**2 + 1 / precision - 1 + precision.log()).sum()
            log_x = sum(
                net.spec.weight * net.log_prob(x[name][b : b + 1], z[None])[0]
                for m, (name, net) in enumerate(model.modalities.items())
                if m in observed
            )
            total += float((log_x - 1.5 * kl).detach())
        assert float(value[b]) == pytest.approx(total / len(views), rel=1e-9)


def test_the_page_s_commands_run(module, tmp_path, monkeypatch):
    """As they stand, on a quarter of an epoch; then the Python that loads what they made."""
    monkeypatch.chdir(tmp_path)
    for line in blocks("bash")[0].strip().splitlines():
        words = shlex.split(line)[1:]
        code, out, err = polyvae(*words, *(QUICK if words[0] == "train" else []))
        assert code == 0, err
        if words[0] == "models":
            assert "also trained to do without any one of them" in out
    assert read_config("runs/mine/config.toml").model.name == PATH
    names: dict[str, object] = {}
    exec(blocks("python")[2], names)
    assert type(names["model"]) is module.LeaveOneOut
    for words in (
        ["sample", "runs/mine", "-o", "new.npz"],
        ["train", "--resume", "--out", "runs/mine", "-q"],
    ):
        code, _, err = polyvae(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "pass trust=['leave_one_out'], or --trust leave_one_out" in err


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[model]\nname = "stranger:Model"', "model.name"),
        ('[[modality]]\nname = "m0"\nencoder = "stranger:encoder"', "modality.m0.encoder"),
        ('[[modality]]\nname = "m1"\nlikelihood = "stranger:likelihood"', "modality.m1.likelihood"),
        ('[[modality]]\nname = "*"\ndecoder = "stranger:decoder"', "modality.*.decoder"),
    ],
)
def test_a_run_s_own_configuration_does_not_choose_what_code_runs(table, key, tmp_path, monkeypatch):
    """Resumed without a TOML, the run names the code: only --trust, or the same path on the command line, lets it in."""
    (tmp_path / "stranger.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(f"{table}\n[data.options]\ntrain = 20\ntest = 20\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = table.split('"')[-2]
    for more in ([], ["--trust", "strange"], ["--set", "model.latent=4"]):
        code, _, err = polyvae("train", "--resume", "--out", "run", "-q", *more)
        assert (code, err) == (
            2,
            f"error: {Path('run/config.toml')}: {key}: {path!r} would import 'stranger', which is not trusted; "
            "expected polyvae's own or a trusted package; if you know it, pass trust=['stranger'], or --trust "
            "stranger\n",
        )
        assert not Path("ran").exists()
    for more in (["--trust", "stranger"], ["--set", f"{key}={path}"]):
        code, _, err = polyvae("train", "--resume", "--out", "run", "-q", *more)
        assert (code, err.count("\n")) == (2, 1)
        assert f"cannot import {path!r}" in err  # it was tried: the module is there, the name is not
        assert Path("ran").exists()
        Path("ran").unlink()
        sys.modules.pop("stranger")


def test_the_page_s_toml_is_a_configuration(module, tmp_path):
    (tmp_path / "mine.toml").write_text(blocks("toml")[0])
    config = read_config(tmp_path / "mine.toml")
    model = pv.build(config.model.name, plain_world(), **config.model.options)
    assert model.options == {"latent": 8, "beta": 1.0, "K": 2, "scale_map": "softplus"}
    assert set(options_of(PATH)) == set(model.options)
    (tmp_path / "again.toml").write_text(write_config(config))
    assert read_config(tmp_path / "again.toml") == config
    assert name_of(model) == PATH


def test_a_model_outside_with_a_name_inside_is_not_mistaken_for_it(module, tmp_path):
    """A subclass that forgot to take another name: stored as what it is, loaded as what it is."""
    kind = model_class("other:Mine")
    assert kind.name == "mopoe"
    pv.save_model(kind(plain_world(), latent=2), tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="would import 'other', which is not trusted"):
        pv.load_model(tmp_path / "mine.safetensors")
    assert type(pv.load_model(tmp_path / "mine.safetensors", trust=["other"])) is kind
    plain = [
        name for name, model in pv.MODELS.items() if not model.requires.text
    ]  # the world is not what the others need
    assert [name_of(pv.build(name, plain_world(), latent=2)) for name in plain] == plain


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module:Model", "No module named 'no_such_module'"),
        ("broken:Model", "No module named 'no_such_package'"),
        ("other:Theirs", "has no attribute 'Theirs'"),
        (":Model", "cannot import ':Model'"),
        ("other:Half", "'other:Half' is not a model"),
        ("other:MultimodalVAE", "is not a model; expected a subclass of MultimodalVAE that defines"),
        ("math:pi", "'math:pi' is not a model"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(module, path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["models", path], ["train", "--model", path, *QUICK]):
        code, _, err = polyvae(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert says in err
    assert not list(tmp_path.iterdir())


def test_laws_name_what_is_wrong_with_a_model(module):
    """The page's model with a mistake: the view without n still has n in it."""

    class Wrong(module.LeaveOneOut):
        def bound(self, batch, experts, warm):
            return super().bound(batch, experts._replace(mask=torch.ones_like(experts.mask)), warm)

    with pytest.raises(AssertionError, match="law "):
        check_model(Wrong, latent=2)

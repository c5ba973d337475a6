"""Configuration: TOML there and back, and every mistake answered in one line."""

import dataclasses

import pytest

from polyvae.config import (
    EvaluateConfig,
    EvaluateSettings,
    ModalityConfig,
    RunConfig,
    TrainConfig,
    check_options,
    read_config,
    write_config,
)
from polyvae.core.modality import Modality
from polyvae.utils.errors import InputError

FULL = """
[data]
name = "polymnist"
root = "data/poly"
hide = 0.25
options = { size = 16, nested = { "a.b" = [1, 2.5, "x"] } }

[model]
name = "mmvae+"
latent = 32
beta = 2.5
objective = "dreg"
scales = [1, 0.75]

[[modality]]
name = "rna.counts"
shape = [200]
likelihood = "laplace"
params = { scale = 0.75 }

[[modality]]
name = "label"
role = "target"
weight = 2
encoder = "own.package:encoder"

[train]
epochs = "none"
max_seconds = 1e2
lr = 3e-4
clip = 1
schedule = "flat-cosine"
patience = 3

[evaluate]
metrics = []
fitted_prior.components = 5
"""


def read(tmp_path, text, *overrides):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return read_config(path, overrides)


def message(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["", FULL, "[train]\nepochs = 3\n", '[model]\nname = "vae"\ncopy = 1\noptions = 2\n']
)
def test_toml_to_config_to_toml_is_exact(tmp_path, text):
    config = read(tmp_path, text)
    written = write_config(config)
    again = read(tmp_path, written)
    assert again.model_dump() == config.model_dump()
    assert write_config(again) == written


def test_values_arrive_where_they_belong(tmp_path):
    config = read(tmp_path, FULL)
    assert config.data.options == {"size": 16, "nested": {"a.b": [1, 2.5, "x"]}}
    assert config.model.options == {"latent": 32, "beta": 2.5, "objective": "dreg", "scales": [1, 0.75]}
    assert config.modality[0].changes == {"shape": [200], "likelihood": "laplace", "params": {"scale": 0.75}}
    assert (config.train.epochs, config.train.max_seconds, config.train.clip, config.train.lr) == (
        None,
        100.0,
        1.0,
        3e-4,
    )
    assert (config.evaluate.metrics, config.evaluate.fitted_prior.components) == ([], 5)


def test_the_defaults_are_those_of_the_design():
    config = read_config()
    assert config == RunConfig()
    assert (config.data.name, config.model.name, config.modality) == ("polydigits", "mmvae+", [])
    train = config.train
    assert (train.epochs, train.batch_size, train.lr, train.schedule, train.flat, train.clip) == (
        100,
        64,
        1e-3,
        "constant",
        0.4,
        None,
    )
    assert (train.precision, train.seed, train.validation, train.checkpoint_every, train.warmup_epochs) == (
        "auto",
        0,
        0.05,
        500,
        0.0,
    )
    evaluate = config.evaluate
    assert (evaluate.metrics, evaluate.likelihood_samples, evaluate.likelihood_rows) == (
        ["coherence", "attributes", "likelihood"],
        1000,
        200,
    )
    assert (evaluate.fitted_prior.components, evaluate.fitted_prior.covariance) == (20, "full")


def test_a_modality_section_knows_exactly_the_fields_of_a_modality():
    assert list(ModalityConfig.model_fields) == [field.name for field in dataclasses.fields(Modality)]


def test_overrides_win_and_are_read_as_toml_or_else_as_text(tmp_path):
    config = read(
        tmp_path,
        FULL,
        "train.epochs=5",
        "train.device=cuda:1",
        "train.clip=none",
        "model.objective = elbo",
        "model.tight=true",
        "data.options.nested.depth=[1, 2]",
        "modality.rna.counts.private=0",
        "modality.new.role=source",
        'evaluate.metrics=["quality"]',
        "data.root=a=b",
    )
    assert (config.train.epochs, config.train.device, config.train.clip) == (5, "cuda:1", None)
    assert (config.model.options["objective"], config.model.options["tight"]) == ("elbo", True)
    assert config.data.options["nested"] == {"a.b": [1, 2.5, "x"], "depth": [1, 2]}
    assert [(entry.name, entry.private, entry.role) for entry in config.modality] == [
        ("rna.counts", 0, None),
        ("label", None, "target"),
        ("new", None, "source"),
    ]
    assert (config.evaluate.metrics, config.data.root) == (["quality"], "a=b")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nepohcs = 5", ("run.toml: train.epohcs: unknown key", "did you mean 'epochs'?")),
        ("[trian]\nepochs = 5", ("trian: unknown key", "did you mean 'train'?")),
        ("epochs = 5", ("epochs: unknown key", "did you mean train.epochs?")),
        ("[data]\nbatch_size = 5", ("data.batch_size: unknown key", "did you mean train.batch_size?")),
        ("[[modality]]\nname = 'a'\nshap = [3]", ("modality.0.shap: unknown key", "did you mean 'shape'?")),
        ("[[modality]]\nshape = [3]", ("modality.0.name: got nothing; expected a value",)),
        (
            "[modality]\nname = 'a'",
            ("modality: got {'name': 'a'}; expected a list of tables, each under [[modality]]; double",),
        ),
        (
            "[evaluate]\nmetrics = 'coherence'",
            ('evaluate.metrics: got \'coherence\'; expected a list such as metrics = ["coherence", "at',),
        ),
        ("[data]\nonly = 'm0'", ("data.only: got 'm0'; expected a list such as only = [\"m0\"]",)),
        ("[data]\nonly = true", ("data.only: got True; expected a list such as only = [true]",)),
        ("[data]\nonly = {m0 = 1}", ("data.only: got {'m0': 1}; expected a list",)),
        (
            "[evaluate.fitted_prior]\ncomponent = 3",
            ("evaluate.fitted_prior.component: unknown key", "did you mean 'components'?"),
        ),
        ("[train]\nepochs = 'five'", ("train.epochs: got 'five'; expected a valid integer",)),
        ("[train]\nepochs = 2.5", ("train.epochs: got 2.5; expected a valid integer",)),
        ("[train]\nepochs = true", ("train.epochs: got True; expected a valid integer",)),
        (
            "[train]\nbatch_size = 0",
            ("train.batch_size: got 0; expected greater than or equal to 1; the default is 64",),
        ),
        ("[train]\nlr = nan", ("train.lr: got nan; expected",)),
        ("[train]\nvalidation = 1.0", ("train.validation: got 1.0; expected less than 1",)),
        (
            "[train]\nschedule = 'cosin'",
            ("train.schedule: got 'cosin'; expected 'constant', 'cosine' or 'flat-cosine'",),
        ),
        ("[train]\nepochs = 'none'", ("train: got neither epochs nor max_seconds; expected at least one",)),
        ("train = 3", ("train: got 3; expected",)),
        ("[train]\nepochs 5", ("run.toml: not TOML", "line 2")),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_key(tmp_path, text, parts):
    told = message(read, tmp_path, text)
    for part in parts:
        assert part in told


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.epohcs=5", "--set train.epohcs: unknown key; did you mean 'epochs'?"),
        ("train.epochs=many", "--set train.epochs: got 'many'; expected a valid integer"),
        ("train.epochs", "--set 'train.epochs': expected key=value"),
        ("=5", "expected key=value"),
        ("data.name.first=5", "--set data.name.first: 'name' is a value, not a table"),
    ],
)
def test_a_mistake_in_an_override_is_one_line_that_names_it(tmp_path, override, part):
    assert part in message(read, tmp_path, FULL, override)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "polymnist.toml").write_text("")
    assert "polymist.toml: no such file" in message(read_config, tmp_path / "polymist.toml")
    assert "did you mean 'polymnist.toml'?" in message(read_config, tmp_path / "polymist.toml")
    assert "cannot be read (Is a directory)" in message(read_config, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    assert "latin.toml: not TOML" in message(read_config, tmp_path / "latin.toml")


def test_settings_given_in_python_get_the_same_answers():
    assert TrainConfig.check({"epochs": 3}).epochs == 3
    assert message(TrainConfig.check, {"epohcs": 3}) == "epohcs: unknown key; did you mean 'epochs'?"
    assert message(TrainConfig.check, {"epochs": None}).startswith(
        "configuration: got neither epochs nor max_seconds"
    )


def test_an_unknown_option_of_a_model_is_answered_with_the_nearest():
    check_options("mmvae+", ["K", "beta"], ["latent", "K", "beta"])
    assert message(check_options, "mmvae+", ["latnet"], ["latent", "K", "beta"]) == (
        "model.latnet: unknown option of model 'mmvae+'; did you mean 'latent'? (known: latent, K, beta)"
    )


def test_the_keywords_of_evaluate_are_the_fields_of_its_configuration():
    assert list(EvaluateSettings.__annotations__) == list(EvaluateConfig.model_fields)
    assert all(field.description for field in EvaluateConfig.model_fields.values())

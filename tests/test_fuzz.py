"""Whatever is handed in is answered rightly or by one line: random models, data, configurations and command lines.

``make test`` runs 500 fixed cases, ``make soak`` 20,000 random ones.
"""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyvae import LIKELIHOODS, MODELS, Batch, InputError, Modality, MultimodalData, build
from polyvae.cli import main
from polyvae.config import read_config
from tests.helpers.likelihoods import fitting, required

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
FIXTURE = [*CHECKS, HealthCheck.function_scoped_fixture]


def fuzz(test, strategy, cases: int):
    """The test over ``cases`` fixed cases, and over 40 times as many random ones for the soak."""
    quick = settings(
        max_examples=cases, derandomize=True, deadline=None, database=None, suppress_health_check=CHECKS
    )
    long = settings(max_examples=40 * cases, deadline=None, database=None, suppress_health_check=CHECKS)
    return quick(given(strategy)(test)), pytest.mark.soak(long(given(strategy)(test)))


def answered(call):
    """The result of a call, or None where it was refused in one line that says what was got and what was expected."""
    try:
        return call()
    except InputError as refused:
        text = str(refused)
        assert text, "an empty message"
        assert "\n" not in text, text
        return None


# ---- models ------------------------------------------------------------------------------------------------

SHAPES = st.one_of(st.tuples(st.integers(1, 4)), st.tuples(st.integers(1, 3), st.just(8), st.just(8)))
VALUES = st.sampled_from(["fit", "normal", "counts", "large", "tiny", "nan", "inf", "integers", "bool"])


def values(kind: str, likelihood: str, shape: tuple[int, ...], rows: int, seed: int) -> np.ndarray:
    """Data that the likelihood can have produced ("fit"), or other data."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, *shape))
    if kind == "fit":
        return fitting(likelihood, shape, rows, random)
    if kind == "large":
        return x * 1e12
    if kind == "tiny":
        return x * 1e-30
    if kind in ("nan", "inf"):
        x[random.integers(rows)] = math.nan if kind == "nan" else math.inf
        return x
    return {
        "normal": x,
        "counts": random.poisson(3, x.shape),
        "integers": (x * 100).astype(np.int32),
        "bool": x > 0,
    }[kind]


@st.composite
def problems(draw):
    count = draw(st.integers(1, 4))
    specs = []
    for m in range(count):
        shape, likelihood = draw(SHAPES), draw(st.sampled_from(sorted(LIKELIHOODS)))
        # Without what a likelihood requires, it is refused; with it now and then only, hardly any model would be built.
        own = {} if draw(st.integers(0, 7)) == 0 else required(likelihood, shape[-1])
        specs.append(
            {
                "name": draw(st.sampled_from(["rna", "a.b", "type", "values", "0", "é"])) + str(m),
                "shape": shape,
                "likelihood": likelihood,
                "role": draw(st.sampled_from(["both", "both", "both", "input", "target", "source"])),
                "private": draw(st.sampled_from([None] * 8 + [0, 1])),
                "weight": draw(st.sampled_from([1.0, 1.0, 0.5, 0.0])),
                "params": draw(st.sampled_from([{}, {}, {}, {"hidden": [4]}, {"width": 0.1}])) | own,
            }
        )
    return {
        "model": draw(st.sampled_from(sorted(MODELS))),
        "specs": specs,
        "options": draw(
            st.dictionaries(
                st.sampled_from(
                    ["K", "beta", "objective", "stratified", "cross", "subsets", "scale_map", "family"]
                ),
                st.sampled_from(
                    [1, 2, 3, 0, 0.5, "elbo", "iwae", "dreg", True, "prior", "powerset", "softmax", "laplace"]
                ),
                max_size=1,
            )
        ),
        "kinds": draw(st.lists(st.one_of(st.just("fit"), VALUES), min_size=count, max_size=count)),
        "rows": draw(st.sampled_from([1, 2, 3, 5])),
        "observed": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "entries": draw(st.sampled_from([None, 0.0, 0.5])),
        "seed": draw(st.integers(0, 2**16)),
        "double": draw(st.booleans()),
    }


def survives(problem):
    """A model and data are refused in one line, or give a finite bound with finite gradients, an embedding and every modality."""
    torch.manual_seed(problem["seed"])
    random = np.random.default_rng(problem["seed"])
    specs = answered(lambda: [Modality(**spec) for spec in problem["specs"]])
    if specs is None:
        return
    model = answered(lambda: build(problem["model"], specs, latent=2, **problem["options"]))
    if model is None:
        return
    model = model.double() if problem["double"] else model
    rows = problem["rows"]
    data = {
        spec.name: values(kind, spec.likelihood, spec.shape, rows, problem["seed"] + m)
        for m, (spec, kind) in enumerate(zip(specs, problem["kinds"], strict=True))
    }
    mask = {name: torch.as_tensor(random.random(rows) < problem["observed"]) for name in data}
    share = problem["entries"]
    entries = (
        None
        if share is None
        else {name: torch.as_tensor(random.random(x.shape) < share) for name, x in data.items()}
    )
    batch = answered(lambda: Batch.of(data, mask, entries))
    if batch is None:
        return
    if answered(lambda: model.admit(batch, values=True)) is None:
        return
    bound = model.train()(batch)
    assert bound.value.shape == (rows,)
    if "large" not in problem["kinds"]:
        assert bound.value.isfinite().all(), bound.value
        bound.value.sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
    nothing = ~batch.mask.any(0)
    assert (bound.value[nothing] == 0).all()
    model.eval()
    embedded = model.embed(batch)
    assert torch.equal(embedded, model.embed(batch))
    assert embedded.isfinite().all()
    for name, x in model.generate(batch, K=2).items():
        assert x.shape == (2, rows, *model.modalities[name].spec.shape)
    model.sample(2)


test_a_model_is_refused_or_sound, test_a_model_is_refused_or_sound_soak = fuzz(survives, problems(), 200)


# ---- data --------------------------------------------------------------------------------------------------

THINGS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 2), max_size=4),
    st.lists(st.lists(st.floats(-2, 2), max_size=3), max_size=4),
    st.sampled_from(
        [
            np.zeros((4, 2)),
            np.zeros((4, 0)),
            np.zeros((0, 2)),
            np.zeros(4),
            np.ones((4, 2), bool),
            np.full((4, 2), math.nan),
            np.array(["a", "b", "c", "d"]),
            np.array([None] * 4),
            np.zeros((4, 2), complex),
            np.ma.masked_array(np.zeros((4, 2)), np.eye(4, 2)),
            torch.zeros(4, 2),
            torch.zeros(4, 2, requires_grad=True),
            torch.eye(4).to_sparse(),
            torch.zeros(4, 2, dtype=torch.float16),
        ]
    ),
)


@st.composite
def data_sets(draw):
    names = draw(st.lists(st.one_of(st.text(max_size=2), st.integers(0, 2)), max_size=3, unique=True))
    given = {name: draw(THINGS) for name in names}
    keywords = draw(
        st.dictionaries(
            st.sampled_from(["mask", "entries", "labels", "ids", "groups", "splits", "scale"]),
            st.one_of(THINGS, st.dictionaries(st.sampled_from([*names, "x"]), THINGS, max_size=2)),
            max_size=2,
        )
    )
    return draw(st.one_of(st.just(given), THINGS)), keywords


def is_data_or_refused(case):
    """Anything in place of data is refused in one line, or becomes data whose rows, digest and batches can be had."""
    data, keywords = case
    made = answered(lambda: MultimodalData(data, **keywords))
    if made is None:
        return
    assert len(made.digest()) > 0
    assert repr(made)
    for batch in made.batches(3):
        assert all(x.isfinite().all() for x in batch.data.values())


test_data_are_refused_or_sound, test_data_are_refused_or_sound_soak = fuzz(
    is_data_or_refused, data_sets(), 150
)


# ---- configurations ----------------------------------------------------------------------------------------

KEYS = [
    "data",
    "model",
    "train",
    "evaluate",
    "modality",
    "name",
    "latent",
    "lr",
    "epochs",
    "K",
    "shape",
    "private",
    "x",
    "root",
]
SCALARS = st.one_of(
    st.integers(-5, 10**12),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.just("mmvae+"),
    st.just("polydigits"),
)
VALUE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)


def toml(value) -> str:
    """A value as TOML; text that is no TOML, too, where strings have quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def is_a_configuration_or_refused(case):
    """Any text in a file, and any override, is a configuration or refused in one line."""
    tables, overrides, noise, folder = case
    text = "\n".join(
        f"[{key}]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in table.items())
        for key, table in tables.items()
    )
    path = folder / "config.toml"
    path.write_text(text + noise, errors="replace")
    answered(lambda: read_config(path, [f"{key}={value}" for key, value in overrides.items()]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


CONFIGURATIONS = st.tuples(
    st.dictionaries(
        st.sampled_from(KEYS[:5]), st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=4), max_size=3
    ),
    st.dictionaries(
        st.sampled_from(
            ["train.lr", "train.epochs", "model.K", "model", "x", "modality.*.private", "train.lr.x", ""]
        ),
        st.one_of(st.text(max_size=5), SCALARS),
        max_size=2,
    ),
    st.one_of(st.just(""), st.text(max_size=8)),
)


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=FIXTURE,
)
@given(case=CONFIGURATIONS)
def test_a_configuration_is_read_or_refused(folder, case):
    is_a_configuration_or_refused((*case, folder))


@pytest.mark.soak
@settings(
    max_examples=4000,
    deadline=None,
    database=None,
    suppress_health_check=FIXTURE,
)
@given(case=CONFIGURATIONS)
def test_a_configuration_is_read_or_refused_soak(folder, case):
    is_a_configuration_or_refused((*case, folder))


# ---- command lines -----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(
            "models",
            "datasets",
            "evaluate",
            "report",
            "sample",
            "study",
            "train",
            "--resume",
            "--out",
            "-o",
            "--set",
            "--data",
        ),
        *(
            "mmvae+",
            "mmvaeplus",
            "nowhere",
            "/dev/null",
            "",
            "-",
            "--",
            "--trust",
            "os",
            "x.npz",
            "train.lr=-1",
            "train.epochs=0",
        ),
        *(
            "--help",
            "--version",
            "-q",
            "evaluate.K=0",
            "model.latent=x",
            "no:such",
            "--jobs",
            "0",
            "-5",
            "é",
            "a b",
            "..",
            "nul\0",
        ),
    ]
)


def is_a_command_or_refused(words):
    """Any command line ends with an exit code; a bad one with 2 and one line on standard error, never with a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["report" if word == "train" and "--resume" not in words else word for word in words])
    code = ended.value.code or 0
    assert code in (0, 2), (words, code, err.getvalue())
    assert "Traceback" not in err.getvalue()
    if code == 2:
        lines = [line for line in err.getvalue().splitlines() if line.strip()]
        assert lines, words
        assert sum(line.startswith("error:") for line in lines) <= 1, lines


test_a_command_line_is_run_or_refused, test_a_command_line_is_run_or_refused_soak = fuzz(
    is_a_command_or_refused, st.lists(WORDS, max_size=5), 50
)

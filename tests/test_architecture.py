"""The house: which room may import which, how long a file may be, and what nobody does."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

import polyvae

ROOT = Path(polyvae.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in FILES.items()}

# A room may import the rooms of lower floors, and those of its own.
FLOORS = [
    {"errors"},
    {"batch", "noise"},
    {"distributions"},
    {"likelihoods", "networks", "counts", "linear", "again"},
    {"bounds", "aggregate", "priors", "modality"},
    {"vae"},
    {"models"},
    {"data", "storage", "config", "progress", "workers"},
    {"evaluate", "train", "testing"},
    {"report", "runs", "estimator", "plan", "study"},
    {"cli", "explorer", "__main__", "__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NUMERIC = {room for rooms in FLOORS[:7] for room in rooms} - {"noise", "priors"}


def room(name: str) -> str:
    return name.removesuffix(".py").split("/")[0]


def imports(tree: ast.AST) -> set[str]:
    """The rooms of polyvae that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "polyvae":
            found |= {
                f"polyvae.{alias.name}"
                if f"{alias.name}.py" in FILES or f"{alias.name}/__init__.py" in FILES
                else "polyvae.__init__"
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {
        name.split(".")[1] if "." in name else "__init__" for name in found if name.split(".")[0] == "polyvae"
    }


def outside(tree: ast.AST) -> set[str]:
    """The packages that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def calls(tree: ast.AST) -> set[str]:
    """Everything that is called, as it is written: "torch.save", "hasattr", ".exponential_"."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            written = ast.unparse(node.func)
            found |= (
                {written} if written.startswith("nn.init.") else {written, f".{written.rsplit('.', 1)[-1]}"}
            )
    return found


def code_lines(text: str) -> int:
    """Lines of code: without docstrings, comments and blank lines."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    counted = set()
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            counted |= set(range(token.start[0], token.end[0] + 1))
    return len(counted - docstrings)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    here = room(name)
    assert here in FLOOR, f"{name}: a room that the house's plan does not know; give it a floor"
    for there in imports(TREES[name]):
        allowed = (
            there == here or FLOOR[there] < FLOOR[here] or (FLOOR[there] == FLOOR[here] and FLOOR[here] > 0)
        )
        assert allowed, f"{name} imports {there}, which is on a higher floor"


def test_imports_make_no_circle():
    """Also within a floor: rooms can be ordered so that each imports only earlier ones."""
    edges = {}
    for name, tree in TREES.items():
        edges.setdefault(room(name), set()).update(imports(tree) - {room(name)})
    left = dict(edges)
    while left:
        free = {here for here, there in left.items() if not there & left.keys()}
        assert free, f"a circle of imports among {sorted(left)}"
        left = {here: there for here, there in left.items() if here not in free}


@pytest.mark.parametrize("name", FILES)
def test_models_know_no_data_training_or_evaluation(name):
    if room(name) == "models":
        assert not imports(TREES[name]) & {"data", "train", "evaluate", "storage", "config"}
    if room(name) in ("train", "evaluate"):
        papers = {f"polyvae.models.{path.stem}" for path in (ROOT / "models").glob("*.py")}
        assert (
            not {node.module for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)} & papers
        )


@pytest.mark.parametrize("name", FILES)
def test_nobody_guesses_swallows_or_unpickles(name):
    called = calls(TREES[name])
    # Published weights come as they come; torch reads tensors from them and refuses all else.
    loads = [
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    tensors = name == "evaluate/released.py" and all(
        "weights_only=True" in map(ast.unparse, node.keywords) for node in loads
    )
    assert not called & {"hasattr", "torch.save", "eval", "exec", *([] if tensors else ["torch.load"])}
    assert not outside(TREES[name]) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    assert not any(
        isinstance(node, ast.ExceptHandler) and node.type is None for node in ast.walk(TREES[name])
    )


@pytest.mark.parametrize("name", FILES)
def test_files_fit_into_a_head(name):
    assert code_lines(FILES[name]) <= 400


@pytest.mark.parametrize("name", [name for name in FILES if room(name) in NUMERIC])
def test_draws_are_made_in_one_room(name):
    """Inside the core only noise.py draws (and priors.py and nn.init, for a starting point)."""
    called = {call for call in calls(TREES[name]) if not call.startswith("nn.init.")}
    for kind in (
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "normal",
        "bernoulli",
        "multinomial",
    ):
        assert f"torch.{kind}" not in called
    assert not called & {".multinomial", ".exponential_", ".normal_", ".uniform_", ".bernoulli_", ".random_"}


@pytest.mark.parametrize("name", [name for name in FILES if room(name) in NUMERIC | {"noise", "priors"}])
def test_the_core_stands_on_torch_alone(name):
    others = outside(TREES[name]) - sys.stdlib_module_names - {"polyvae", "torch"}
    assert others <= ({"sklearn", "zuko"} if room(name) == "priors" else set())


@pytest.mark.parametrize("name", polyvae.MODELS)
def test_a_model_overrides_nothing_that_is_concrete(name):
    """A class is abstract or final: what a base says in full, no model says again."""
    kind = polyvae.MODELS[name]
    for base in kind.__mro__[1:-1]:
        if base.__module__.startswith("polyvae"):
            concrete = {
                key
                for key, value in vars(base).items()
                if callable(getattr(value, "fget", value))
                and not getattr(value, "__isabstractmethod__", False)
            }
            assert not {key for key in vars(kind).keys() & concrete if not key.startswith("__")}

"""Which part imports which, how long a file may be, what no file does, and which words no page uses."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import polyvae
from tests.helpers import layers as table
from tests.helpers.layers import read_layers, rendered, split

ROOT = Path(polyvae.__file__).parent
TESTS = Path(__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in FILES.items()}
LAYERS = read_layers()

MODULES = {
    name: name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in FILES
}  # "core/vae.py" -> "core.vae"
STARTS = {"core.priors", "core.fitted"}  # draw starting points, and fit with other libraries
DRAWS = (
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "normal",
    "bernoulli",
    "multinomial",
)

# Words that no text in src/ and no page contains, except for texts that are stored in files and compared there.
WORDS = ("told", "anew", "whoever", "the door", "complaint", "nobody", "of one's own", "of your own")
STORED = {
    "composed anew with another seed than the published archive",  # part of the digest of PolyMNIST
    "drawn anew for each sample, where the posterior is a mixture",  # evaluation.json; pages compare it between runs
}


def part(name: str) -> str | None:
    return LAYERS.part(MODULES[name])


def annotations_only(tree: ast.AST) -> set[ast.AST]:
    """The nodes under ``if TYPE_CHECKING:``."""
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(tree: ast.AST, types: bool = False) -> set[str]:
    """The modules of polyvae that a file imports, wherever in the file: "core.noise", "__init__" for a public name.

    With ``types``, those that it imports for annotations alone.
    """
    known, found, aside = set(MODULES.values()), set(), annotations_only(tree)
    for node in ast.walk(tree):
        if (node in aside) != types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("polyvae.") in known else node.module for name in inside]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "polyvae"}
    return {name.partition(".")[2] or "__init__" for name in found}


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
            last = f".{written.rsplit('.', 1)[-1]}"
            found |= {written} if written.startswith("nn.init.") else {written, last}
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
    empty = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    counted = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            counted |= set(range(token.start[0], token.end[0] + 1))
    return len(counted - docstrings)


def prose(name: str) -> Iterator[str]:
    """Comments, docstrings and strings of a file. A string without a space is a key, not prose."""
    comments = [
        token.string.lstrip("#")
        for token in tokenize.generate_tokens(io.StringIO(FILES[name]).readline)
        if token.type == tokenize.COMMENT
    ]
    yield " ".join(comments)
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


# ---- imports -----------------------------------------------------------------------------------------------------------------------


def test_every_module_has_a_layer_and_every_layer_its_modules():
    unknown = [name for name in FILES if part(name) is None]
    assert not unknown, f"got {unknown}, which no layer contains; add them to {table.TABLE}"
    absent = LAYERS.parts.keys() - {part(name) for name in FILES} - set(LAYERS.optional)
    assert not absent, f"got layers with {sorted(absent)}, which do not exist; remove them from {table.TABLE}"


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {module}"
        for name, tree in TREES.items()
        for module in sorted(imports(tree))
        if not LAYERS.allowed(part(name), LAYERS.part(module))
    ]
    wrong += [
        f"{name} imports {module} for annotations"
        for name, tree in TREES.items()
        for module in sorted(imports(tree, types=True))
        if not LAYERS.allowed(part(name), LAYERS.part(module))
        and [part(name), LAYERS.part(module)] not in LAYERS.types
    ]
    assert not wrong, f"{wrong}; see {table.TABLE}"


def test_imports_make_no_circle():
    """Also within a layer: parts can be ordered so that each imports only earlier ones."""
    edges = {}
    for name, tree in TREES.items():
        edges.setdefault(part(name), set()).update(
            {LAYERS.part(module) for module in imports(tree)} - {part(name)}
        )
    left = dict(edges)
    while left:
        free = {here for here, there in left.items() if not there & left.keys()}
        assert free, f"a circle of imports among {sorted(left)}"
        left = {here: there for here, there in left.items() if here not in free}


def test_training_and_metrics_know_no_paper():
    papers = {f"models.{path.stem}" for path in (ROOT / "models").glob("*.py")} - {
        "models.__init__",
        "models.bundles",
    }
    wrong = {
        name: found
        for name in FILES
        if part(name) in ("training", "metrics") and (found := imports(TREES[name]) & papers)
    }
    assert not wrong


def test_the_layers_of_the_design_page_are_those_of_the_table():
    _, block, _ = split(table.PAGE.read_text())
    assert block == rendered(LAYERS), "run python -m tests.helpers.layers --write"


def test_no_test_imports_another_test():
    wrong = {}
    for path in TESTS.rglob("*.py"):
        names = {
            node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        }
        found = {name for name in names if name and re.search(r"(^|\.)test_\w+$", name)}
        if found:
            wrong[str(path.relative_to(TESTS))] = found
    assert not wrong, f"{wrong}; move what they share to tests/helpers"


# ---- what no file does -------------------------------------------------------------------------------------------------------------


def test_no_file_guesses_or_swallows():
    called = {
        name: found for name, tree in TREES.items() if (found := calls(tree) & {"hasattr", "eval", "exec"})
    }
    assert not called
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and (node.type is None or swallows(node))
    ]
    assert not bare


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether every exception is caught and nothing is done about it."""
    everything = ast.unparse(handler.type or ast.Constant(None)) in ("Exception", "BaseException")
    return everything and all(isinstance(node, ast.Pass) for node in handler.body)


def test_no_file_unpickles():
    """Published weights are the exception: torch reads tensors from them and refuses everything else."""
    wrong = []
    for name, tree in TREES.items():
        loads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        ]
        tensors = all("weights_only=True" in map(ast.unparse, node.keywords) for node in loads)
        if loads and not (tensors and name == "metrics/released.py"):
            wrong.append(f"{name}: torch.load")
        wrong += [f"{name}: torch.save"] if "torch.save" in calls(tree) else []
        wrong += [
            f"{name}: {found}"
            for found in outside(tree) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
        ]
    assert not wrong


def test_draws_are_made_in_one_module():
    """In the core and in models only noise.py draws (and priors and nn.init, for a starting point)."""
    methods = {".multinomial", ".exponential_", ".normal_", ".uniform_", ".bernoulli_", ".random_"}
    banned = methods | {f"torch.{kind}" for kind in DRAWS}
    wrong = {
        name: found
        for name in FILES
        if name.split("/")[0] in ("core", "models")
        and part(name) not in {"core.noise", *STARTS}
        and (found := calls(TREES[name]) & banned)
    }
    assert not wrong


def test_the_core_needs_torch_alone():
    wrong = {}
    for name in FILES:
        if name.split("/")[0] in ("core", "models"):
            others = outside(TREES[name]) - sys.stdlib_module_names - {"polyvae", "torch"}
            others -= {"sklearn", "zuko"} if part(name) in STARTS else set()
            others -= {"zuko"} if MODULES[name] == "models.parts.flows" else set()
            if others:
                wrong[name] = others
    assert not wrong


def test_no_model_forwards_attributes():
    """A model may subclass another; one that answers for another object in ``__getattr__`` hides what it has."""
    hooks = {"__getattr__", "__getattribute__"}
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if name.startswith("models/") and isinstance(node, ast.FunctionDef) and node.name in hooks
    ]
    assert not wrong


# ---- size and words ----------------------------------------------------------------------------------------------------------------


def test_files_have_at_most_400_lines_of_code():
    long = {name: lines for name, text in FILES.items() if (lines := code_lines(text)) > 400}
    assert not long


def test_the_package_has_at_most_16_entries():
    entries = sorted(path.name for path in ROOT.iterdir() if path.name != "__pycache__")
    assert len(entries) <= 16, entries


def test_no_page_or_file_uses_an_excluded_word():
    pages = [*table.DOCS.glob("*.md"), *table.DOCS.parent.glob("*.md"), *ROOT.rglob("*.jinja")]
    texts = [text for name in FILES for text in prose(name)] + [page.read_text() for page in pages]
    assert set(texts) >= STORED, "a stored text has changed; see the comments on STORED"
    found = [
        (word, " ".join(text.split())[:120])
        for text in set(texts) - STORED
        for word in WORDS
        if re.search(rf"\b{re.escape(word)}\b", " ".join(text.split()).lower())
    ]
    assert not found, f"got {found}; expected plain scientific English; reword the text"

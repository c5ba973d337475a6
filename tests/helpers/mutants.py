"""Mutants: changes of one expression or statement in one function, which some test must notice.

A mutant names the function and the construct, not lines of text: both sides are parsed, so line breaks, comments and parentheses do not
matter. ``tests/mutants.py`` runs them; ``tests/test_mutants.py`` checks that each can still be applied.
"""

from __future__ import annotations

import ast
import copy
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "polyvae"
TESTS = ROOT / "tests"

# The papers' formulas, and what is true of all models.
SHARED = [
    *(f"models/test_{name}.py" for name in ("vae", "mmvae", "mvae", "mopoe", "mmvaeplus", "golden")),
    "models/test_gradients.py",
    "models/test_truth.py",
    "models/test_laws.py",
    *(f"core/test_{name}.py" for name in ("bounds", "aggregate", "distributions")),
]
# The tests that run first, by module; those of SHARED follow.
FIRST = {
    "core.bounds": ["core/test_bounds.py", "models/test_gradients.py"],
    "core.aggregate": ["core/test_aggregate.py"],
    "core.distributions": ["core/test_distributions.py"],
    "core.inference": ["models/test_truth.py"],
    **{
        f"models.{name}": [f"models/test_{name}.py"]
        for name in ("vae", "mmvae", "mvae", "mopoe", "mmvaeplus")
    },
}
# The only tests that run, for modules whose own tests are to suffice. Other models: the file of their paper.
ALONE = {
    "core.recompute": ["core/test_recompute.py"],
    "models.parts.joint": ["models/test_jmvae.py"],
    "models.parts.hmc": ["models/test_jnf.py"],
    "models.parts.flows": ["models/test_jnf.py"],
}


class Mutant(NamedTuple):
    """In one function, ``old`` becomes ``new``.

    Attributes:
        where: "module:function", such as "core.bounds:iwae" or "models.vae:VAE.bound".
        old: An expression or a statement, which occurs there exactly once.
        new: What replaces it.
        harmless: Why the change is of no consequence; such a mutant runs with ``--all`` only.
        by: The one test file or test that runs; none: those of the module.
    """

    where: str
    old: str
    new: str
    harmless: str = ""
    by: str = ""

    @property
    def module(self) -> str:
        return self.where.partition(":")[0]

    @property
    def path(self) -> Path:
        """The file that contains the function, relative to the package."""
        plain = Path(*self.module.split(".")).with_suffix(".py")
        return plain if (PACKAGE / plain).exists() else plain.with_suffix("") / "__init__.py"

    @property
    def tests(self) -> list[str]:
        """The files or tests that run, once each, relative to tests/."""
        if self.by:
            return [self.by]
        paper = f"models/test_{self.module.rpartition('.')[2]}.py"
        alone = ALONE.get(self.module) or (
            [paper] if self.module.startswith("models.") and (TESTS / paper).exists() else []
        )
        if alone and self.module not in FIRST:
            return alone
        return list(dict.fromkeys(FIRST.get(self.module, []) + SHARED))


def parsed(text: str) -> ast.expr | ast.stmt:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        (statement,) = ast.parse(text).body
        return statement


@cache
def module_tree(path: Path) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text())


@cache
def function(path: Path, name: str) -> ast.FunctionDef:
    """The function or method of that qualified name."""
    node: ast.AST = module_tree(path)
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [one for one in ast.iter_child_nodes(node) if isinstance(one, kinds) and one.name == part]
        assert len(found) == 1, f"{path}: got {len(found)} definitions of {name!r}; expected one"
        node = found[0]
    assert isinstance(node, ast.FunctionDef), f"{path}: {name!r} is not a function"
    return node


@cache
def _dumps(path: Path, name: str) -> list[str]:
    return [
        ast.dump(node) for node in ast.walk(function(path, name)) if isinstance(node, ast.expr | ast.stmt)
    ]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new, self.count = ast.dump(old), new, 0

    def visit(self, node: ast.AST) -> ast.AST:
        if ast.dump(node) == self.old:
            self.count += 1
            return self.new
        return self.generic_visit(node)


def check(mutant: Mutant) -> None:
    """Raises AssertionError unless the function contains ``old`` exactly once, and ``new`` is another construct of the same kind."""
    old, new = parsed(mutant.old), parsed(mutant.new)
    count = _dumps(mutant.path, mutant.where.partition(":")[2]).count(ast.dump(old))
    assert count == 1, f"{mutant.where}: {mutant.old!r} occurs {count} times; expected once"
    assert ast.dump(old) != ast.dump(new), f"{mutant.where}: {mutant.old!r} is replaced by itself"
    assert isinstance(old, ast.stmt) or isinstance(new, ast.expr), (
        f"{mutant.where}: a statement replaces an expression"
    )


def mutated(mutant: Mutant) -> str:
    """The source of the module with the replacement made. Raises AssertionError where it cannot be made."""
    check(mutant)
    tree = copy.deepcopy(module_tree(mutant.path))
    node: ast.AST = tree
    for part in mutant.where.partition(":")[2].split("."):
        node = next(one for one in ast.iter_child_nodes(node) if getattr(one, "name", None) == part)
    old, new = parsed(mutant.old), parsed(mutant.new)
    replace = _Replace(old, ast.Expr(new) if isinstance(old, ast.stmt) and isinstance(new, ast.expr) else new)
    replace.visit(node)
    assert replace.count == 1
    return ast.unparse(ast.fix_missing_locations(tree))

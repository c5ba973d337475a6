"""Every mutant of ``make mutants`` can be applied: a change of code that makes one stale is noticed here, not hours later."""

from __future__ import annotations

import ast

from tests.helpers.mutant_list import MUTANTS
from tests.helpers.mutants import TESTS, Mutant, check, mutated, parsed


def test_every_mutant_applies_exactly_once():
    stale = []
    for mutant in MUTANTS:
        try:
            check(mutant)
        except (AssertionError, OSError) as problem:
            stale.append(str(problem))
    assert not stale, "\n".join([f"{len(stale)} of {len(MUTANTS)} mutants cannot be applied", *stale])


def test_every_mutant_compiles():
    for mutant in MUTANTS:
        new = parsed(mutant.new)
        if isinstance(new, ast.expr):
            compile(ast.Expression(new), mutant.where, "eval")
        else:
            compile(ast.Module([new], []), mutant.where, "exec")


def test_every_mutant_is_met_by_tests_that_exist():
    names = {name for mutant in MUTANTS for name in mutant.tests}
    for name in names:
        file, _, test = name.partition("::")
        assert (TESTS / file).exists(), name
        assert f"def {test.partition('[')[0]}(" in (TESTS / file).read_text() if test else True, name
    assert len(set(MUTANTS)) == len(MUTANTS)


def test_a_mutant_changes_one_construct_and_nothing_else():
    mutant = Mutant("core.bounds:elbo", "log_weight . mean( (0) )", "log_weight.sum(0)")
    changed, plain = (
        mutated(mutant),
        ast.unparse(ast.parse((TESTS.parent / "src/polyvae" / mutant.path).read_text())),
    )
    assert changed.replace("return log_weight.sum(0)", "return log_weight.mean(0)") == plain

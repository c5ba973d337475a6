"""The examples in the docstrings of the public names run, and print what they show."""

from __future__ import annotations

import doctest
import sys

import pytest

import polyvae

# Public names whose docstrings must have an example; a name is added here when its docstring is complete.
WITH_EXAMPLE = {"LIKELIHOODS", "NETWORKS", "Laplace", "Mixture", "Normal"}


def examples_of(name: str) -> list[doctest.DocTest]:
    """A class or function documents itself and its methods; a registry is documented by its module, whose first word is its name."""
    thing = getattr(polyvae, name)
    if isinstance(thing, type) or callable(thing):
        found = doctest.DocTestFinder().find(thing, name, globs={})
    else:
        docs = {
            module.__name__: module.__doc__
            for key, module in sys.modules.items()
            if key.startswith("polyvae") and (module.__doc__ or "").startswith(f"{name}: ")
        }
        parser = doctest.DocTestParser()
        found = [parser.get_doctest(doc, {}, module, None, 0) for module, doc in docs.items() if doc]
    return [each for each in found if each.examples]


EXAMPLES = {name: found for name in polyvae.__all__ if (found := examples_of(name))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_shows(name, tmp_path, monkeypatch):
    """Each example imports what it uses; files that it writes go to an empty directory."""
    monkeypatch.chdir(tmp_path)
    runner, lines = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), []
    for example in EXAMPLES[name]:
        runner.run(example, out=lines.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(lines)


def test_public_names_have_examples():
    assert set(EXAMPLES) >= WITH_EXAMPLE

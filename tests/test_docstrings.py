"""The public names document themselves: sections, shapes, and examples that run and print what they show."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import polyvae
from polyvae import models
from polyvae.core.vae import MultimodalVAE

CLASSES = [
    polyvae.Batch,
    polyvae.MultimodalData,
    MultimodalVAE,
    polyvae.Mixture,
    polyvae.Normal,
    polyvae.Laplace,
]  # every public method of these has a docstring
CALLABLE = [name for name in polyvae.__all__ if callable(getattr(polyvae, name))]


def examples_of(name: str) -> list[doctest.DocTest]:
    """A class or function documents itself and its methods; a registry is documented by its module, whose first word is its name."""
    thing = getattr(polyvae, name)
    if callable(thing):
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
EXAMPLES["polyvae"] = [doctest.DocTestParser().get_doctest(polyvae.__doc__ or "", {}, "polyvae", None, 0)]


def described(thing: object) -> set[str]:
    """The names in the Args section of a docstring; of a named tuple also those in its Attributes, which are its parameters."""
    sections = ("Args", "Attributes") if isinstance(thing, type) and issubclass(thing, tuple) else ("Args",)
    found = set()
    for title in sections:
        _, _, section = f"\n{inspect.getdoc(thing) or ''}\n".partition(f"\n{title}:\n")
        section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        found |= set(re.findall(r"^ {4}\*{0,2}(\w+): ", section, re.MULTILINE))
    return found


def parameters(thing: object) -> set[str]:
    """The parameters of a callable; none for an exception, which is raised and not called by users."""
    if isinstance(thing, type) and issubclass(thing, Exception):
        return set()
    return set(inspect.signature(thing).parameters)  # type: ignore[arg-type]


def methods(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties of a class that polyvae defines."""
    for name in dir(kind):
        owners = [base for base in kind.__mro__ if name in vars(base)]
        if name.startswith("_") or not owners or not owners[0].__module__.startswith("polyvae"):
            continue
        thing = inspect.getattr_static(kind, name)
        if isinstance(thing, property | classmethod | staticmethod) or inspect.isfunction(thing):
            yield name, getattr(kind, name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_shows(name, tmp_path, monkeypatch):
    """Each example imports what it uses; files that it writes go to an empty directory."""
    monkeypatch.chdir(tmp_path)
    runner, lines = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), []
    for example in EXAMPLES[name]:
        runner.run(example, out=lines.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(lines)


def test_every_public_name_has_an_example():
    """Also the registries, but not the module of all models."""
    assert set(polyvae.__all__) - set(EXAMPLES) == {"models"}


@pytest.mark.parametrize("name", CALLABLE)
def test_every_parameter_is_described(name):
    thing = getattr(polyvae, name)
    known, expected = described(thing), parameters(thing)
    assert known >= expected, f"{name}: Args does not describe {sorted(expected - known)}"
    assert known <= expected, f"{name}: Args describes {sorted(known - expected)}, which are not parameters"


@pytest.mark.parametrize("kind", models.MODELS.values(), ids=list(models.MODELS))
def test_every_option_of_a_model_is_described(kind):
    assert described(kind) == parameters(kind)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_docstring_with_shapes(kind):
    """A method that returns a tensor states its shape in brackets."""
    for name, thing in methods(kind):
        doc = inspect.getdoc(thing) or ""
        assert doc, f"{kind.__name__}.{name} has no docstring"
        function = thing.fget if isinstance(thing, property) else thing
        if str(inspect.signature(function).return_annotation) == "Tensor":
            assert re.search(r"\[.*\]", doc), f"{kind.__name__}.{name} does not state the shape of its result"


def test_public_names_alone_are_listed():
    """``pv.<tab>`` shows the public names, and ``pv.models.<tab>`` all model classes by name."""
    assert set(dir(polyvae)) == {*polyvae.__all__, "__version__"}
    assert all(getattr(polyvae, name) is not None for name in polyvae.__all__)
    assert {kind.__name__ for kind in models.MODELS.values()} <= set(dir(models))
    assert {name for name in dir(models) if name[0].isupper()} == {
        "MODELS",
        *(kind.__name__ for kind in models.MODELS.values()),
    }


def test_import_loads_nothing_heavy():
    """What training, evaluation, reports and the command line need is imported where it is used."""
    heavy = {"sklearn", "scipy", "pandas", "matplotlib", "lightning_fabric", "torchmetrics", "torchvision"}
    heavy |= {"zuko", "jinja2", "typer", "PIL", "polyvae.report", "polyvae.study", "polyvae.testing"}
    code = "import sys, polyvae; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())

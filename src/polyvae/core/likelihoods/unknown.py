"""What is said of names of likelihoods and parameters that are unknown."""

from __future__ import annotations

from collections.abc import Iterable

from polyvae.utils.errors import nearest

_OWNERS = {"parts": "likelihood 'mixed'", "overrides": "data.modalities(likelihood='auto')"}


def unknown_likelihood(name: object, known: Iterable[str]) -> str:
    """The text for a likelihood that is none of ``known``."""
    known = list(known)
    hint = nearest(str(name), [*known, "auto"])
    if hint == "did you mean 'auto'?":
        chooses = "data.modalities(likelihood='auto') chooses one by the values of the data"
        hint = chooses if str(name).lower() == "auto" else f"{hint} {chooses}"
    elif not hint.startswith("did"):
        hint = "choose one, or let data.modalities(likelihood='auto') choose by the values"
    return f"unknown likelihood {name!r}; expected one of {', '.join(known)}; {hint}"


def unknown_parameter(key: str, likelihood: str, known: Iterable[str]) -> str:
    """The text for a parameter that neither a likelihood nor the network of its modality accepts."""
    hint = f"{key!r} belongs to {_OWNERS[key]}" if key in _OWNERS else nearest(key, sorted(known))
    return f"unknown parameter {key!r} for likelihood {likelihood!r}; {hint}"

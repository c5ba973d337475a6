"""Import paths of modules that have moved: files written before still contain the old ones."""

from __future__ import annotations

_MOVED = {
    "polyvae.aggregate": "polyvae.core.aggregate",
    "polyvae.counts": "polyvae.core.likelihoods.counts",
    "polyvae.distributions": "polyvae.core.distributions",
    "polyvae.likelihoods": "polyvae.core.likelihoods",
    "polyvae.linear": "polyvae.core.likelihoods.linear",
    "polyvae.modality": "polyvae.core.modality",
    "polyvae.networks": "polyvae.core.networks",
    "polyvae.priors": "polyvae.core.priors",
    "polyvae.vae": "polyvae.core.vae",
}
"""Old module -> new module. The modules inside them moved along."""


def moved(path: str) -> str:
    """The import path "package.module:NAME" as it is today; a path that has not moved is returned unchanged."""
    module, colon, name = path.partition(":")
    for old, new in _MOVED.items():
        if module == old or module.startswith(f"{old}."):
            return f"{new}{module.removeprefix(old)}{colon}{name}"
    return path

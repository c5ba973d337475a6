"""What models of two levels share: a code w_m below for each modality, and a code z above that tells of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from polyvae.core.networks.mlp import layers
from polyvae.core.priors import TopDownPrior
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.errors import InputError, check_count


def sizes(model: str, hidden: object) -> list[int]:
    """``hidden`` as a list. Raises InputError unless it holds whole numbers of 1 or more."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise InputError(
            f"{model}: got hidden={hidden!r}; expected a list of sizes, such as [256]; [] for a linear map"
        )
    for size in hidden:
        check_count(model, "hidden", size)
    return list(hidden)


def top_down(
    model: MultimodalVAE, latent: int, hidden: Sequence[int], why: str, scale: float = 1.0
) -> TopDownPrior:
    """p(w_m | z) = N(g_m(z), scale²), with a network g_m for each modality: its part "top_down".

    ``hidden``: its sizes, from the last to the first.

    Raises InputError where a modality has no private columns, and says ``why`` it needs them.
    """
    for name, net in model.modalities.items():
        if not net.private:
            raise InputError(
                f"{model.name}: modality {name!r} has private=0; expected at least one column, for {why}; "
                "leave private out, latent says it for all"
            )
        net.parts["top_down"] = nn.Sequential(*layers([latent, *reversed(hidden), net.private]))
    return TopDownPrior(latent, [net.parts["top_down"] for net in model.modalities.values()], scale)

"""Parts of models with two levels: private latents w_m below, and a shared latent z above them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from polyvae.core.networks.mlp import layers
from polyvae.core.priors import TopDownPrior
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.errors import InputError, check_count


def sizes(model: str, hidden: object) -> list[int]:
    """``hidden`` as a list of sizes.

    Raises:
        InputError: Not a sequence of whole numbers, 1 or more.
    """
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

    Args:
        model: The model.
        latent: Columns of z.
        hidden: Sizes of the hidden layers of g_m, from the last to the first.
        why: Why every modality needs private columns, for the error.
        scale: The scale of every p(w_m | z).

    Raises:
        InputError: A modality without private columns.
    """
    for name, net in model.modalities.items():
        if not net.private:
            raise InputError(
                f"{model.name}: modality {name!r} has private=0; expected at least one column, for {why}; "
                "leave private out, and latent sets it for all"
            )
        net.parts["top_down"] = nn.Sequential(*layers([latent, *reversed(hidden), net.private]))
    return TopDownPrior(latent, [net.parts["top_down"] for net in model.modalities.values()], scale)

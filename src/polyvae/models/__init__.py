"""MODELS: every model by name. One file per paper."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from polyvae.errors import InputError, nearest
from polyvae.modality import Modality
from polyvae.models.cmvae import CMVAE
from polyvae.models.codevae import CoDEVAE
from polyvae.models.composed import Composed
from polyvae.models.crmvae import CRMVAE
from polyvae.models.deepimv import DeepIMV
from polyvae.models.dmvae import DMVAE
from polyvae.models.hellinger import Hellinger
from polyvae.models.hmvae import HMVAE
from polyvae.models.holder import Hoelder
from polyvae.models.idmvae import IDMVAE
from polyvae.models.jmvae import JMVAE
from polyvae.models.mmjsd import MMJSD
from polyvae.models.mmvae import MMVAE
from polyvae.models.mmvaeplus import MMVAEPlus
from polyvae.models.mmvm import MMVM
from polyvae.models.mopoe import MoPoE
from polyvae.models.mvae import MVAE
from polyvae.models.mvtcae import MVTCAE
from polyvae.models.nexus import Nexus
from polyvae.models.relational import Relational
from polyvae.models.scmm import ScMM
from polyvae.models.telbo import TELBO
from polyvae.models.vae import VAE
from polyvae.vae import MultimodalVAE

MODELS: dict[str, type[MultimodalVAE]] = {
    "vae": VAE,
    "mvae": MVAE,
    "mmvae": MMVAE,
    "mopoe": MoPoE,
    "mmvae+": MMVAEPlus,
    "mmjsd": MMJSD,
    "mvtcae": MVTCAE,
    "crmvae": CRMVAE,
    "mmvm": MMVM,
    "jmvae": JMVAE,
    "telbo": TELBO,
    "dmvae": DMVAE,
    "nexus": Nexus,
    "deepimv": DeepIMV,
    "relational": Relational,
    "hmvae": HMVAE,
    "code-vae": CoDEVAE,
    "scmm": ScMM,
    "cmvae": CMVAE,
    "hellinger": Hellinger,
    "holder": Hoelder,
    "idmvae": IDMVAE,
    "composed": Composed,
}


def model_class(name: str) -> type[MultimodalVAE]:
    """The class that a name stands for. Raises InputError for an unknown name, with the nearest known one."""
    if name not in MODELS:
        raise InputError(f"model: unknown name {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def options_of(name: str) -> tuple[str, ...]:
    """The keywords that a model's constructor takes."""
    return tuple(key for key in inspect.signature(model_class(name)).parameters if key != "modalities")


def build(name: str, modalities: Sequence[Modality], **options: Any) -> MultimodalVAE:
    """The model ``name`` over ``modalities``. Raises InputError for an unknown name or option, with the nearest known one."""
    for key in options:
        if key not in options_of(name):
            raise InputError(f"model {name!r}: unknown option {key!r}; {nearest(key, options_of(name))}")
    return model_class(name)(modalities, **options)


def cite(name: str) -> str:
    """Whom to cite for a model."""
    return model_class(name).citation


__all__ = ["MMVAE", "MODELS", "MVAE", "VAE", "MMVAEPlus", "MoPoE", "build", "cite", "model_class", "options_of"]

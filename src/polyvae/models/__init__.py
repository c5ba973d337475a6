"""MODELS: every model by name, one file per paper.

Each class is also an attribute of this module, such as ``pv.models.MVTCAE``. Models of other packages are
addressed by an import path, "package.module:Class".

Example:
    >>> import polyvae as pv
    >>> pv.MODELS["mvtcae"] is pv.models.MVTCAE
    True
    >>> pv.MODELS["mvtcae"].citation
    'Hwang et al. 2021'
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models.cmvae import CMVAE
from polyvae.models.codevae import CoDEVAE
from polyvae.models.composed import Composed
from polyvae.models.contrastive import Contrastive
from polyvae.models.crmvae import CRMVAE
from polyvae.models.deepimv import DeepIMV
from polyvae.models.dmvae import DMVAE
from polyvae.models.hellinger import Hellinger
from polyvae.models.hmvae import HMVAE
from polyvae.models.holder import Hoelder
from polyvae.models.idmvae import IDMVAE
from polyvae.models.jmvae import JMVAE
from polyvae.models.jnf import JNF
from polyvae.models.meme import MEME
from polyvae.models.mfm import MFM
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
from polyvae.models.setfusion import SetFusion
from polyvae.models.subsetpoe import SubsetPoE
from polyvae.models.telbo import TELBO
from polyvae.models.uhved import UHVED
from polyvae.models.vae import VAE
from polyvae.models.vcca import BiVCCA, VCCAPrivate
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.records import check_keywords

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
    "jnf": JNF,
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
    "mmvae-contrastive": Contrastive,
    "meme": MEME,
    "vcca-private": VCCAPrivate,
    "bivcca": BiVCCA,
    "mfm": MFM,
    "u-hved": UHVED,
    "subset-poe": SubsetPoE,
    "set-fusion": SetFusion,
    "composed": Composed,
}


def model_class(name: str) -> type[MultimodalVAE]:
    """The class of a model.

    Args:
        name: A name in MODELS, or an import path "package.module:Class".

    Returns:
        The class, a subclass of MultimodalVAE.

    Raises:
        InputError: An unknown name, a path that cannot be imported, or an object that is not a model.
    """
    if ":" in name:
        return _imported(name)
    if name not in MODELS:
        raise InputError(f"model: unknown name {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def name_of(model: MultimodalVAE) -> str:
    """The name of a model in ``build``, configurations and bundles.

    It is the name in MODELS or else the import path of the class.
    """
    kind = type(model)
    return kind.name if MODELS.get(kind.name) is kind else f"{kind.__module__}:{kind.__qualname__}"


def options_of(name: str) -> tuple[str, ...]:
    """The keywords of the constructor of a model.

    Args:
        name: A name in MODELS, or an import path "package.module:Class".
    """
    return tuple(key for key in inspect.signature(model_class(name)).parameters if key != "modalities")


def build(name: str, modalities: Sequence[Modality], **options: Any) -> MultimodalVAE:
    """Build a model by name.

    Args:
        name: A name in MODELS, or an import path "package.module:Class".
        modalities: The specifications of the modalities, in the order of every M axis.
        **options: Keywords of the constructor. ``polyvae models NAME`` lists them.

    Returns:
        The model. ``model(batch)`` is its objective in nats per sample, [B].

    Raises:
        InputError: An unknown name or option, with the nearest known one, or an option or a modality that
            the model cannot be built with.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("rna", 200, private=4), pv.Modality("protein", 20, private=2)]
        >>> pv.build("mmvae+", modalities, latent=8, K=10, objective="iwae")
        MMVAEPlus(latent=8, K=10, beta=1.0, objective='iwae')
          rna      (200,)  normal  mlp  both  private 4
          protein  (20,)   normal  mlp  both  private 2
          769,806 parameters
    """
    for key in options:
        if key not in options_of(name):
            raise InputError(f"model {name!r}: unknown option {key!r}; {nearest(key, options_of(name))}")
    kind = model_class(name)
    try:
        return kind(modalities, **options)
    except InputError:
        raise
    except Exception:  # most often an option of another type
        check_keywords(f"model {name!r}", kind, options)
        raise


def cite(name: str) -> str:
    """The paper to cite for a model.

    Args:
        name: A name in MODELS, or an import path "package.module:Class".

    Returns:
        Authors and year. The docstring of the class has the title.

    Raises:
        InputError: An unknown name, or a path that cannot be imported.

    Example:
        >>> import polyvae as pv
        >>> pv.cite("mmvae+")
        'Palumbo et al. 2023'
    """
    return model_class(name).citation


def _imported(path: str) -> type[MultimodalVAE]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as problem:
        why = " ".join(str(problem).split())
        raise InputError(
            f"model: cannot import {path!r} ({why}); expected 'package.module:Class'; install the package, "
            "or add its folder to PYTHONPATH"
        ) from None
    if not isinstance(found, type) or not issubclass(found, MultimodalVAE) or inspect.isabstract(found):
        raise InputError(
            f"model: {path!r} is not a model; expected a subclass of MultimodalVAE that defines "
            "posterior, private and bound; define them"
        )
    missing = [
        key for key in ("facts", "name", "citation", "private_latents") if getattr(found, key, None) is None
    ]
    if missing:
        raise InputError(
            f"model: {path!r} does not define {missing[0]}; expected facts, name, citation and "
            "private_latents; add it to the class"
        )
    return found


__all__ = [
    "CMVAE",
    "CRMVAE",
    "DMVAE",
    "HMVAE",
    "IDMVAE",
    "JMVAE",
    "JNF",
    "MEME",
    "MFM",
    "MMJSD",
    "MMVAE",
    "MMVM",
    "MODELS",
    "MVAE",
    "MVTCAE",
    "TELBO",
    "UHVED",
    "VAE",
    "BiVCCA",
    "CoDEVAE",
    "Composed",
    "Contrastive",
    "DeepIMV",
    "Hellinger",
    "Hoelder",
    "MMVAEPlus",
    "MoPoE",
    "Nexus",
    "Relational",
    "ScMM",
    "SetFusion",
    "SubsetPoE",
    "VCCAPrivate",
    "build",
    "cite",
    "model_class",
    "name_of",
    "options_of",
]


def __dir__() -> list[str]:
    return sorted(__all__)

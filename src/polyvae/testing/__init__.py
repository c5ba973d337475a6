"""Laws that every model obeys, to check registered and user-defined models.

    from polyvae.testing import check_data, check_model
    check_data(data)                             # MultimodalData, or a Loader; see polyvae.testing.data
    check_model(MyModel, K=3)                    # a class, a name in MODELS, or a callable (modalities, **options) -> model

Each law is a function ``law_...(make, modalities)`` of a factory ``make(modalities) -> model`` and the modalities of a small example. It
raises AssertionError with one line that names the law. ``law_covariates`` gives the modalities covariates by itself, and is no part of
``check_model``. A model is exempt from a law only by its ``facts``. Everything is computed in
float64 on the CPU, with perturbed parameters and systematically masked data; the state of torch's global generator is restored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models import build
from polyvae.testing.data import DATA_LAWS, LOADER_LAWS, check_data
from polyvae.testing.laws import LAWS
from polyvae.testing.laws.computing import (
    law_bound,
    law_complete,
    law_decodes,
    law_gradients,
    law_max_rows,
    law_noise,
    law_precision,
    law_terms,
    law_trains,
)
from polyvae.testing.laws.covariates import law_covariates
from polyvae.testing.laws.missing import (
    law_agree,
    law_empty,
    law_entries,
    law_inference,
    law_missing,
    law_nested,
    law_per_sample,
    law_posterior,
    law_symmetric,
)
from polyvae.testing.laws.storing import law_options, law_storage, law_toml
from polyvae.testing.worlds import (
    conditioned,
    default_worlds,
    example_batch,
    example_data,
    example_model,
    labels_world,
    plain_world,
    roles_world,
    uneven,
)


def check_model(
    model: str | Callable[..., MultimodalVAE],
    *,
    modalities: Sequence[Modality] | None = None,
    **options: object,
) -> None:
    """Check a model against all laws.

    Args:
        model: A name in MODELS, a model class, or a callable ``(modalities, **options) -> model``.
        modalities: The modalities to build it with; None: those of ``default_worlds``.
        options: Options of the model.

    Raises:
        AssertionError: A law does not hold; one line names the law.

    Example:
        >>> from polyvae.testing import check_model
        >>> check_model("mvae", latent=2)
    """

    def make(specs: Sequence[Modality]) -> MultimodalVAE:
        return build(model, specs, **options) if isinstance(model, str) else model(specs, **options)

    for specs, law in itertools.product(
        [tuple(modalities)] if modalities is not None else default_worlds(make), LAWS
    ):
        law(make, specs)


__all__ = [
    "DATA_LAWS",
    "LAWS",
    "LOADER_LAWS",
    "check_data",
    "check_model",
    "conditioned",
    "default_worlds",
    "example_batch",
    "example_data",
    "example_model",
    "labels_world",
    "law_agree",
    "law_bound",
    "law_complete",
    "law_covariates",
    "law_decodes",
    "law_empty",
    "law_entries",
    "law_gradients",
    "law_inference",
    "law_max_rows",
    "law_missing",
    "law_nested",
    "law_noise",
    "law_options",
    "law_per_sample",
    "law_posterior",
    "law_precision",
    "law_storage",
    "law_symmetric",
    "law_terms",
    "law_toml",
    "law_trains",
    "plain_world",
    "roles_world",
    "uneven",
]

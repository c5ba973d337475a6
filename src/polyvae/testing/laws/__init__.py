"""The laws. Each is a function of a factory ``make(modalities) -> model`` and of the modalities of a small example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polyvae.core.modality import Modality
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
from polyvae.testing.worlds import Make

LAWS: tuple[Callable[[Make, Sequence[Modality]], None], ...] = (
    law_options,
    law_noise,
    law_per_sample,
    law_missing,
    law_agree,
    law_empty,
    law_posterior,
    law_inference,
    law_entries,
    law_decodes,
    law_gradients,
    law_terms,
    law_bound,
    law_nested,
    law_symmetric,
    law_complete,
    law_max_rows,
    law_precision,
    law_trains,
    law_storage,
    law_toml,
)

__all__ = ["LAWS"]

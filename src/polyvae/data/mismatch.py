"""What is said where data have other columns than the training data."""

from __future__ import annotations

from collections.abc import Sequence

from polyvae.data.multimodal import MultimodalData
from polyvae.utils.errors import InputError
from polyvae.utils.text import counted, named


def no_columns(name: str, columns: Sequence[str], data: MultimodalData) -> InputError:
    """The error where the data have no column of a modality: it is transposed, or another modality."""
    given = data.columns[name]
    known, ids = set(columns), [str(each) for each in data.ids or ()]
    swapped = sum(each in known for each in ids)
    if swapped > 1:
        return InputError(
            f"modality {name!r}: got the names of {counted(swapped, 'column', 'columns')} as ids of samples; expected a row for each "
            "sample; transpose the table"
        )
    return InputError(
        f"modality {name!r}: got {named(given, 3)} and none of the {counted(len(known), 'column', 'columns')} of the training data "
        f"({named(columns, 3)}); expected all of them; is it another modality, or transposed?"
    )


def sized(shape: Sequence[int]) -> str:
    """The shape of a sample in words."""
    return counted(shape[0], "column", "columns") if len(shape) == 1 else f"shape {tuple(shape)}"

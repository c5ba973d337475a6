"""What tests of files and directories share."""

from __future__ import annotations

import pytest

from polyvae.utils.errors import InputError


def message(call, *arguments, kind=InputError, **keywords):
    """The error's text; it must be one line."""
    with pytest.raises(kind) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(checkpoints):
    return sorted(file.name for file in checkpoints.directory.iterdir())

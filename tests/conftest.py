"""One thread, one seed, and the small worlds that tests share."""

from __future__ import annotations

import os

import pytest
import torch

# A made-up device is there for the whole process, and autograd's threads for it do not survive a fork: tests/test_devices.py runs these.
collect_ignore = [] if os.environ.get("POLYVAE_FAKE_DEVICE") else ["devices"]

pytest.register_assert_rewrite("tests.helpers")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole commands come first: at the end, a long one would leave the other process without work."""
    items.sort(key=lambda item: len(item.path.parts))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same state of torch's generators. To seed those of accelerators takes long."""
    torch.default_generator.manual_seed(0)
    if torch.accelerator.is_available():
        torch.manual_seed(0)


@pytest.fixture
def double():
    """Tensors that a test makes are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

"""What holds during one training and is undone afterwards: threads, the memory setting, the handling of Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from polyvae.core.vae import MultimodalVAE

one_at_a_time = threading.RLock()
"""Held during a training: torch's generator and its number of threads belong to the process, not to a thread."""


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def max_rows(model: MultimodalVAE, count: int | None) -> Iterator[None]:
    """Inside, the model decodes at most ``count`` rows at a time; None: as many as it was set to."""
    before = model.max_rows
    model.max_rows = before if count is None else count
    try:
        yield
    finally:
        model.max_rows = before


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is noted; a second one interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)

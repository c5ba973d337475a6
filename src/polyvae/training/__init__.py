"""Training: the loop, checkpoints and run directories."""

from polyvae.training.history import History, TrainingError
from polyvae.training.loop import Watch, fit
from polyvae.training.validation import validate

__all__ = ["History", "TrainingError", "Watch", "fit", "validate"]

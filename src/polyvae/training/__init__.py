"""Training: the loop, checkpoints and run directories."""

from polyvae.training.loop import History, TrainingError, Watch, fit, validate

__all__ = ["History", "TrainingError", "Watch", "fit", "validate"]

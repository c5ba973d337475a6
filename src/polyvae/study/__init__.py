"""Studies: a grid of runs from one TOML, as tables and plots."""

from polyvae.study.run import Done, run_study

__all__ = ["Done", "run_study"]

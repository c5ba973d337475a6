"""Studies: grids of runs from one TOML file, with tables and plots."""

from polyvae.study.run import Done, run_study

__all__ = ["Done", "run_study"]

"""The command line. Each command is a thin call."""

from polyvae.cli.commands import app, main

__all__ = ["app", "main"]

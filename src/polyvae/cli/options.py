"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as train.epochs=5; repeatable."),
]
Run = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="PACKAGE", help="A package whose code the run may import; repeatable."),
]
# An empty metavar: by default the help would show flags as if they took a value, "--quiet <bool>".
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Print only the result.")]

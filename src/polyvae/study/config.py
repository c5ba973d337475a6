"""The configuration of a study."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from polyvae.config import ALIASES, RunConfig, Section
from polyvae.utils.errors import nearest

_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Axes = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Plot(Section):
    """A plot of a study."""

    kind: Literal["curve", "tradeoff"]
    x: str = Field(description='A number of an evaluation; of a "curve", an axis of the study.')
    y: str = Field(description="A number of an evaluation.")
    along: str = Field(
        default="", description="The axis that the paths of a trade-off follow, if there are several."
    )
    title: str = ""
    table: str = Field(default="", description="Plot the contenders of the table with this title.")
    log_x: bool = False
    log_y: bool = False
    reference_x: str = Field(
        default="", description="A contender whose mean of ``x`` is drawn only as a line across the plot."
    )
    reference_y: str = Field(
        default="", description="A contender whose mean of ``y`` is drawn only as a line across the plot."
    )


class StudySection(Section):
    """The table ``[study]``: what is compared, and for how long each cell is trained."""

    title: str
    about: str = ""
    seeds: Annotated[list[_Seed], Field(min_length=1)] = Field(
        default=[0, 1, 2], description="The whole grid is run once for each seed (``--seeds 2``: [0, 1])."
    )
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Processor time of one thread for each cell; whole epochs are planned from it before training. If neither "
        "``seconds`` nor ``epochs`` is given, [base] sets the epochs.",
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Epochs of each cell.")
    jobs: Annotated[int, Field(ge=1)] = Field(
        default=2, description="Cells that run at the same time, one process with one thread each."
    )
    columns: list[str] = Field(
        default=[
            "conditional_coherence",
            "unconditional_coherence",
            "unconditional_coherence_fitted",
            "log_likelihood",
        ],
        description="The numbers of an evaluation that the tables show, and seconds_per_epoch, processor_seconds_per_epoch.",
    )
    plots: list[Plot] = Field(default=[])

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"got seeds = {self.seeds}; expected each once; remove the repeated ones")
        if self.seconds is not None and self.epochs is not None:
            raise ValueError("got seconds and epochs; expected one of them; epochs are planned from seconds")
        return self


class ContenderSection(Section):
    """One table ``[[contender]]``: a label, and the settings of a run."""

    model_config = ConfigDict(extra="allow")

    label: str
    table: str = Field(default="", description="The title of the table that shows this contender.")
    skip: list[str] = Field(default=[], description="Axes of the study that do not vary for this contender.")
    axes: _Axes = Field(default={}, description="Axes of this contender alone.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        known = [*cls.model_fields, *RunConfig.model_fields, *ALIASES]
        for key in values if isinstance(values, dict) else ():
            if key.split(".")[0] not in known:
                raise ValueError(f"unknown key {key!r}; {nearest(key, known)}")
        return values


class StudyConfig(Section):
    """The TOML file of a study: ``[study]``, ``[base]``, ``[axes]`` and ``[[contender]]``.

    Settings are those of the TOML file of a run, nested or dotted; "private" is short for "modality.*.private". Where a setting is given
    more than once, [axes] take precedence over a contender, and a contender over [base].
    """

    study: StudySection
    base: dict[str, Any] = Field(default={}, description="Settings that all runs share.")
    axes: _Axes = Field(default={}, description="Setting -> the values that it takes.")
    contender: Annotated[list[ContenderSection], Field(min_length=1)]

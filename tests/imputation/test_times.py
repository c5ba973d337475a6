"""y as time and event."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyvae as pv
from polyvae.imputation.times import Times, are_times

IDS = ["p", "q", "r", "s"]
TIME, EVENT = [5.0, 2.0, 9.5, 4.0], [True, False, True, False]
STRUCTURED = np.array(list(zip(EVENT, TIME, strict=True)), dtype=[("cens", "?"), ("time", "f8")])


@pytest.mark.parametrize(
    "y",
    [
        pd.DataFrame({"days": TIME, "died": EVENT}),
        pd.DataFrame({"status": np.array(EVENT, int), "days": TIME}, index=IDS),
        pd.DataFrame({"days": TIME, "died": EVENT}, index=IDS).iloc[::-1],
        pl.DataFrame({"event": EVENT, "time": TIME}),
        STRUCTURED,
        np.stack([TIME, EVENT], 1),
        list(zip(TIME, EVENT, strict=True)),
        dict(zip(IDS, zip(TIME, np.array(EVENT, int), strict=True), strict=True)) | {"z": (3.0, 1)},
        dict(zip(IDS, zip(TIME, ["True", "false", "TRUE", "False"], strict=True), strict=True)),
    ],
)
def test_forms_of_time_and_event(y):
    assert are_times(y, 4)
    found = Times.of(y, IDS, 4)
    assert found.time.tolist() == TIME
    assert found.event.tolist() == EVENT
    assert found.known.all()


@pytest.mark.parametrize(
    "y",
    [
        [(5.0, 1), None, (9.5, 1), (4.0, 0)],
        {"p": (5.0, 1), "q": None, "r": (9.5, 1), "s": (4.0, 0)},
        {"p": (5.0, 1), "r": (9.5, 1), "s": (4.0, 0)},
        pd.DataFrame({"t": [5.0, None, 9.5, 4.0], "e": pd.array([True, None, True, False], "boolean")}),
        np.array([[5.0, 1], [np.nan, np.nan], [9.5, 1], [4.0, 0]]),
    ],
)
def test_times_may_be_missing_for_some(y):
    assert are_times(y, 4)
    found = Times.of(y, IDS, 4)
    assert found.known.tolist() == [True, False, True, True]
    assert found.survival().time.tolist() == [5.0, 9.5, 4.0]


@pytest.mark.parametrize(
    "y",
    [TIME, ["a", "b", "a", "b"], {"p": 1.0}, pd.Series(TIME), np.zeros((4, 2)), np.ones((4, 3)), {}, np.eye(4)[:, :2]],
)  # fmt: skip
def test_what_is_no_time_and_event(y):
    assert not are_times(y, 4)


@pytest.mark.parametrize(
    ("time", "event", "match"),
    [
        ([5, -2, 9, 4], EVENT, "got -2.*as a time"),
        ([5, np.inf, 9, 4], EVENT, "inf"),
        (["5", "2", "9", "4"], EVENT, "'5'"),
        (TIME, [0, 0, 0, 0], "all of them censored"),
        (TIME, [1, 2, 1, 1], "got 2.*as an event"),
        (TIME, ["dead", "alive", "dead", "dead"], "'dead'"),
        ([5, np.nan, 9, 4], EVENT, "event without time for 1 sample, such as 'q'"),
        (TIME, [1, np.nan, np.nan, 0], "time without event for 2 samples"),
        ([np.nan] * 4, [None] * 4, "no known time"),
    ],
)
def test_bad_times_are_refused_in_one_line(time, event, match):
    with pytest.raises(pv.InputError, match=match) as found:
        Times.of(list(zip(time, event, strict=True)), IDS, 4)
    assert "\n" not in str(found.value)


def test_one_column_is_no_time_and_event():
    with pytest.raises(pv.InputError, match="two columns"):
        Times.of(TIME, IDS, 4)

"""y as time and event."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyvae as pv
from polyvae.imputation.targets.times import Times, columns_in, event_first, flag_of

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
        np.array(list(zip(TIME, ["yes", "No", " YES ", "no"], strict=True)), dtype=object),
        list(zip(["1", "0", "1", "0"], TIME, strict=True)),
        np.stack([EVENT, TIME], 1),
        dict(zip(IDS, zip(EVENT, TIME, strict=True), strict=True)),
    ],
)
def test_forms_of_time_and_event(y):
    assert columns_in(y, 4) == 2
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
    assert columns_in(y, 4) == 2
    found = Times.of(y, IDS, 4)
    assert found.known.tolist() == [True, False, True, True]
    assert found.survival().time.tolist() == [5.0, 9.5, 4.0]


@pytest.mark.parametrize(
    "y",
    [TIME, ["a", "b", "a", "b"], {"p": 1.0}, pd.Series(TIME), np.zeros((4, 2)), np.ones((4, 3)), {}],
)  # fmt: skip
def test_what_is_no_time_and_event(y):
    expected = y.shape[1] if isinstance(y, np.ndarray) else 1
    assert columns_in(y, 4) == expected
    with pytest.raises(pv.InputError):
        Times.of(y, IDS, 4)


@pytest.mark.parametrize(
    ("time", "event", "match"),
    [
        ([5, -2, 9, 4], EVENT, "got -2 as the time of sample .q."),
        ([5, np.inf, 9, 4], EVENT, "inf"),
        (["5", "2", "9", "4"], EVENT, "'5'"),
        (TIME, [0, 0, 0, 0], "all of them censored"),
        (
            TIME,
            [1, 2, 1, 1],
            r"got 2 values as events in the second column: '1' \(3\), '2' \(1\).*status == 2",
        ),
        ([1, 2, 2, 1], TIME, "got 4 values as events in the second column.*after the times in the first"),
        (TIME, ["dead", "alive", "dead", "dead"], "'dead'.*status == 'dead'"),
        (
            [5, np.nan, 9, 4],
            EVENT,
            "the second column without one in the first column for 1 sample, such as sample 'q'",
        ),
        (TIME, [1, np.nan, np.nan, 0], "the first column without one in the second column for 2 samples"),
        (["5", "x", "9", "y"], EVENT, "got 'x' as the time of sample 'q' and 1 other, in the first column"),
        ([np.nan] * 4, [None] * 4, "no known time"),
    ],
)
def test_bad_times_are_refused_in_one_line(time, event, match):
    with pytest.raises(pv.InputError, match=match) as found:
        Times.of(list(zip(time, event, strict=True)), IDS, 4)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (TIME, "got one column; expected two"),
        (np.ones((4, 3)), "got 3 columns; expected two"),
        (
            pd.DataFrame(np.ones((4, 3)), columns=["days", "died", "age"]),
            r"3 columns \('days', 'died', 'age'\)",
        ),
        ([(1, 2, 3)] * 4, "got 3 columns"),
    ],
)
def test_another_number_of_columns_is_no_time_and_event(y, match):
    with pytest.raises(pv.InputError, match=match):
        Times.of(y, IDS, 4)


def test_errors_name_columns_and_samples():
    y = pd.DataFrame({"days": [5, -2, 9, -4], "vital": ["a", "b", "a", "b"]}, IDS)
    with pytest.raises(pv.InputError, match=r"in column 'vital'.*times in column 'days'"):
        Times.of(y, IDS, 4)
    with pytest.raises(pv.InputError, match="got -2 as the time of sample 'q' and 1 other, in column 'days'"):
        Times.of(y.assign(vital=EVENT), IDS, 4)
    with pytest.raises(pv.InputError, match="got -2 as the time of sample 2 "):
        Times.of(y.assign(vital=EVENT).to_numpy(), None, 4)


def test_the_event_comes_first_where_it_alone_looks_like_one():
    """One rule for every form: two columns of zeros and ones are time and event, in this order."""
    assert event_first(EVENT, TIME)
    assert not event_first(TIME, EVENT)
    assert not event_first([0, 1, 1, 0], [1, 1, 0, 1])
    found = Times.of(pd.DataFrame({"event": [0, 1, 1, 0], "time": [1, 1, 0, 1]}), None, 4)
    assert found.time.tolist() == [0, 1, 1, 0]
    assert [flag_of(value) for value in ("YES", "no", 1.0, False, "t", 2, None)] == [
        True,
        False,
        True,
        False,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("target", ["class", "number"])
def test_several_columns_are_neither_class_nor_number(target):
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(pv.InputError, match=f"2 columns with target='{target}'"):
        pv.Estimator(target=target, steps=1).fit(x, np.stack([TIME, EVENT], 1))

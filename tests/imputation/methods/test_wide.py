"""Coordinates of wide tables."""

import numpy as np
import pytest

import polyvae as pv
from polyvae.imputation.methods.wide import Wide
from polyvae.imputation.tables import Tables


def tables(n: int = 40, wide: int = 1500) -> Tables:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 4))
    values = {"wide": z @ rng.normal(size=(4, wide)) + rng.normal(size=(n, wide)), "narrow": z[:, :3].copy()}
    values["wide"] -= values["wide"].mean(0)
    observed = {name: np.ones(x.shape, bool) for name, x in values.items()}
    return Tables({name: x.astype("f4") for name, x in values.items()}, observed)


def test_fewer_samples_than_columns_lose_nothing():
    given = tables()
    found = Wide(given)
    down = found.down(given)
    assert down.values["wide"].shape == (40, 39)
    assert down.values["narrow"] is given.values["narrow"]
    assert down.values["wide"].var(0).mean() == pytest.approx(1, rel=0.05)
    assert np.abs(found.up(down.values)["wide"] - given.values["wide"]).max() < 1e-3


def test_missing_samples_stay_missing():
    given = tables()
    given.observed["wide"][:5] = False
    given.values["wide"][:5] = 0
    down = Wide(given).down(given)
    assert not down.observed["wide"][:5].any()
    assert down.observed["wide"][5:].all()
    assert (down.values["wide"][:5] == 0).all()


def test_a_member_sees_samples_that_it_left_out_as_it_sees_new_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1500)).astype("f4")
    known, new = (Tables({"wide": part}, {"wide": np.ones(part.shape, bool)}) for part in (x[:80], x[80:]))
    wide, fold = Wide(known), np.arange(80) % 4
    wide.leave_out(known, fold, 4)

    def size(tables: Tables, member: int) -> float:
        return float((wide.known_to(member, tables).values["wide"] ** 2).sum(1).mean())

    for member in range(4):
        left, kept = (
            wide.down(known.rows(np.flatnonzero(rows))) for rows in (fold == member, fold != member)
        )
        assert size(kept, member) == pytest.approx(float((kept.values["wide"] ** 2).sum(1).mean()), rel=1e-3)
        assert size(left, member) == pytest.approx(size(wide.down(new), member), rel=0.25)
        assert size(left, member) < 0.1 * float((left.values["wide"] ** 2).sum(1).mean())


def test_a_wide_table_is_imputed_as_well_as_by_ridge():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 4))
    a = z @ rng.normal(size=(4, 1500)) + rng.normal(size=(120, 1500))
    b = z @ rng.normal(size=(4, 5)) + 0.3 * rng.normal(size=(120, 5))
    est = pv.Estimator(steps=150, members=3, latent=8, seed=0).fit({"a": a[:90], "b": b[:90]})
    filled = est.impute({"a": np.full((30, 1500), np.nan), "b": b[90:]})
    error = ((filled["a"] - a[90:]) ** 2).sum() / ((a[90:] - a[:90].mean(0)) ** 2).sum()
    exact = 1 - 4 / 5 * 0.9  # the noise alone is a fifth of the variance
    assert error < exact + 0.1
    assert est.scores_.value("a", "stack", "fvu") <= est.scores_.value("a", "ridge", "fvu") + 0.01

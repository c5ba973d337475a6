"""Do the tests bite? Break one formula at a time, and see whether a test notices.

    python -m tests.mutants [--jobs 2] [--only WORD] [--all] [--list]

Each mutant of tests/helpers/mutant_list.py changes one construct in a copy of the package; the tests of its module
run against the copy until one fails. Exit code 1 if fewer than nine in ten mutants are caught. Mutants that change
nothing state why; they are listed, and run with --all only.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import scipy.integrate
import scipy.stats
import sklearn.mixture

from tests.helpers.mutant_list import MUTANTS
from tests.helpers.mutants import PACKAGE, TESTS, Mutant, mutated

PRELOADED = scipy.integrate, scipy.stats, sklearn.mixture


class Notes:
    """A pytest plugin that remembers the first failure."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid.removeprefix("tests/")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.first:
            self.first = f"collection of {report.nodeid}"


def run(mutant: Mutant | None, tests: Sequence[str] = ()) -> tuple[str, float]:
    """The first test that notices ("" if none does), and the seconds it took. Runs in a process of its own.

    None: the package as it is, by these ``tests``.
    """
    start = time.monotonic()
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "polyvae"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            (copy / mutant.path).write_text(mutated(mutant))
        sys.path.insert(0, folder)
        import polyvae

        assert polyvae.__file__.startswith(folder), f"the tests would see {polyvae.__file__}, not the copy"
        files = [str(TESTS / name) for name in (tests if mutant is None else mutant.tests)]
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            code = pytest.main(
                ["-x", "-q", "-m", "not slow and not soak", "-p", "no:cacheprovider", "--tb=no", *files],
                plugins=[notes],
            )
    assert code in (0, 1, 2), f"pytest ends with {code}"
    return notes.first or ("an error" if code else ""), time.monotonic() - start


def forget() -> None:
    """Keep in memory what the package imports, but not the package, so that a fork of this process starts at once."""
    import polyvae.testing

    assert polyvae.testing
    for name in [name for name in sys.modules if name.split(".")[0] == "polyvae"]:
        del sys.modules[name]


def line(mutant: Mutant) -> str:
    return f"{mutant.where}: {mutant.old}  →  {mutant.new}"


def main() -> int:
    """Run the mutants and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="mutants whose function, construct or tests contain this")
    parser.add_argument("--all", action="store_true", help="also those that are known to change nothing")
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if chosen.only in f"{line(mutant)} {mutant.tests}"]
    for mutant in mutants:
        mutated(mutant)
    if chosen.list:
        print(*map(line, mutants), f"{len(mutants)} mutants", sep="\n")
        return 0
    forget()
    with multiprocessing.get_context("fork").Pool(chosen.jobs, maxtasksperchild=1) as pool:
        tests = list(dict.fromkeys(name for mutant in mutants for name in mutant.tests))
        by, seconds = pool.apply(run, (None, tests))
        if by:
            print(f"the tests fail without any mutation ({by}); mend that first")
            return 1
        print(f"unmutated: passes in {seconds:.1f} s")
        survivors = [] if chosen.all else [mutant for mutant in mutants if mutant.harmless]
        mutants = [mutant for mutant in mutants if mutant not in survivors]
        counted = 0
        for mutant, (by, seconds) in zip(mutants, pool.imap(run, mutants), strict=True):
            word = "caught  " if by else "harmless" if mutant.harmless else "SURVIVED"
            print(f"{word} {seconds:5.1f} s  {line(mutant)}  · {by}", flush=True)
            counted += bool(by) or not mutant.harmless
            survivors += [] if by else [mutant]
    missed = sum(not mutant.harmless for mutant in survivors)
    print(f"\n{counted - missed} of {counted} caught ({1 - missed / max(1, counted):.1%})")
    for mutant in survivors:
        print(f"survivor: {line(mutant)} | {mutant.harmless or 'no test notices'}")
    return int(missed > 0.1 * counted)


if __name__ == "__main__":
    sys.exit(main())

"""The tests of this folder, with the outcome of each."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu.options import Options

MOST_AT_ONCE = 6  # tests, each with a GPU's context of its own


class Outcomes:
    """A plugin of pytest that hands over each test's outcome as soon as it is known."""

    def __init__(self, record: Callable[[dict], None]) -> None:
        self.record = record

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome}
            if report.outcome == "failed":
                outcome["why"] = report.longreprtext.splitlines()[-30:]
            if report.outcome == "skipped":
                outcome["why"] = report.longrepr[2]
            self.record(outcome | {"seconds": round(report.duration, 1)})


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """Run them all; exit code 1 when one fails."""
    arguments = [str(Path(__file__).parent), "-q", "-p", "no:cacheprovider", "--basetemp", options.scratch + "/pytest"]
    if not options.dry_run:  # most of their time is that of processes starting, each on a core of its own
        arguments += ["-n", str(max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) // 2)))]
    if pytest.main(arguments, plugins=[Outcomes(record)]) != 0:
        sys.exit(1)

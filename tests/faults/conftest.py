"""A small run to damage, and the table of the faults that were tried."""

import pytest

from small_run import SmallRun, Tally, make_small_run

TALLY = Tally()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return make_small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a fault whose test fails as lost."""
    if report.failed and "tests/faults/" in report.nodeid:
        TALLY.add("failed test", report.nodeid.rpartition("::")[2], "lost")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.ends:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.line(line)

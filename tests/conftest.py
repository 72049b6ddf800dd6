"""What every test may count on: asyncio under anyio, no dice that cannot be thrown again, and a watch on slowness."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

SLOW_S = 0.25

# The same examples on every machine: a failure here is a failure everywhere. `--hypothesis-profile=explore` digs.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that are slow and do not say so. A report, not a failure: machines differ."""
    for report in _unmarked(terminalreporter):
        terminalreporter.write_line(f"not marked slow, took {report.duration:.2f} s: {report.nodeid}", yellow=True)


def _unmarked(reporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    for report in reporter.stats.get("passed", []):
        if report.when == "call" and report.duration > SLOW_S and "slow" not in report.keywords:
            yield report

"""What every test may count on.

Asyncio under anyio, no dice that cannot be thrown again, a watch on slowness, and names of one's own:
a test module may call its workflows and activities what it likes, whatever the others call theirs.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from durableflow.authoring.registry import DEFAULT, AnyActivity, AnyWorkflow
from durableflow.testing.postgres import PostgresServer

SLOW_S = 0.25
TESTS = Path(__file__).parent

# The same examples on every machine: a failure here is a failure everywhere. `--hypothesis-profile=explore` digs.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("repeatable")

Definitions = list[AnyWorkflow | AnyActivity]
_defined: dict[str, Definitions] = {}
"""What each module defined, taken out of the default registry when the module had been imported."""


def _take_definitions() -> Definitions:
    taken: Definitions = [*DEFAULT.workflows.values(), *DEFAULT.activities.values()]
    DEFAULT.workflows.clear()
    DEFAULT.activities.clear()
    return taken


def _is_seen(module: str, folder: str) -> bool:
    """Whether tests of this folder see what a module defines that is no test itself."""
    file = Path(_defined[module][0].function.__code__.co_filename)
    return not file.is_relative_to(TESTS) or file.relative_to(TESTS).parts[0] == folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: much of what tests of real processes do is wait."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    if not isinstance(collector, pytest.Module):
        return (yield)
    report = yield
    for definition in _take_definitions():
        _defined.setdefault(definition.function.__module__, []).append(definition)
    return report


@pytest.fixture(autouse=True)
def names_of_this_module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default registry holds what this module defines, and what modules that are no tests define.

    A program that tests of one folder start, and import, is theirs alone.
    """
    own = getattr(request.node, "module", None)
    folder = request.path.relative_to(TESTS).parts[0]
    visible = [name for name in _defined if not name.rpartition(".")[2].startswith("test_") and _is_seen(name, folder)]
    shown = [*visible, own.__name__] if own is not None else visible
    definitions = [definition for name in shown for definition in _defined.get(name, ())]
    monkeypatch.setattr(DEFAULT, "workflows", {(d.name, d.version): d for d in definitions if hasattr(d, "version")})
    monkeypatch.setattr(DEFAULT, "activities", {d.name: d for d in definitions if not hasattr(d, "version")})


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Children of this test can be interrupted, also where the tests run in the background of a script.

    A shell without job control has what it puts into the background ignore SIGINT, and its children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that are slow and do not say so. A report, not a failure: machines differ."""
    for report in _unmarked(terminalreporter):
        terminalreporter.write_line(f"not marked slow, took {report.duration:.2f} s: {report.nodeid}", yellow=True)


def _unmarked(reporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    for report in reporter.stats.get("passed", []):
        if report.when == "call" and report.duration > SLOW_S and "slow" not in report.keywords:
            yield report


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that is started for the first test that needs one, and is the tests' own."""
    with PostgresServer(fsync=False, settings={"max_connections": 300}) as server:
        yield server


@pytest.fixture(scope="session")
def store_url(postgres: PostgresServer) -> Callable[[object], str]:
    """The URL of a store in a schema of its own, the same for the same name."""
    url = postgres.create_database()

    def url_of(name: object) -> str:
        return f"{url}?schema=t{hashlib.sha256(str(name).encode()).hexdigest()[:16]}"

    return url_of

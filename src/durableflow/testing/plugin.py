"""The pytest plugin: fixtures that hold an engine, and one that replays saved histories.

pytest loads it in every session of everyone who has the library installed, so it imports nothing of the
library before a fixture is used.

    df        an environment for plain test functions (async ones may use it too)
    df_env    an environment for async test functions
    df_store  the store of both; the marker df_backends("memory", "sqlite") has the test called once on each
    df_replay replays a file or a directory of saved histories
    df_postgres        the URL of an empty PostgreSQL database, which is dropped after the test
    df_postgres_server the server that has it, started at first use and removed with the session
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from durableflow.authoring.registry import AnyWorkflow
    from durableflow.testing.blocking import BlockingEnvironment
    from durableflow.testing.environment import WorkflowEnvironment
    from durableflow.testing.histories import ReplayReport
    from durableflow.testing.postgres import PostgresServer

_MARKER = "df_backends"
_HELP = '(*stores): call the test once on each of these stores: "memory", "sqlite", or any URL of one'


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER + _HELP)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Call a marked test once on each store."""
    marker = metafunc.definition.get_closest_marker(_MARKER)
    if marker is None:
        return
    if "df_store" not in metafunc.fixturenames:
        pytest.fail(f"{metafunc.definition.nodeid} is marked {_MARKER} but uses neither df nor df_env", pytrace=False)
    if not marker.args or marker.kwargs:
        pytest.fail(f"{metafunc.definition.nodeid}: write @pytest.mark.{_MARKER}{_HELP}", pytrace=False)
    metafunc.parametrize("df_store", marker.args, indirect=True)


@pytest.fixture
def df_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the store of this test: memory, unless the test is marked with `df_backends`."""
    name = str(getattr(request, "param", "memory"))
    if name == "memory":
        return "memory://"
    if name == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('durableflow') / 'test.db'}"
    if "://" in name:
        return name
    raise pytest.UsageError(f'df_backends knows "memory", "sqlite" and URLs, not {name!r}')


@pytest.fixture
def df(df_store: str) -> Generator[BlockingEnvironment]:
    """An engine with a virtual clock and stand-ins for activities, for plain test functions."""
    from durableflow.testing.blocking import BlockingEnvironment

    with BlockingEnvironment(df_store) as environment:
        yield environment


@pytest.fixture
async def df_env(df_store: str) -> AsyncGenerator[WorkflowEnvironment]:
    """The same for async test functions."""
    from durableflow.testing.environment import WorkflowEnvironment

    async with WorkflowEnvironment(df_store) as environment:
        yield environment


@pytest.fixture
def df_replay(request: pytest.FixtureRequest) -> Callable[..., list[ReplayReport]]:
    """Replays saved histories with today's code: `df_replay("tests/histories")`, a directory or one file.

    The path is taken from the root of the project. Workflows are found by name among those that are imported;
    others are passed after the path.
    """
    root = request.config.rootpath

    def replay_saved(path: str | Path, *workflows: AnyWorkflow) -> list[ReplayReport]:
        import msgspec

        from durableflow.testing.histories import load_histories, replay, replay_directory

        place = root / path
        if place.is_dir():
            return replay_directory(place, *workflows)
        named: dict[str, Any] = {workflow.name: workflow for workflow in workflows}
        reports = [replay(named.get(each.started.workflow), each) for each in load_histories(place)]
        return [msgspec.structs.replace(report, path=place) for report in reports]

    return replay_saved


@pytest.fixture(scope="session")
def df_postgres_server() -> Generator[PostgresServer]:
    """A PostgreSQL server for this session, which does not sync its disk; `df_postgres` has databases in it."""
    from durableflow.testing.postgres import PostgresServer

    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture
def df_postgres(df_postgres_server: PostgresServer) -> Generator[str]:
    """The URL of an empty database in `df_postgres_server`, which is dropped after the test."""
    url = df_postgres_server.create_database()
    yield url
    df_postgres_server.drop_database(url.rpartition("/")[2])

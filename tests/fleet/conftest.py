"""A server for these tests, and a fleet for each."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# Test folders are no packages; these have helpers of their own, and workflows that other processes run.
sys.path.insert(0, str(Path(__file__).parent / "apps"))
sys.path.insert(0, str(Path(__file__).parent))

from fleetkit.processes import Fleet, fleet_in

from durableflow.testing import PostgresServer

SETTINGS = {"max_connections": 200, "max_prepared_transactions": 0}


@pytest.fixture(scope="session")
def fleet_server() -> Iterator[PostgresServer]:
    """What is acknowledged survives a crash of this server; its disk is not synced, for the machine does not crash."""
    with PostgresServer(fsync=False, settings=SETTINGS) as server:
        yield server


@pytest.fixture
async def fleet(fleet_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet_in(fleet_server, tmp_path) as made:
        yield made

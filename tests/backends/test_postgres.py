"""The backend for a fleet keeps the contract, on a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from durableflow.backends.postgres import PostgresBackend
from durableflow.testing.contract import FleetBackendContract


class TestPostgres(FleetBackendContract):
    @pytest.fixture(autouse=True)
    def store(self, store_url: Callable[[object], str]) -> None:
        self.url_of = store_url

    def backend(self, folder: Path) -> PostgresBackend:
        return PostgresBackend(self.url_of(folder))


class TestPostgresBehindAPooler(FleetBackendContract):
    """No statement is kept by name, and no setting is asked for when connecting."""

    @pytest.fixture(autouse=True)
    def store(self, store_url: Callable[[object], str]) -> None:
        self.url_of = store_url

    def backend(self, folder: Path) -> PostgresBackend:
        return PostgresBackend(f"{self.url_of(folder)}&pooler=transaction")

"""Postgres hands out the same tasks to the same servers as memory does (I45)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from durableflow.backends.base import Backend
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.tasks import Outlook
from tests.backends.test_tasks_agreement import TwoStores

LEASE_US = 10**15


class MemoryAndPostgres(TwoStores):
    """Leases are counted by the store's own clock, so they outlast all that happens here."""

    url_of: Callable[[object], str]
    made_stores = 0

    def another(self) -> Backend:
        MemoryAndPostgres.made_stores += 1
        return PostgresBackend(self.url_of(f"agreement {self.made_stores}"))

    def leases_end(self, ttl_us: int) -> int:
        return LEASE_US

    def comparable(self, found: Any) -> Any:
        if isinstance(found, Outlook) and found.next_us is not None and found.next_us > LEASE_US // 2:
            return found._replace(next_us=None)  # the end of a lease
        return found


MemoryAndPostgres.TestCase.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestMemoryAndPostgres(MemoryAndPostgres.TestCase):
    @pytest.fixture(autouse=True)
    def store(self, store_url: Any) -> None:
        MemoryAndPostgres.url_of = staticmethod(store_url)

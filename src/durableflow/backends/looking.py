"""Looking at what a store holds: records, histories, lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from durableflow.backends.records import HistoryRow, InstanceRecord
from durableflow.model.status import Status


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances to list, newest first.

    `after` is the (created_us, id) of the last instance of the page before.
    """

    statuses: frozenset[Status] = frozenset()
    workflow: str | None = None
    tags: Mapping[str, str] = {}
    id_prefix: str | None = None
    created_from_us: int | None = None
    created_before_us: int | None = None
    parent: str | None = None
    after: tuple[int, str] | None = None
    limit: int = 100


class InstanceReader(Protocol):
    """The part of a backend that answers those who only look; each method is one transaction."""

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """The row of an instance."""
        ...

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """History rows from the one that holds `from_seq` on, at most `limit` rows."""
        ...

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """The latest history row of an instance."""
        ...

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """The instances that match, newest first."""
        ...

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """`(created_us, id)` of those behind `after`, in order, that ended as one of `statuses` before `before_us`."""
        ...

# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""duroxide on its PostgreSQL provider.

Of its options only how often it polls, and how many connections it has, made it faster here; to work on more at once
did not. A running activity holds a thread, so few can be interrupted in the middle of one. What a dead process had
taken is free again after a time that can be set for activities alone.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import postgres
from benchmarks.contenders.duroxide_sqlite import Duroxide

CONNECTIONS: Final = 32
OPTIONS: Final = {"dispatcher_poll_interval_ms": 5}


class DuroxidePostgres(Duroxide):
    lease_s = 30.0  # of activities; its default

    def provider(self, directory: Path) -> Any:
        from duroxide import PostgresProvider

        os.environ["DUROXIDE_PG_POOL_MAX"] = str(CONNECTIONS)
        return PostgresProvider.connect(postgres.database(directory))

    async def open(self, directory: Path) -> None:
        self._options |= {"worker_lock_timeout_ms": round(self.lease_s * 1000)}
        await super().open(directory)

    async def open_client(self, directory: Path) -> None:
        self.connect(self.provider(directory))

    def server_pids(self) -> Sequence[int]:
        return (postgres.given().pid,)

    async def durability(self) -> Mapping[str, str]:
        return postgres.settings() | {
            "connections": str(CONNECTIONS),
            **{name: str(of) for name, of in OPTIONS.items()},
        }


def make() -> DuroxidePostgres:
    return DuroxidePostgres(**OPTIONS)

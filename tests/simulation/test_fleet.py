"""The fleet in memory keeps the contract that the one on Postgres keeps."""

import asyncio
from pathlib import Path

from durableflow.backends.base import Lease, MessagePage
from durableflow.testing.contract import FleetBackendContract
from durableflow.testing.simulation.fleet import MemoryFleet


class Patient(MemoryFleet):
    """Lets others go on while it is read, as a store would that is not in this process."""

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:
        await asyncio.sleep(0)
        return await super().read_inbox(lease, after, limit)


STORES: dict[Path, Patient] = {}


class TestMemoryFleet(FleetBackendContract):
    def backend(self, folder: Path) -> Patient:
        return STORES.setdefault(folder, Patient())  # gone with the process: the object is the store

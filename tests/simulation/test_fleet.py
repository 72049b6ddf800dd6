"""The fleet in memory keeps the contract that the one on Postgres keeps."""

import asyncio
from pathlib import Path

from durableflow.backends.base import Commit, Lease, MessagePage, Outgoing
from durableflow.testing.contract import FleetBackendContract, an_instance
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


def test_a_number_that_was_drawn_before_appears_behind_higher_ones_and_is_not_settled_until_then() -> None:
    async def read() -> list[tuple[list[bytes], bool]]:
        store = MemoryFleet(lambda: 0)
        lease = await store.acquire("w", 1_000, 0)
        assert lease is not None
        await store.commit(lease, Commit(new=[an_instance("i")]))
        numbers = store.draw_numbers()
        await store.send([Outgoing("i", b"later")])
        before = await store.read_inbox(lease, 0, 10)
        with store.commits_with(numbers):
            await store.send([Outgoing("i", b"earlier")])
        after = await store.read_inbox(lease, before.settled, 10)
        return [([each.data for each in page.messages], page.settled >= numbers[0]) for page in (before, after)]

    assert asyncio.run(read()) == [([b"later"], False), ([b"earlier", b"later"], True)]

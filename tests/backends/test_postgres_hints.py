"""What is told by NOTIFY when instances are over, and to whom: seen on a connection that only listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from durableflow.backends.base import Commit, Lease
from durableflow.backends.postgres import PostgresBackend, hints
from durableflow.backends.postgres.naming import channel_of
from durableflow.model.status import Status
from durableflow.testing.contract.store import a_change, a_lease, an_instance

pytestmark = pytest.mark.slow  # a server, and connections to it


class Ends:
    """A worker that ends instances, and all words that are told on its store's channel meanwhile."""

    def __init__(self, backend: PostgresBackend, lease: Lease, words: asyncio.Queue[str]) -> None:
        self.backend = backend
        self.lease = lease
        self._words = words
        self._count = 0

    async def end_one(self) -> None:
        self._count += 1
        instance_id = f"i{self._count}"
        await self.backend.commit(self.lease, Commit(new=[an_instance(instance_id)]))
        await self.backend.commit(self.lease, Commit(changes=[a_change(instance_id, Status.COMPLETED, finished_us=5)]))

    async def words_before(self, last: str) -> list[str]:
        """Those told up to one that is told now."""
        self.backend._hint([last])
        words = list[str]()
        while (word := await self._words.get()) != last:
            words.append(word)
        return words

    async def next_word(self, wanted: str) -> None:
        while await self._words.get() != wanted:
            pass


@pytest.fixture
async def ends(store_url: Callable[[object], str], request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    url = store_url(request.node.nodeid)
    words = asyncio.Queue[str]()

    def hear(_: object, __: object, ___: object, payload: str) -> None:
        for word in payload.split():
            words.put_nowait(word)

    backend = PostgresBackend(url)
    await backend.open()
    server, _, schema = url.partition("?schema=")
    listener = await asyncpg.connect(server)
    await listener.add_listener(channel_of(schema), hear)
    yield Ends(backend, await a_lease(backend), words)
    await listener.close()
    await backend.close()


async def test_ends_are_told_while_it_is_not_known_who_wants_to_hear_of_them(ends: Ends) -> None:
    await ends.end_one()
    assert await ends.words_before("t") == ["e"]


async def test_an_end_that_nobody_waits_for_elsewhere_is_told_in_this_process_only(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "_WANTED_S", 0.0)
    waiting = asyncio.ensure_future(ends.backend.wait_for_change(60.0, "ends"))
    await asyncio.sleep(0)
    await ends.end_one()
    assert await waiting
    assert "e" not in await ends.words_before("t")


async def test_whoever_begins_to_wait_is_told_of_what_ended_on_the_way_and_of_all_that_follows(
    ends: Ends, store_url: Callable[[object], str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "_WANTED_S", 0.0)
    await ends.end_one()
    other = PostgresBackend(store_url(request.node.nodeid))
    await other.open()
    try:
        waiting = asyncio.ensure_future(other.wait_for_change(60.0, "ends"))
        await ends.next_word("e")
        assert await waiting
        monkeypatch.setattr(hints, "_WANTED_S", 3600.0)
        await ends.end_one()
        assert await ends.words_before("t") == ["e"]
    finally:
        await other.close()


async def test_a_wait_says_so_once_however_often_it_begins_anew(ends: Ends) -> None:
    for _ in range(5):
        await ends.backend.wait_for_change(0.0, "ends")
    assert len([word for word in await ends.words_before("t") if word.startswith("l")]) == 1

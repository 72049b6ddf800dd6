"""The thread that owns a connection: what is handed over to it is done, whatever becomes of whoever asked."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durableflow.backends.sqlite.thread import ConnectionThread


@pytest.fixture
async def thread(tmp_path: Path) -> AsyncIterator[ConnectionThread]:
    made = ConnectionThread(tmp_path / "store.db", lambda _: None)
    yield made
    await made.stop()


async def test_a_call_is_answered_with_what_the_function_gives_or_raises(thread: ConnectionThread) -> None:
    def refuse(_: sqlite3.Connection) -> None:
        raise KeyError("planted")

    for ask in (thread.call, thread.hand_over):
        assert await ask(lambda connection, number: connection.execute("select ?", (number,)).fetchone(), 7) == (7,)
        with pytest.raises(KeyError, match="planted"):
            await ask(refuse)


async def test_handing_over_returns_when_the_thread_has_begun_and_not_when_it_is_done(thread: ConnectionThread) -> None:
    began, may_end = threading.Event(), threading.Event()

    def work(_: sqlite3.Connection) -> bool:
        began.set()
        return may_end.wait(10)

    await thread.call(lambda _: None)  # it has nothing else to do
    handed = asyncio.ensure_future(thread.hand_over(work))
    await asyncio.sleep(0)
    began.wait(10)
    assert not handed.done()
    may_end.set()
    assert await handed


async def test_whoever_hands_over_does_not_wait_for_a_thread_that_is_busy(thread: ConnectionThread) -> None:
    may_end = threading.Event()
    busy = asyncio.ensure_future(thread.call(lambda _: may_end.wait(10)))
    await asyncio.sleep(0)
    handed = asyncio.ensure_future(thread.hand_over(lambda _: "done"))
    await asyncio.sleep(0)  # comes back though the thread is not free
    may_end.set()
    assert await handed == "done"
    assert await busy


async def test_what_nobody_waits_for_any_more_is_done_all_the_same(thread: ConnectionThread) -> None:
    may_begin = threading.Event()
    done: list[str] = []
    busy = asyncio.ensure_future(thread.call(lambda _: may_begin.wait(10)))
    abandoned = asyncio.ensure_future(thread.call(lambda _: done.append("it is")))
    await asyncio.sleep(0)
    abandoned.cancel()
    may_begin.set()
    await busy
    await thread.call(lambda _: None)
    assert done == ["it is"]

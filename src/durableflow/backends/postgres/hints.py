"""Hints by NOTIFY: that something was written which concerns somebody else.

A hint is sent after the commit that it is about, in a transaction of its own that writes nothing: inside the writing
one it would make all commits of the server wait for each other. Those that come while one is on its way go together
with the next. A hint can be lost, with a connection or by a server that does not know them; whoever waits for one looks
now and then all the same.

The words of a hint: `w7` there are messages for worker 7, `o` instances that nobody owns, `e` instances are over or
stalled, `t` tasks, `l` and a number that somebody waits for `e`: each commit that ends an instance would send that one,
so it is only sent while somebody is known to want it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from durableflow.backends.postgres.database import Connection, Database, dismiss
from durableflow.errors import DurableflowError

_PAYLOAD_MAX: Final = 7_000
"""The server takes less than 8,000 bytes."""
_RECONNECT_S: Final = 0.5
_ALIVE_S: Final = 5.0
"""A connection that only listens is asked so often whether it is still there."""
_ENDS: Final = "e"
_SAY_S: Final = 2.0
"""Whoever waits for ends says so again after so long."""
_WANTED_S: Final = 5.0
"""And is believed for so long."""


class Hints:
    """Sends hints, and wakes those who wait for one.

    Args:
        database: sends.
        listener: its connection listens; another address than the sender's behind a pooler.
        channel: of the store.
    """

    def __init__(self, database: Database, listener: Database, channel: str) -> None:
        self._database = database
        self._listener = listener
        self._channel = channel
        self._waiters: dict[asyncio.Future[None], frozenset[str] | None] = {}
        self._words: set[str] = set()
        self._sender: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._is_open = False
        self._wish = f"l{secrets.token_hex(8)}"
        self._wished_s = -_SAY_S
        self._wanted_s: float | None = None
        """When somebody else last said that ends are waited for; None while that could not be heard."""

    def open(self) -> None:
        """Begin to listen, as soon as the server lets us."""
        self._is_open = True
        self._listening = asyncio.ensure_future(self._listen_for_ever())

    async def close(self) -> None:
        """Send what waits, then stop."""
        self._is_open = False
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=2.0)
        for task in (self._sender, self._listening):
            if task is not None and not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._wake_all()

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, words: Iterable[str]) -> None:
        """Have these told to all who listen, soon."""
        self._words.update(words)
        if self._words and self._is_open and (self._sender is None or self._sender.done()):
            self._sender = asyncio.ensure_future(self._send())

    def send_end(self) -> None:
        """Have it told that instances are over, if somebody wants to know."""
        self.tell([_ENDS])
        if self._are_ends_wanted():
            self.send([_ENDS])

    def _are_ends_wanted(self) -> bool:
        return self._wanted_s is None or asyncio.get_running_loop().time() - self._wanted_s < _WANTED_S

    def _wish_for_ends(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._wished_s >= _SAY_S:
            self._wished_s = now_s
            self.send([self._wish])

    async def _send(self) -> None:
        while self._words:
            words, self._words = sorted(self._words), set()
            payloads: list[str] = [""]
            for word in words:
                if len(payloads[-1]) + len(word) > _PAYLOAD_MAX:
                    payloads.append("")
                payloads[-1] += f"{word} "
            with suppress(DurableflowError):
                await self._database.read(
                    "select pg_notify($1, p) from unnest($2::text[]) as p", self._channel, payloads
                )

    # -- listening ------------------------------------------------------------------------------------------

    async def wait(self, words: frozenset[str] | None, timeout_s: float) -> bool:
        """Return True when one of these is heard (None: any), or one may have been lost; False after `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = words
        if words is not None and _ENDS in words:
            self._wish_for_ends()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.pop(waiter, None)
        return True

    def tell(self, words: Iterable[str]) -> None:
        """Wake those in this process who wait for one of these."""
        said = frozenset(words)
        for waiter, wanted in list(self._waiters.items()):
            if not waiter.done() and (wanted is None or not said.isdisjoint(wanted)):
                waiter.set_result(None)

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _listen_for_ever(self) -> None:
        while True:
            with suppress(DurableflowError):
                await self._listen(await self._listener.connect())
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self, connection: Connection) -> None:
        """Until the connection is lost."""
        lost = asyncio.Event()

        def lose(_: Connection) -> None:
            lost.set()

        try:
            connection.add_termination_listener(lose)
            await self._listener.ask(lambda: connection.add_listener(self._channel, self._hear))
            self._wanted_s = asyncio.get_running_loop().time()  # somebody may have said so before
            self._wake_all()  # what was told while nobody listened
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ALIVE_S):
                        await lost.wait()
                if not lost.is_set():
                    await self._listener.ask(lambda: connection.execute("select 1"))
        finally:
            self._wanted_s = None
            await dismiss(connection)

    def _hear(self, _: Any, __: int, ___: str, payload: str) -> None:
        words = payload.split()
        if any(word.startswith("l") and word != self._wish for word in words):
            was_wanted = self._are_ends_wanted()
            self._wanted_s = asyncio.get_running_loop().time()
            if not was_wanted:  # one may have come while the wish was on its way
                self.send([_ENDS])
        self.tell(words)

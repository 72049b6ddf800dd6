"""Ends that are waited for in this process: one question to the store for all of them, however many wait."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from durableflow.backends.base import Backend, Ending
from durableflow.errors import EngineClosed, StorageError, StoreSealed

POLL_S: Final = 0.25
"""So often the store is looked into when no hint comes."""
_PAGE: Final = 1_000
_SEAL_S: Final = 2.0
"""So often a waiting client looks whether the store has been moved away."""


class SealWatch:
    """Whether the store has been moved away, for those who wait for something that will not come any more then."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looked_s = asyncio.get_running_loop().time()
        self._refusal: StoreSealed | None = None

    async def look(self) -> None:
        """Raises `StoreSealed` when it has; it is asked now and then only."""
        now_s = asyncio.get_running_loop().time()
        if self._refusal is None and now_s - self._looked_s >= _SEAL_S:
            self._looked_s = now_s
            try:
                seal = await self._backend.read_seal()
            except EngineClosed:
                raise
            except StorageError:
                return
            if seal is not None and seal.is_gone:
                self._refusal = seal.refusal()
        if self._refusal is not None:
            raise self._refusal


class Awaited:
    """Waits for ends, for as long as somebody wants one.

    Args:
        seals: says when no end will come any more in this store.
    """

    def __init__(self, backend: Backend, seals: SealWatch) -> None:
        self._backend = backend
        self._seals = seals
        self._waiting: dict[str, list[asyncio.Future[Ending]]] = {}
        self._fresh: list[str] = []
        self._looker: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    async def ending(self, instance_id: str) -> Ending:
        """When it is over or STALLED, or not there."""
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(instance_id, [])
        waiting.append(future)
        self._fresh.append(instance_id)
        self._asked.set()
        if self._looker is None or self._looker.done():
            self._looker = asyncio.ensure_future(self._look_for_ever())
        try:
            return await future
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(instance_id) is waiting:
                del self._waiting[instance_id]
            if not self._waiting:
                self._stop_looking()

    def _stop_looking(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.cancel()

    async def _look_for_ever(self) -> None:
        change: asyncio.Future[bool] | None = None
        try:
            while True:
                self._asked.clear()
                if change is None:
                    change = asyncio.ensure_future(self._backend.wait_for_change(POLL_S, "ends"))
                    await asyncio.sleep(0)  # it listens before this looks
                    wanted = list(self._waiting)
                    self._fresh.clear()
                else:
                    wanted, self._fresh = self._fresh, []
                await self._look(wanted)
                await self._seals.look()
                asked = asyncio.ensure_future(self._asked.wait())
                try:
                    first: list[asyncio.Future[Any]] = [change, asked]
                    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asked.cancel()
                if change.done():
                    change.result()
                    change = None
        except (EngineClosed, StoreSealed) as error:
            self._fail(error)
        finally:
            if change is not None:
                change.cancel()

    async def _look(self, instance_ids: list[str]) -> None:
        for begin in range(0, len(instance_ids), _PAGE):
            try:
                found = await self._backend.ends(instance_ids[begin : begin + _PAGE])
            except EngineClosed:
                raise
            except StorageError:
                return  # the next look will tell
            for ending in found:
                for future in self._waiting.pop(ending.instance_id, ()):
                    if not future.done():
                        future.set_result(ending)

    def _fail(self, error: StorageError) -> None:
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        self._waiting.clear()

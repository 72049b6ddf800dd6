"""Moving house: all of a store into another one, of whatever kind, so that no instance is ever run in both.

Two stores have no transaction in common, so what matters is the order in which things become durable:

====  ===================================================  ==============================================
step  what becomes durable                                 who may work
====  ===================================================  ==============================================
1     the target, which is empty, is sealed                the source
2     the source, on which nobody works, is sealed         nobody
3     the parts are copied, page by page, in order         nobody
4     (both are read again, and compared)                  nobody
5     the seal of the source says that all is gone         nobody; from here on there is no way back
6     the target is unsealed                               the target
====  ===================================================  ==============================================

A mover that finds seals goes on where they say. Of what is copied, the target knows the last key of each part, so a
copy goes on behind it. Taking a move up changes the seals, so that of two movers the earlier one writes nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec

from durableflow.backends.moving import (
    OF_INSTANCES,
    KeptMessage,
    Key,
    MovedRow,
    Part,
    Seal,
    check_empty,
    check_idle,
    key_of,
)
from durableflow.backends.records import HistoryRow
from durableflow.errors import CommitOutcomeUnknown, MoveRefused
from durableflow.model import events as ev
from durableflow.runtime.clock import Clock

if TYPE_CHECKING:
    from durableflow.backends.base import Backend

PAGE_BYTES: Final = 4 * 1024 * 1024
_RANDOM_BITS: Final = 64
_LOOK_AGAIN_S: Final = 0.5
_UNREADABLE_MAX: Final = 20


_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode

Progress = Callable[[str, int, int], object]
"""Told what is being done, how many rows are, and of how many."""


def _say_nothing(what: str, done: int, total: int) -> None:
    """Nobody wants to know."""


class MoveReport(msgspec.Struct, frozen=True):
    """What a move found, or did.

    Attributes:
        counts: rows of each part.
        unreadable: instances of which this version cannot read all; they are moved as they are. Twenty at most.
        was_done: the move had been done before; nothing was left to do.
    """

    source: str
    target: str
    counts: dict[Part, int]
    unreadable: Sequence[str] = ()
    was_done: bool = False


class Move:
    """The move of one store into another; both are open, and stay so.

    Args:
        tell: told how far it is.
        page_bytes: about so much is in memory, and in one transaction, at a time.
    """

    def __init__(
        self,
        source: Backend,
        target: Backend,
        clock: Clock,
        tell: Progress = _say_nothing,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self._source = source
        self._target = target
        self._clock = clock
        self._tell = tell
        self._page_bytes = page_bytes
        self._mover = f"{clock.random_bits(_RANDOM_BITS):016x}"
        self._unreadable: dict[str, None] = {}

    async def look(self) -> MoveReport:
        """What `run` would move, by reading all of it; nothing is written.

        Raises:
            MoveRefused: it would be refused.
        """
        source, target = await self._seals()
        if source is None and target is None:
            now_us = self._clock.now_us()
            check_idle(await self._source.living(now_us), now_us)
            check_idle(await self._target.living(now_us), now_us)
            check_empty(await self._target.count_parts())
        counts = await self._source.count_parts()
        async for _ in self._digests(self._source, counts, "reading"):
            pass
        return self._report(counts)

    async def run(self, *, wait_s: float = 0.0) -> MoveReport:
        """Move all of it, or go on with a move that was interrupted.

        Args:
            wait_s: for so long it waits until nobody works on the stores any more.

        Raises:
            MoveRefused: it cannot be; nothing was changed, or what was begun waits to be taken up or aborted.
            LeaseLost: another mover took the move up.
            StorageError: a store cannot answer; call it again.
        """
        source, target = await self._seals()
        if source is not None and source.is_gone and target is None:
            return msgspec.structs.replace(self._report(await self._target.count_parts()), was_done=True)
        if source is None and target is None:
            await self._wait_until_idle(wait_s)
        mine, theirs = await self._take_up(source, target)
        if not mine.is_gone:
            await self._check_relayed()
            await self._copy(theirs)
            await self._verify()
            await self._seal(self._source, mine._replace(holder=mine.holder + 1, is_gone=True))
        counts = await self._target.count_parts()
        await self._unseal(self._target, theirs, clear=False)
        return self._report(counts)

    async def abort(self) -> None:
        """Give up a move that is not done: the target is emptied, the source goes on as if nothing had been.

        Raises:
            MoveRefused: there is none, or it is past the point of no return.
        """
        source, target = await self._seals()
        if source is None and target is None:
            raise MoveRefused(f"no move from {self._source.address} to {self._target.address} is under way")
        if source is not None and source.is_gone:
            raise MoveRefused("all is in the target, and the source says so: run the move again to end it")
        if source is not None:  # first, so that no other mover can say that all is gone
            source = self._next(source)
            await self._seal(self._source, source)
        if target is not None:
            target = self._next(target)
            await self._seal(self._target, target)
            await self._unseal(self._target, target, clear=True)
        if source is not None:
            await self._unseal(self._source, source, clear=False)

    async def _check_relayed(self) -> None:
        """Raises `MoveRefused` for a shard that is talking to others; the move is given up."""
        count = await self._source.count_relayed()
        if count:
            await self.abort()
            raise MoveRefused(
                f"{self._source.address}: {count} messages to or from other shards are on their way; "
                "open all shards until they have come, then move it"
            )

    # -- who may work ---------------------------------------------------------------------------------------

    async def _seals(self) -> tuple[Seal | None, Seal | None]:
        """The seals of both stores, which are of one move between them, if there are any.

        Raises:
            MoveRefused: they are of another.
        """
        if self._source.address == self._target.address and self._source.address != "memory://":
            raise MoveRefused(f"{self._source.address} is both source and target")
        source, target = await self._source.read_seal(), await self._target.read_seal()
        self._check(source, "source", self._source.address, self._target.address)
        self._check(target, "target", self._target.address, self._source.address)
        if source is not None and target is not None and source.move_id != target.move_id:
            raise MoveRefused(
                f"{self._source.address} and {self._target.address} are in two different moves: {source.move_id} and "
                f"{target.move_id}; abort the one that was meant less"
            )
        return source, target

    def _check(self, seal: Seal | None, side: str, address: str, other: str) -> None:
        if seal is not None and (seal.side != side or seal.other != other):
            raise MoveRefused(f"{address} cannot be the {side} of this move: {seal.refusal()}")

    async def _wait_until_idle(self, wait_s: float) -> None:
        until_s = asyncio.get_running_loop().time() + wait_s
        for store in (self._source, self._target):
            while True:
                now_us = self._clock.now_us()
                try:
                    check_idle(await store.living(now_us), now_us)
                except MoveRefused as error:
                    if asyncio.get_running_loop().time() >= until_s:
                        raise MoveRefused(f"{store.address}: {error}") from None
                else:
                    break
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _take_up(self, source: Seal | None, target: Seal | None) -> tuple[Seal, Seal]:
        """Seal both stores, or hold the seals that are there; the target first, for it is empty."""
        known = source or target
        move_id = known.move_id if known is not None else f"{self._clock.random_bits(_RANDOM_BITS):016x}"
        if source is not None:
            source = self._next(source)
            await self._seal(self._source, source)
        is_new = target is None
        target = Seal(move_id, "target", self._source.address, self._mover) if target is None else self._next(target)
        await self._seal(self._target, target)
        if source is None:
            source = Seal(move_id, "source", self._target.address, self._mover)
            try:
                await self._seal(self._source, source)
            except MoveRefused:
                if is_new:
                    await self._unseal(self._target, target, clear=True)
                raise
        return source, target

    def _next(self, seal: Seal) -> Seal:
        return seal._replace(mover=self._mover, holder=seal.holder + 1)

    async def _seal(self, store: Backend, seal: Seal) -> None:
        try:
            await store.seal(seal, self._clock.now_us())
        except CommitOutcomeUnknown:
            await store.seal(seal, self._clock.now_us())  # one that is there already is left as it is
        except MoveRefused as error:
            raise MoveRefused(f"{store.address}: {error}") from None

    async def _unseal(self, store: Backend, seal: Seal, *, clear: bool) -> None:
        try:
            await store.unseal(seal, clear=clear)
        except CommitOutcomeUnknown:
            if await store.read_seal() is not None:
                await store.unseal(seal, clear=clear)

    # -- copying --------------------------------------------------------------------------------------------

    async def _copy(self, seal: Seal) -> None:
        totals, dones = await self._source.count_parts(), await self._target.count_parts()
        for part in Part:
            done = dones[part]
            after = await self._target.last_key(part)
            while rows := await self._source.read_part(part, after, self._page_bytes):
                try:
                    await self._target.write_part(seal, part, [_with_event_id(row) for row in rows])
                except CommitOutcomeUnknown:
                    after = await self._target.last_key(part)
                    continue
                after = key_of(part, rows[-1])
                done += len(rows)
                self._tell(f"copying {part}", done, totals[part])

    # -- comparing ------------------------------------------------------------------------------------------

    async def _verify(self) -> None:
        """Compare the counts of all parts, a digest of each instance, and what hangs on none.

        Raises:
            MoveRefused: they are not the same.
        """
        counts, copied = await self._source.count_parts(), await self._target.count_parts()
        if counts != copied:
            raise _differs(f"the source has {dict(counts)}, the target {dict(copied)}")
        theirs = self._digests(self._target, copied, None)
        async for instance_id, digest in self._digests(self._source, counts, "comparing"):
            other = await anext(theirs, None)
            if other != (instance_id, digest):
                raise _differs(f"instance {instance_id!r} is not what it was")
        for part in Part:
            if part is not Part.INSTANCES and part not in OF_INSTANCES:
                async for row, other_row in _side_by_side(
                    self._rows(self._source, part), self._rows(self._target, part)
                ):
                    if row != other_row:
                        raise _differs(f"of {part}, {row or other_row!r:.200} is not what it was")

    async def _digests(
        self, store: Backend, counts: dict[Part, int], doing: str | None
    ) -> AsyncGenerator[tuple[str, bytes]]:
        """Ids of instances, in order, each with a digest of its row and of all that hangs on it.

        Args:
            doing: what progress is told as, and that histories are looked into; None for the one who reads along.

        Raises:
            MoveRefused: something hangs on an instance that is not there.
        """
        hanging = [_Reader(self._rows(store, part), part) for part in OF_INSTANCES]
        for each in hanging:
            await each.step()
        done = 0
        async for record in self._rows(store, Part.INSTANCES):
            instance_id = key_of(Part.INSTANCES, record)[0]
            digest = blake2b(_encode(record), digest_size=16)
            for each in hanging:
                while each.row is not None and each.instance_id == instance_id:
                    digest.update(_encode((each.part, _without_event_id(each.row))))
                    if doing is not None:
                        self._note_unreadable(instance_id, each.row)
                    await each.step()
            for each in hanging:
                if each.instance_id is not None and each.instance_id < instance_id:
                    raise _stray(store, each.instance_id)
            yield instance_id, digest.digest()
            done += 1
            if doing is not None and (done % 1_000 == 0 or done == counts[Part.INSTANCES]):
                self._tell(f"{doing} {Part.INSTANCES}", done, counts[Part.INSTANCES])
        for each in hanging:
            if each.instance_id is not None:
                raise _stray(store, each.instance_id)

    async def _rows(self, store: Backend, part: Part) -> AsyncGenerator[MovedRow]:
        after: Key | None = None
        while rows := await store.read_part(part, after, self._page_bytes):
            for row in rows:
                yield row
            after = key_of(part, rows[-1])

    def _note_unreadable(self, instance_id: str, row: MovedRow) -> None:
        try:
            if isinstance(row, KeptMessage):
                ev.load_event(row.data)
            elif isinstance(row, HistoryRow):
                ev.load_events(row.events)
        except (msgspec.DecodeError, OverflowError, ValueError):
            if len(self._unreadable) < _UNREADABLE_MAX:
                self._unreadable[instance_id] = None

    def _report(self, counts: dict[Part, int]) -> MoveReport:
        return MoveReport(self._source.address, self._target.address, counts, list(self._unreadable))


class _Reader:
    """The row of a part at which a reading along stands, and its instance; None at the end."""

    def __init__(self, rows: AsyncGenerator[MovedRow], part: Part) -> None:
        self._rows = rows
        self.part = part
        self.row: MovedRow | None = None
        self.instance_id: str | None = None

    async def step(self) -> None:
        """Stand at the next row."""
        self.row = await anext(self._rows, None)
        self.instance_id = None if self.row is None else key_of(self.part, self.row)[0]


async def _side_by_side(
    one: AsyncIterator[MovedRow], other: AsyncIterator[MovedRow]
) -> AsyncGenerator[tuple[MovedRow | None, MovedRow | None]]:
    while True:
        pair = await anext(one, None), await anext(other, None)
        if pair == (None, None):
            return
        yield pair


def _with_event_id(row: MovedRow) -> MovedRow:
    """A message knows what makes another one its duplicate; a store may keep only a digest of that."""
    if not isinstance(row, KeptMessage):
        return row
    try:
        event = ev.load_event(row.data)
    except (msgspec.DecodeError, ValueError):
        return row
    return row._replace(event_id=event.event_id if isinstance(event, ev.EventReceived) else None)


def _without_event_id(row: MovedRow) -> Any:
    return row[:3] if isinstance(row, KeptMessage) else row


def _differs(told: str) -> MoveRefused:
    return MoveRefused(
        f"the copy is not the same: {told}; nothing was opened. Run the move with --abort, and then again; "
        "if it comes again, one of the stores does not keep what it is given"
    )


def _stray(store: Backend, instance_id: str) -> MoveRefused:
    return MoveRefused(
        f"{store.address} holds rows of {instance_id!r}, but no such instance: it was changed by other hands"
    )

"""The relay: carries what waits in the outbox of one store to the stores that it is for.

Each row goes through three transactions, in this order: it is delivered, with a note of what became of it; it is
settled, that is, removed from the outbox together with the answer for its sender; the note is forgotten. After a crash
between any two of them the row is brought again, and the note says that it has been there. So each message is put into
an inbox exactly once, and each answer too; rows for one store go one after the other, so they keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from durableflow.backends.relaying import OutboxRow, RelayHold, Settled
from durableflow.errors import EngineClosed, LeaseLost, StorageError
from durableflow.observe import facts

if TYPE_CHECKING:
    from durableflow.backends.base import Backend

_BATCH: Final = 500
_LOOK_S: Final = 1.0
_AGAIN_S: Final = 0.2


class Relay:
    """Carries from one store to others, for as long as no other relay is taken up for it.

    Args:
        name: of the source, the same for every relay from it.
        shard_of: says for which of the targets a message to an instance is.
        targets: by name.
        tell: told the facts of `observe.facts`.
        told: called with the name of a store when something was written into its inbox.
    """

    def __init__(
        self,
        name: str,
        source: Backend,
        targets: Mapping[str, Backend],
        shard_of: Callable[[str], str],
        tell: facts.Listener = lambda _: None,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._name = name
        self._source = source
        self._targets = targets
        self._shard_of = shard_of
        self._tell = tell
        self._told = told
        self._wanted = asyncio.Event()
        self._holds: dict[str, RelayHold] = {}
        self._failed: StorageError | None = None

    async def run(self) -> None:
        """Carry for ever.

        Raises:
            LeaseLost: another relay was taken up.
            EngineClosed: a store was closed.
        """
        while True:
            self._wanted.clear()
            heard = asyncio.ensure_future(self._source.wait_for_change(_LOOK_S))
            wanted = asyncio.ensure_future(self._wanted.wait())
            await asyncio.sleep(0)  # it listens before this looks
            try:
                if not await self._carry_patiently():
                    await asyncio.wait([heard, wanted], return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
                heard.cancel()

    def look(self) -> None:
        """There may be something to carry, of which the store does not tell who wrote it."""
        self._wanted.set()

    async def _carry_patiently(self) -> int:
        try:
            return await self.carry()
        except (LeaseLost, EngineClosed):
            raise
        except StorageError as error:
            self._tell(facts.CommitRetried(str(error)))
            await asyncio.sleep(_AGAIN_S)
            return 0

    async def carry(self) -> int:
        """Carry what waits now, as far as the targets answer; how many rows were settled.

        Raises:
            LeaseLost: another relay was taken up.
            StorageError: a store cannot answer. Targets that can were served.
        """
        self._failed = None
        away = {
            name for name in self._targets if name not in self._holds and not await self._serve(self._take_up(name))
        }
        settled = after = 0
        while page := await self._source.read_outbox(after, _BATCH):
            after = page[-1].number
            for name in self._targets.keys() - away:
                mine = [row for row in page if self._shard_of(row.message.instance_id) == name]
                if not mine:
                    continue
                if await self._serve(self._carry_to(name, mine)):
                    settled += len(mine)
                else:
                    away.add(name)  # what is behind these must not overtake them
                    self._holds.pop(name, None)
            if len(page) < _BATCH:
                break
        if self._failed is not None:
            raise self._failed
        return settled

    async def _serve(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether a target could be served."""
        try:
            await work
        except (LeaseLost, EngineClosed):
            self._holds.clear()
            raise
        except StorageError as error:
            self._failed = error
            return False
        return True

    async def _take_up(self, name: str) -> None:
        """From here on no other relay delivers there; what it had not forgotten, and was settled, is forgotten."""
        target = self._targets[name]
        hold = await target.take_up_relay(self._name)
        if hold.delivered:
            waiting: set[int] = set()
            after = 0
            while page := await self._source.read_outbox(after, _BATCH):
                waiting.update(row.number for row in page)
                after = page[-1].number
            await target.forget_delivered(hold, [number for number in hold.delivered if number not in waiting])
        self._holds[name] = hold._replace(delivered=())

    async def _carry_to(self, name: str, rows: list[OutboxRow]) -> None:
        target, hold = self._targets[name], self._holds[name]
        outcomes = await target.deliver(hold, rows)
        self._told(name)
        numbers = [row.number for row in rows]
        await self._source.settle([Settled(*each) for each in zip(numbers, outcomes, strict=True)])
        self._told(self._name)
        await target.forget_delivered(hold, numbers)

"""Messages from other processes, and messages to instances that cannot take them now."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from durableflow.backends.base import Message, Outgoing
from durableflow.errors import (
    CorruptHistory,
    EngineClosed,
    InstanceNotActive,
    InstancesExist,
    InstanceStalled,
)
from durableflow.model import events as ev
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import Ack, Live, PutAway
from durableflow.runtime.means import Means
from durableflow.runtime.messages import FROM_OUTSIDE, check_sent, event_in, is_word, outgoing
from durableflow.runtime.stalls import Stalls

_PAGE: Final = 1_000
_LONGEST_WAIT_S: Final = 1.0


class Inbox:
    """Reads the store's inbox, and gives instances what they are told here.

    Attributes:
        on_round: called, if set, when another process may have written something, and now and then.
    """

    def __init__(self, means: Means, instances: Instances, stalls: Stalls) -> None:
        self._means = means
        self._instances = instances
        self._stalls = stalls
        self._loop = asyncio.get_running_loop()
        self._settled = 0
        """Up to this number all has been read, and nothing will appear."""
        self._known: set[int] = set()
        """Numbers behind that which were read here, or have come with a load."""
        self._parked: dict[str, list[Message]] = {}
        """What was read for instances that are being loaded."""
        self._wanted = asyncio.Event()
        self._readers: list[asyncio.Future[None]] = []
        self._reading: list[asyncio.Future[None]] = []
        self._is_over = False
        self._left = Counter[str]()
        """How many messages for each instance this process has left in the store that have not been read since."""
        self.on_round: Callable[[], object] | None = None
        self.is_behind = False
        """Something that was written to it in this process has not been read."""

    async def run(self) -> None:
        """Read what others write, for ever.

        Nobody else reads: of two readers one could come with a message that its instance has taken, has been evicted
        and loaded again since, and so knows nothing of.
        """
        change: asyncio.Future[bool] | None = None
        try:
            while True:
                self._wanted.clear()
                if change is None and self._means.backend.shared:
                    change = asyncio.ensure_future(self._means.patiently(self._hear))
                    await asyncio.sleep(0)  # it listens before this looks: nothing is missed in between
                self._reading, self._readers = self._readers, []
                await self._means.patiently(self._read)
                self._tell_readers()
                self.is_behind = self._wanted.is_set()
                if await self._wait(change):
                    change = None
                if self.on_round is not None:
                    self.on_round()
        finally:
            self._is_over = True
            self._tell_readers()
            if change is not None:
                change.cancel()

    def _tell_readers(self) -> None:
        """What was there when they asked has been read; or nothing will be, by this worker."""
        for told in self._reading if not self._is_over else [*self._reading, *self._readers]:
            if not told.done():
                told.set_result(None)
        self._reading = []

    async def _hear(self) -> bool:
        """A hint, or the end of patience; the look is the truth."""
        return await self._means.backend.wait_for_change(_LONGEST_WAIT_S, "inbox")

    async def _wait(self, change: asyncio.Future[bool] | None) -> bool:
        """Until there may be something to read; True when that is what `change` says, which is used up."""
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            first: list[asyncio.Future[Any]] = [wanted] if change is None else [wanted, change]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        if change is not None and change.done():
            change.result()
            return True
        return False

    def look(self) -> None:
        """Have it read: this worker's own instances, or this process, have written something; nobody else says so."""
        self.is_behind = True
        self._wanted.set()

    async def read(self) -> None:
        """Return when the instances have been told what is there now, or this worker is over."""
        if self._is_over:
            return
        told: asyncio.Future[None] = self._loop.create_future()
        self._readers.append(told)
        self.look()
        await told

    async def _read(self) -> None:
        after = self._settled
        while True:
            page = await self._means.backend.read_inbox(self._means.lease, after, _PAGE)
            for message in page.messages:
                after = message.number
                if after not in self._known:
                    self._known.add(after)
                    self._route(message)
            self._settled = max(self._settled, page.settled)
            self._known = {number for number in self._known if number > self._settled}
            if len(page.messages) < _PAGE:
                return
            await asyncio.sleep(0)

    def note_loaded(self, instance_id: str, numbers: Sequence[int]) -> None:
        """These messages have come with a load; they must not come from here as well.

        The instance may have taken them, and left memory, and come back, before what was read is routed.
        """
        self._known.update(number for number in numbers if number > self._settled)
        parked = self._parked.get(instance_id)
        if parked is not None:
            came = set(numbers)
            parked[:] = [message for message in parked if message.number not in came]

    def _route(self, message: Message) -> None:
        """Tell a live instance; any other is loaded, and gets the message with that."""
        instance_id = message.instance_id
        loading = self._instances.loading.get(instance_id)
        live = self._instances.live.get(instance_id)
        if instance_id in self._parked:
            self._parked[instance_id].append(message)
            self._instances.want_if_held(instance_id)
        elif live is not None:
            self._take(live, message)
        elif loading is not None:
            self._parked[instance_id] = [message]
            self._instances.want_if_held(instance_id)
            loading.add_done_callback(partial(self._unpark, instance_id))
        else:
            self._instances.want(instance_id)

    def _unpark(self, instance_id: str, loading: asyncio.Future[Live]) -> None:
        """The load is done. What did not come with it was written later; if it failed, the next one brings all."""
        parked = self._parked.pop(instance_id)
        if loading.cancelled() or loading.exception() is not None:
            return
        live = loading.result()
        for message in parked:
            self._take(live, message)

    def _take(self, live: Live, message: Message) -> None:
        try:
            event = event_in(message)
        except CorruptHistory as error:
            live.unreadable = str(error)  # not now: a commit may be under way
            if not live.queued:
                live.call_up()
            return
        if type(event) in FROM_OUTSIDE or is_word(event):
            live.tell(cast("ev.Observation", event), None, message.number)

    # -- what is told in this process -----------------------------------------------------------------------

    async def deliver(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        """Give an observation to an instance; returns when it is durable.

        Raises:
            InstanceNotFound, InstanceNotActive: nothing was written.
        """
        while True:
            if self._instances.stopping:
                raise EngineClosed("the engine is closing")
            live = self._instances.live.get(instance_id)
            if self._means.backend.is_fleet and (live is None or self._has_unread(instance_id)):
                await self._leave(instance_id, event, asked)
                return
            if live is None:
                try:
                    live = await self._instances.load(instance_id)
                except InstanceStalled:
                    await self._keep(outgoing(instance_id, event), asked)
                    if type(event) is ev.InstanceTerminated:
                        await self._stalls.terminate_durably(instance_id)
                    else:
                        self.look()  # the cause may be gone meanwhile
                    return
                except InstanceNotActive as error:
                    raise InstanceNotActive(instance_id, error.status, asked) from None
            if live.gone:
                continue
            ack: Ack = self._loop.create_future()
            live.tell(event, ack)
            try:
                await ack
            except (PutAway, InstancesExist):  # nothing was written, and the caller need not know why
                continue
            except InstanceNotActive as error:
                raise InstanceNotActive(instance_id, error.status, asked) from None
            return

    async def _leave(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        """Leave it to whoever owns the instance: the store knows who."""
        self._left[instance_id] += 1
        try:
            await self._keep(outgoing(instance_id, event), asked)
        finally:
            read: asyncio.Future[None] = self._loop.create_future()
            read.add_done_callback(partial(self._note_read, instance_id))
            self._readers.append(read)
            self.look()

    def _note_read(self, instance_id: str, _: asyncio.Future[None]) -> None:
        self._left[instance_id] -= 1
        if not self._left[instance_id]:
            del self._left[instance_id]

    def _has_unread(self, instance_id: str) -> bool:
        """Whether something waits for it that was sent from here: what is sent after that may not overtake it."""
        return instance_id in self._left or instance_id in self._parked

    async def _keep(self, message: Outgoing, asked: str) -> None:
        """Leave a message where the next load finds it."""
        (result,) = await self._means.backend.send([message])
        check_sent(message.instance_id, result, asked)

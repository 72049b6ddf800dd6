"""Messages from other processes, and messages to instances that cannot take them now."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, cast

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
from durableflow.runtime.messages import FROM_OUTSIDE, check_sent, event_in, is_answer, outgoing
from durableflow.runtime.stalls import Stalls

_PAGE: Final = 1_000
_LONGEST_WAIT_S: Final = 1.0


class Inbox:
    """Reads the store's inbox, and gives instances what they are told here."""

    def __init__(self, means: Means, instances: Instances, stalls: Stalls) -> None:
        self._means = means
        self._instances = instances
        self._stalls = stalls
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self._is_reading = self._is_wanted = False

    async def run(self) -> None:
        """Read what others write, for ever."""
        while True:
            await self._means.patiently(self._read)
            # a hint; the look is the truth
            await self._means.patiently(partial(self._means.backend.wait_for_change, _LONGEST_WAIT_S))

    def look(self) -> None:
        """This worker's own instances have written something: nobody else says so."""
        self._is_wanted = True
        if not self._is_reading:
            self._is_reading = True
            self._means.in_background(self._look())

    async def _look(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                await self._means.patiently(self._read)
        finally:
            self._is_reading = False

    async def read(self) -> None:
        """Tell the instances what is there now; raises `StorageError` when the store cannot answer."""
        await self._read()

    async def _read(self) -> None:
        while messages := await self._means.backend.inbox(self._seen, _PAGE):
            for message in messages:
                self._seen = max(self._seen, message.number)
                self._route(message)
            await asyncio.sleep(0)

    def _route(self, message: Message) -> None:
        live = self._instances.live.get(message.instance_id)
        if live is not None:
            self._take(live, message)
        elif message.instance_id in self._instances.loading:
            self._instances.loading[message.instance_id].add_done_callback(partial(self._route_again, message))
        else:
            self._instances.want(message.instance_id)

    def _route_again(self, message: Message, loading: asyncio.Future[Live]) -> None:
        """Once the load that was under way is done; if it failed, the message stays in the inbox for the next."""
        if not loading.cancelled() and loading.exception() is None:
            self._route(message)

    def _take(self, live: Live, message: Message) -> None:
        if message.number <= live.seen_message:
            return
        live.seen_message = message.number
        try:
            event = event_in(message)
        except CorruptHistory as error:
            live.unreadable = str(error)  # not now: a commit may be under way
            if not live.queued:
                live.call_up()
            return
        if type(event) in FROM_OUTSIDE or is_answer(event):
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
            if live is None:
                try:
                    live = await self._instances.load(instance_id)
                except InstanceStalled:
                    await self._keep(outgoing(instance_id, event), asked)
                    if type(event) is ev.InstanceTerminated:
                        await self._stalls.terminate_durably(instance_id)
                    else:
                        await self._read()  # the cause may be gone meanwhile
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

    async def _keep(self, message: Outgoing, asked: str) -> None:
        """Leave a message where the next load finds it."""
        (result,) = await self._means.backend.send([message])
        check_sent(message.instance_id, result, asked)

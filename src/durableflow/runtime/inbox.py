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
from durableflow.runtime.messages import FROM_OUTSIDE, check_sent, event_in, is_word, outgoing
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
        self._wanted = asyncio.Event()
        self.is_behind = False
        """Something that was written to it in this process has not been read."""

    async def run(self) -> None:
        """Read what others write, for ever."""
        while True:
            await self._means.patiently(self._read)
            self.is_behind = self._wanted.is_set()
            await self._wanted.wait()
            self._wanted.clear()

    async def watch(self) -> None:
        """Have it read whenever another process may have written to it, for ever."""
        while True:
            # a hint; the look is the truth
            await self._means.patiently(partial(self._means.backend.wait_for_change, _LONGEST_WAIT_S))
            self._wanted.set()

    def look(self) -> None:
        """Read it now: something was written to it in this process."""
        self.is_behind = True
        self._wanted.set()

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

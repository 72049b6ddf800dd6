"""Delivering notices of alerts to sinks: in order, at least once, however long a sink does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from durableflow.model.alert import AlertChanges, DelayedNotice, Notice
from durableflow.model.retry import store_retry
from durableflow.observe import facts
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.means import Means
from durableflow.runtime.threads import DaemonThreads

_PAGE = 20
_LOOK_US = 1_000_000
"""So often a worker of a fleet looks whether it has become the one that delivers, and whether others have notices."""


class Deliveries:
    """Each sink is served on its own: one that does not answer holds up nobody else."""

    def __init__(self, means: Means, sinks: Sequence[AlertSink]) -> None:
        self._means = means
        self.sinks = sinks
        self._loop = asyncio.get_running_loop()
        self._news = {sink.name: asyncio.Event() for sink in sinks}

    def look_again(self) -> None:
        """There may be new notices."""
        for news in self._news.values():
            news.set()

    async def serve(self, sink: AlertSink) -> None:
        """Deliver to one of `sinks`, for ever."""
        news = self._news[sink.name]
        means = self._means
        threads = DaemonThreads(1)
        try:
            while True:
                if not means.lease.is_first:
                    await means.clock.wait(asyncio.Event(), means.clock.now_us() + _LOOK_US)
                    continue
                news.clear()
                notices = await means.patiently(partial(means.backend.notices, sink.name, _PAGE))
                if not notices:  # those of other workers come without a word
                    await means.clock.wait(news, means.clock.now_us() + _LOOK_US if means.backend.is_fleet else None)
                for notice in notices:
                    while notice.due_us > means.clock.now_us():
                        await means.clock.wait(asyncio.Event(), notice.due_us)
                    if not await self._deliver(sink, notice, threads):
                        break  # those behind it wait: who hears of an end has heard of its beginning
        finally:
            threads.stop()

    async def _deliver(self, sink: AlertSink, notice: Notice, threads: DaemonThreads) -> bool:
        """Try once; False when the notice stays."""
        error = await self._send(sink, notice, threads)
        changes = AlertChanges(settled=[notice.number])
        if error is not None:
            made = notice.attempts + 1
            retry = store_retry(sink.retry)
            if made < retry.max_attempts:
                clock = self._means.clock
                due_us = clock.now_us() + retry.delay_us(made, clock.draw())
                changes = AlertChanges(delayed=[DelayedNotice(notice.number, made, due_us)])
            else:
                self._means.tell(facts.NoticeGivenUp(sink.name, notice.number, made, f"{error!r:.500}"))
        change = partial(self._means.backend.change_alerts, self._means.lease, changes)
        await self._means.patiently(change)
        return bool(changes.settled)

    async def _send(self, sink: AlertSink, notice: Notice, threads: DaemonThreads) -> Exception | None:
        """What came of it, told by a thread, which nobody waits for when the worker stops."""
        done: asyncio.Future[Exception | None] = self._loop.create_future()

        def settle(error: Exception | None) -> None:
            if not done.done():
                done.set_result(error)

        def send() -> None:
            failure: Exception | None = None
            try:
                sink.send(notice.number, notice.body)
            except Exception as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(settle, failure)
            except RuntimeError:  # the loop is closed: it is delivered again by the next worker
                return

        threads.submit(send)
        return await done

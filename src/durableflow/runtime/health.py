"""The watch of the worker that leads: raises alerts, repeats them, and says when they are over.

An alert is told only after it is in the store, in the same commit as the notices of it for each sink. So who was
told of one is told of its end, whichever worker leads by then; a crash between commit and telling costs plain
hooks one call, and sinks nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias, cast

import msgspec

from durableflow.errors import EngineClosed, LeaseLost
from durableflow.model.alert import Alert, AlertChanges, AlertKind, AlertRecord, AlertState, NewNotice
from durableflow.observe import facts
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.alert_policy import AlertPolicy, in_us
from durableflow.runtime.conditions import Condition, Conditions
from durableflow.runtime.deliveries import Deliveries
from durableflow.runtime.means import Means
from durableflow.runtime.threads import DaemonThreads

_LOGGER: Final = logging.getLogger("durableflow.engine")
_HOOK_CALLS_MAX: Final = 1_000

AlertHook: TypeAlias = Callable[[Alert], object]
"""Called with each alert that is raised, repeated or resolved; a plain function in a thread, others on the loop."""


class Watch:
    """Looks at regular times.

    Args:
        hooks: told of each alert.
        deliveries: told of notices; None when there are no sinks.
        worker: name of the one that leads.
    """

    def __init__(
        self,
        means: Means,
        conditions: Conditions,
        policy: AlertPolicy,
        hooks: Sequence[AlertHook],
        deliveries: Deliveries | None,
        worker: str,
    ) -> None:
        self._means = means
        self._conditions = conditions
        self._policy = policy
        self._hooks = hooks
        self._deliveries = deliveries
        self._worker = worker
        self._known: dict[tuple[AlertKind, str], AlertRecord] = {}
        self._threads = DaemonThreads(1)
        self._calls = 0
        self.is_looking = True  # for what was known before, until the first interval has begun
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look for ever; the first time after one interval, when what was under way has been taken up."""
        clock = self._means.clock
        was_first = False
        try:
            while True:
                until_us = clock.now_us() + in_us(self._policy, "interval")
                self.is_looking = False
                while clock.now_us() < until_us:
                    await clock.wait(asyncio.Event(), until_us)
                if not self._means.lease.is_first:
                    was_first = False
                    continue
                if not was_first:
                    was_first = True
                    await self._learn_alerts()
                self.is_looking = True
                try:
                    await self._means.patiently(self.look)
                except (EngineClosed, LeaseLost):
                    raise
                except Exception:  # who looks after the others must not be what stops them
                    _LOGGER.exception("the watch of the worker failed; the engine goes on")
        finally:
            self._threads.stop()
            for task in self._tasks:
                task.cancel()

    async def _learn_alerts(self) -> None:
        self._known = {alert.key: alert for alert in await self._means.patiently(self._means.backend.alerts)}

    async def look(self) -> None:
        """Find out what is wrong, and say what has changed.

        Raises:
            StorageError: nothing was said; the next look will.
        """
        now_us = self._means.clock.now_us()
        kept: list[AlertRecord] = []
        told: list[tuple[AlertRecord, AlertState]] = []
        found = {(each.kind, each.subject): each for each in await self._conditions.look(now_us)}
        for key, condition in found.items():
            known = self._known.get(key)
            record, state = self._judge(condition, known, now_us)
            if record != known:
                kept.append(record)
            if state is not None:
                told.append((record, state))
        gone = [record for key, record in self._known.items() if key not in found]
        ended: list[tuple[AlertRecord, AlertState]] = [(record, "resolved") for record in gone]
        told += ended
        if not (kept or gone):
            return
        changes = AlertChanges(kept=kept, resolved=[record.key for record in gone], notices=self._notices(told, now_us))
        await self._means.backend.change_alerts(self._means.lease, changes)
        for record in kept:
            self._known[record.key] = record
        for record in gone:
            del self._known[record.key]
        self._tell(told, now_us)

    def _judge(
        self, condition: Condition, known: AlertRecord | None, now_us: int
    ) -> tuple[AlertRecord, AlertState | None]:
        """The record of what is wrong now, and what is to be said of it."""
        if known is None:
            return AlertRecord(*condition[:4], now_us, condition.details), "raised"
        if now_us - known.told_us < in_us(self._policy, "repeat"):
            return known, None  # its details may have changed: they are told when it is repeated
        since_us = min(condition.since_us, known.since_us)
        return (
            AlertRecord(condition.kind, condition.subject, condition.severity, since_us, now_us, condition.details),
            "repeated",
        )

    # -- telling --------------------------------------------------------------------------------------------

    def _notices(self, told: Iterable[tuple[AlertRecord, AlertState]], now_us: int) -> list[NewNotice]:
        sinks: Sequence[AlertSink] = () if self._deliveries is None else self._deliveries.sinks
        return [
            NewNotice(sink.name, notice_body(Alert.of(record, state, now_us), self._worker), now_us)
            for record, state in told
            for sink in sinks
        ]

    def _tell(self, told: Iterable[tuple[AlertRecord, AlertState]], now_us: int) -> None:
        for record, state in told:
            if state == "resolved":
                self._means.tell(facts.AlertResolved(record.kind, record.subject))
            else:
                fact = facts.AlertRaised(
                    record.kind, record.subject, record.severity, record.details, state == "repeated"
                )
                self._means.tell(fact)
            for hook in self._hooks:
                self._call(hook, Alert.of(record, state, now_us))
        if self._deliveries is not None:
            self._deliveries.look_again()

    def _call(self, hook: AlertHook, alert: Alert) -> None:
        if inspect.iscoroutinefunction(hook):
            task = asyncio.create_task(_await_hook(cast("Callable[[Alert], Awaitable[object]]", hook), alert))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._calls >= _HOOK_CALLS_MAX:
            _LOGGER.error("%d calls of alert hooks wait, so %r is not called with %r", self._calls, hook, alert)
        else:
            self._calls += 1

            def call() -> None:
                try:
                    hook(alert)
                except Exception:
                    _LOGGER.exception("an alert hook failed on %r; the engine goes on", alert)
                finally:
                    self._calls -= 1

            self._threads.submit(call)


async def _await_hook(hook: Callable[[Alert], Awaitable[object]], alert: Alert) -> None:
    try:
        await hook(alert)
    except Exception:
        _LOGGER.exception("an alert hook failed on %r; the engine goes on", alert)


def notice_body(alert: Alert, worker: str) -> bytes:
    """What sinks are sent: the fields of `Alert`, and the worker that tells it."""
    return msgspec.json.encode({**msgspec.structs.asdict(alert), "worker": worker})

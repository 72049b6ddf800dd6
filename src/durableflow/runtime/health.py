"""The watch of a worker: raises alerts, repeats them, and says when they are over.

In a fleet one worker looks at the store, and each at itself: what only the worker sees that it is about is that one's
to tell, and to take back. What a dead one told falls to whoever has its instance now, or else to the first.

An alert is told only after it is in the store, in the same commit as the notices of it for each sink. So who was
told of one is told of its end, whichever worker leads by then; a crash between commit and telling costs plain
hooks one call, and sinks nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec

from durableflow.errors import CommitOutcomeUnknown, EngineClosed, LeaseLost
from durableflow.model.alert import Alert, AlertChanges, AlertKind, AlertRecord, AlertState, NewNotice
from durableflow.observe import facts
from durableflow.observe.sinks import AlertSink
from durableflow.runtime.alert_policy import AlertPolicy, in_us
from durableflow.runtime.conditions import OF_A_WORKER, Condition, Conditions
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
        worker: its name.
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
        self._told: set[tuple[AlertKind, str]] = set()
        """What was wrong when it looked last."""
        self._has_looked = False
        self._threads = DaemonThreads(1)
        self._calls = 0
        self.is_looking = True  # for what was known before, until the first interval has begun
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look for ever; the first time after one interval, when what was under way has been taken up."""
        clock = self._means.clock
        try:
            while True:
                until_us = clock.now_us() + in_us(self._policy, "interval")
                self.is_looking = False
                while clock.now_us() < until_us:
                    await clock.wait(asyncio.Event(), until_us)
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

    async def look(self) -> None:
        """Find out what is wrong, and say what has changed.

        Raises:
            StorageError: nothing was said; the next look will.
        """
        now_us = self._means.clock.now_us()
        conditions = await self._conditions.look(now_us, of_store=self._means.lease.is_first)
        found = {(each.kind, each.subject): each for each in conditions}
        there = {alert.key: alert for alert in await self._means.backend.alerts()}
        kept: list[AlertRecord] = []
        told: list[tuple[AlertRecord, AlertState]] = []
        for key, condition in found.items():
            known = there.get(key)
            if known is None and key in self._told:
                continue  # another worker, whose instance it is by now, has taken it back
            record, state = self._judge(condition, known, now_us)
            if record != known:
                kept.append(record)
            if state is not None:
                told.append((record, state))
        gone = [there[key] for key in await self._own(there) if key not in found]
        ended: list[tuple[AlertRecord, AlertState]] = [(record, "resolved") for record in gone]
        told += ended
        if kept or gone:
            changes = AlertChanges(
                kept=kept, resolved=[record.key for record in gone], notices=self._notices(told, now_us)
            )
            await self._make(changes)
            self._tell(told, now_us)
        self._told, self._has_looked = set(found), True

    async def _own(self, there: Mapping[tuple[AlertKind, str], AlertRecord]) -> list[tuple[AlertKind, str]]:
        """Of the alerts that are there, those that are this worker's to take back."""
        backend, lease = self._means.backend, self._means.lease
        if not backend.is_fleet:
            return list(there)
        of_workers = [key for key in there if key[0] in OF_A_WORKER]
        owners: Mapping[str, int] = {}
        names: set[str] = set()
        if of_workers:
            owners = await backend.owners([subject for _, subject in of_workers])
            names = {each.name for each in await backend.living(self._means.clock.now_us()) if each.kind == "worker"}

        def is_own(key: tuple[AlertKind, str]) -> bool:
            kind, subject = key
            if kind not in OF_A_WORKER:
                return lease.is_first
            if kind is AlertKind.COMMIT_RETRIES:
                is_of_life_before = subject == self._worker and not self._has_looked
                return key in self._told or is_of_life_before or (lease.is_first and subject not in names)
            owner = owners.get(subject)
            return lease.is_first if owner is None else owner == lease.worker_id

        return [key for key in there if is_own(key)]

    async def _make(self, changes: AlertChanges) -> None:
        """Make them durable; one whose answer was lost is looked up, for those who are told only once."""
        try:
            await self._means.backend.change_alerts(self._means.lease, changes)
        except CommitOutcomeUnknown:
            there = {alert.key: alert for alert in await self._means.backend.alerts()}
            if any(there.get(each.key) != each for each in changes.kept) or not there.keys().isdisjoint(
                changes.resolved
            ):
                raise

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

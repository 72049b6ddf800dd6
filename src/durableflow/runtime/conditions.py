"""What is wrong now: each condition that an alert can be raised for, and where it is seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Final, NamedTuple

from durableflow.backends.base import Lease, QuietInstance
from durableflow.model.alert import AlertKind, Severity
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.alert_policy import AlertPolicy, in_us
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import Live
from durableflow.runtime.means import Means

_REMEMBERED: Final = 1_000
_QUIET_MOST: Final = 1_000
_DETAILS_CHARS: Final = 1_000
OF_A_WORKER: Final = frozenset({AlertKind.NO_PROGRESS, AlertKind.COMMIT_RETRIES, AlertKind.LONG_TURN})
"""What only the worker sees that it is about; all else is seen in the store."""
NOTED: Final = frozenset({facts.CommitRetried, facts.CommitUnanswered, facts.TurnBlocked})
"""The facts that conditions are found in; the many others need not be shown."""


class Condition(NamedTuple):
    """Something is wrong with `subject`, for all that is known since `since_us`."""

    kind: AlertKind
    subject: str
    severity: Severity
    since_us: int
    details: str


class UnservedQueue(NamedTuple):
    """A queue in which something has been ready since `since_us`, and no worker serves it."""

    name: str
    since_us: int
    waiting: int


UnservedQueues = Callable[[int], Awaitable[Iterable[UnservedQueue]]]
"""Asked for the queues in which something has been ready since before a moment, without a worker that serves them."""


class _Happening(NamedTuple):
    at_us: int
    subject: str
    details: str


class Conditions:
    """Finds out what is wrong.

    Attributes:
        unserved_queues: asked for queues that nobody serves; by default the store is.
    """

    def __init__(
        self, means: Means, instances: Instances, circuits: Circuits, policy: AlertPolicy, worker: str
    ) -> None:
        self._means = means
        self._instances = instances
        self._circuits = circuits
        self._policy = policy
        self._worker = worker
        self._led_us = means.clock.now_us()
        self._refused_commits: deque[_Happening] = deque(maxlen=_REMEMBERED)
        self._blocked: deque[_Happening] = deque(maxlen=_REMEMBERED)
        self.unserved_queues: UnservedQueues = self._unserved

    def note(self, fact: facts.Fact) -> None:
        """Told of each fact that is one of `NOTED`, some on the guard's thread."""
        if isinstance(fact, facts.CommitRetried | facts.CommitUnanswered):
            self._refused_commits.append(_Happening(self._means.clock.now_us(), self._worker, fact.reason))
        elif isinstance(fact, facts.TurnBlocked):
            text = f"a turn blocked the event loop for {fact.seconds:.1f} s at {fact.location}"
            self._blocked.append(_Happening(self._means.clock.now_us(), fact.instance_id, text))

    async def look(self, now_us: int, *, of_store: bool) -> list[Condition]:
        """All that is wrong now, at most so many of a kind as the policy says.

        Args:
            of_store: whether it is this worker's to look at the store as a whole, too, and not only at itself.
        """
        found = [*self._commit_retries(now_us), *self._long_turns(now_us)]
        if self._means.backend.is_fleet:
            own = await self._quiet(now_us, self._means.lease)
            found += [each for each in own if each.kind in OF_A_WORKER]
        if of_store:
            quiet = await self._quiet(now_us, None)
            found += [each for each in quiet if each.kind not in OF_A_WORKER or not self._means.backend.is_fleet]
            found += [
                *await self._takeovers(now_us),
                *await self._open_circuits(),
                *await self._queues(now_us),
            ]
        kept: list[Condition] = []
        for kind in AlertKind:
            of_kind = (each for each in found if each.kind is kind)
            kept += islice(of_kind, self._policy.most)
        return [each._replace(details=each.details[:_DETAILS_CHARS]) for each in kept]

    # -- instances ------------------------------------------------------------------------------------------

    async def _quiet(self, now_us: int, lease: Lease | None) -> list[Condition]:
        policy = self._policy
        before_us = now_us - min(in_us(policy, "overdue"), in_us(policy, "no_progress"))
        found: list[Condition] = []
        for quiet in await self._means.backend.quiet(before_us, _QUIET_MOST, lease):
            condition = self._judge(quiet, now_us)
            if condition is not None:
                found.append(condition)
        return found

    def _judge(self, quiet: QuietInstance, now_us: int) -> Condition | None:
        policy = self._policy
        live = self._instances.live.get(quiet.id)
        if quiet.status is Status.STALLED:
            reason = quiet.stall_reason or "no reason is recorded"
            return Condition(AlertKind.STALLED, quiet.id, Severity.ERROR, max(quiet.recorded_us, 0), reason)
        if quiet.status is Status.SUSPENDED:
            return None  # somebody wanted it so
        waits = live is not None and bool(live.requests)
        if (quiet.wake_us == 0 and quiet.status is Status.RUNNING) or waits:
            heard_us = max(quiet.recorded_us, _latest_beat_us(live))
            if heard_us > now_us - in_us(policy, "no_progress"):
                return None
            what = "activities wait for a place or for their circuit" if waits else "attempts of activities run"
            text = f"{what}, and nothing was recorded for {(now_us - heard_us) / 1e6:,.0f} s"
            return Condition(AlertKind.NO_PROGRESS, quiet.id, Severity.WARNING, heard_us, text)
        # While nobody led the store, nobody could be late.
        due_us = max(quiet.wake_us or quiet.recorded_us, self._led_us)
        if due_us > now_us - in_us(policy, "overdue"):
            return None
        text = f"it was due {(now_us - due_us) / 1e6:,.0f} s ago, and nothing was recorded"
        return Condition(AlertKind.OVERDUE, quiet.id, Severity.ERROR, due_us, text)

    # -- workers --------------------------------------------------------------------------------------------

    async def _takeovers(self, now_us: int) -> list[Condition]:
        policy = self._policy
        takeovers = await self._means.backend.takeovers(now_us - in_us(policy, "window"))
        if len(takeovers) < policy.takeovers:
            return []
        names = ", ".join(dict.fromkeys(each.name for each in reversed(takeovers)))
        window_s = in_us(policy, "window") / 1e6
        text = (
            f"the worker of the store changed {len(takeovers)} times within {window_s:g} s ({names}); "
            "workers die, are restarted, or are too busy to renew their lease"
        )
        return [Condition(AlertKind.LEASE_CHURN, "store", Severity.WARNING, takeovers[0].at_us, text)]

    def _commit_retries(self, now_us: int) -> list[Condition]:
        refused = _recent(self._refused_commits, now_us - in_us(self._policy, "window"))
        if len(refused) < self._policy.commit_retries:
            return []
        text = f"the store refused or did not answer {len(refused)} commits, the last because: {refused[-1].details}"
        return [Condition(AlertKind.COMMIT_RETRIES, self._worker, Severity.ERROR, refused[0].at_us, text)]

    def _long_turns(self, now_us: int) -> list[Condition]:
        latest: dict[str, Condition] = {}
        for blocked in _recent(self._blocked, now_us - in_us(self._policy, "window")):
            since_us = latest[blocked.subject].since_us if blocked.subject in latest else blocked.at_us
            latest[blocked.subject] = Condition(
                AlertKind.LONG_TURN, blocked.subject, Severity.WARNING, since_us, blocked.details
            )
        return list(latest.values())

    # -- services and queues --------------------------------------------------------------------------------

    async def _open_circuits(self) -> list[Condition]:
        if not self._circuits.open_names():
            return []
        names = set(self._circuits.open_names())
        return [
            Condition(
                AlertKind.CIRCUIT_OPEN,
                circuit.name,
                Severity.WARNING,
                circuit.opened_us,
                f"{circuit.failures} attempts failed in a row, so others are held back",
            )
            for circuit in await self._means.backend.circuits()
            if circuit.name in names
        ]

    async def _unserved(self, before_us: int) -> list[UnservedQueue]:
        """Queues in which something has waited since before that, though it might be taken, and nothing is."""
        return [
            UnservedQueue(queue.name, queue.oldest_us, queue.waiting)
            for queue in await self._means.backend.queues()
            if queue.oldest_us is not None
            and queue.oldest_us < before_us - queue.limits.rate_period_us
            and not queue.claimed
            and not queue.is_paused
        ]

    async def _queues(self, now_us: int) -> list[Condition]:
        return [
            Condition(
                AlertKind.QUEUE_UNSERVED,
                queue.name,
                Severity.ERROR,
                queue.since_us,
                f"{queue.waiting:,} wait in it, and no worker serves it",
            )
            for queue in await self.unserved_queues(now_us - in_us(self._policy, "queue_unserved"))
        ]


def _recent(happenings: deque[_Happening], from_us: int) -> list[_Happening]:
    while happenings and happenings[0].at_us < from_us:
        happenings.popleft()
    return list(happenings)


def _latest_beat_us(live: Live | None) -> int:
    return 0 if live is None else max((attempt.beat_us for attempt in live.attempts.values()), default=0)

"""Places for attempts: who has one, who waits for one, and in which order they get it.

An attempt begins only when the commit that allows it is durable. Places are reserved when
the commit is made up, so that "scheduled" can mean "attempt 1 may be running".
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from itertools import count
from typing import Final

from durableflow.core.turn import PendingActivity
from durableflow.model import events as ev
from durableflow.model.circuit import CIRCUIT_OPEN
from durableflow.model.failure import Failure
from durableflow.runtime.alarms import Alarms
from durableflow.runtime.attempt import TIMEOUT, AnyActivity, Owner, Request, is_last, is_suspect
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.settings import Settings

TRANSACTIONS_AT_ONCE: Final = 32
"""So many transactional attempts have begun at a time. The store runs them one after the other, or a few at once; those
that have not begun when the process dies need not count as lost."""


class Places:
    """Gives out the places that an engine has.

    Args:
        circuits: say of activities that have a circuit breaker whether they may be attempted; without, all may.
    """

    def __init__(self, settings: Settings, alarms: Alarms, circuits: Circuits | None) -> None:
        self._settings = settings
        self._alarms = alarms
        self._circuits = circuits
        if circuits is not None:
            circuits.admit, circuits.refuse = self._place, self._refuse
        self._free_places = {
            "loop": settings.activity_concurrency,
            "thread": settings.activity_threads,
            "store": TRANSACTIONS_AT_ONCE,
        }
        self._by_name: Counter[str] = Counter()
        self._isolated: tuple[str, int] | None = None
        self._queues: dict[tuple[str, bool], deque[Request]] = {}
        """Who waits, in order: one line for each activity, and one for those of it that are suspects."""
        self._orders = count()
        self._stopping = False

    def _tell_unmade(self, request: Request, failure: Failure) -> None:
        """An activity ends without the attempt that was asked for."""
        raise NotImplementedError

    def reserve(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> bool:
        """Take a place for the next attempt; False when there is none, or its circuit holds it back."""
        if (
            definition.circuit is not None
            and self._circuits is not None
            and not self._circuits.admits(owner.id, activity, definition)
        ):
            return False
        limit = definition.max_concurrency
        if limit is not None and self._by_name[definition.name] >= limit:
            return False
        if self._free_places[definition.place] <= 0 or self._stopping:
            return False
        if activity.losses and is_suspect(activity):
            if self._isolated is not None:
                return False
            self._isolated = (owner.id, activity.task)
        self._free_places[definition.place] -= 1
        if limit is not None:
            self._by_name[definition.name] += 1
        return True

    def release(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Give a place back, to the first in the queue that can use it."""
        self._free_places[definition.place] += 1
        if definition.max_concurrency is not None:
            self._by_name[definition.name] -= 1
        if self._isolated == (owner.id, activity.task):
            self._isolated = None
        if definition.circuit is not None and self._circuits is not None:
            self._circuits.give_back(owner.id, activity.task)
        if self._queues:
            self._serve_queue()

    def request(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Begin the next attempt as soon as there is a place: the owner is told `ActivityStarted`."""
        if activity.task in owner.requests:
            return
        request = owner.requests[activity.task] = Request(owner, activity, definition, next(self._orders))
        self._place(request)

    def _place(self, request: Request) -> None:
        owner, activity, definition = request.owner, request.activity, request.definition
        line = (definition.name, bool(activity.losses) and is_suspect(activity))
        if self._is_held_back(request):
            return
        if line not in self._queues and self.reserve(owner, activity, definition):
            self._grant(request, activity.attempt)
        else:
            self._queues.setdefault(line, deque()).append(request)
            self._watch_schedule(request)

    def _is_held_back(self, request: Request) -> bool:
        """Whether it waits for its circuit, or was refused by it, and is not to be in a queue for places."""
        owner, activity, definition = request.owner, request.activity, request.definition
        if (
            self._circuits is None
            or definition.circuit is None
            or self._circuits.admits(owner.id, activity, definition)
        ):
            return False
        self._watch_schedule(request)
        self._circuits.hold(request)
        return True

    def _refuse(self, request: Request, text: str) -> None:
        """No attempt follows: its circuit is open, and it is not to wait for that."""
        failure = Failure(CIRCUIT_OPEN, f"activity {request.activity.name!r} was not attempted: {text}")
        self._end_unmade(request, failure)

    def request_after_loss(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Begin the attempt behind the current one in the turn in which its owner is told that this one was lost.

        Only if there is a place now and it is no suspect; else it is requested when that turn is durable.
        """
        if activity.losses or is_last(activity, activity.attempt + 1) or activity.task in owner.requests:
            return
        if (definition.name, False) not in self._queues and self.reserve(owner, activity, definition):
            request = owner.requests[activity.task] = Request(owner, activity, definition, next(self._orders))
            self._grant(request, activity.attempt + 1)

    def withdraw(self, owner: Owner, task: int) -> None:
        """Forget what `owner` asked for `task`; a place that was reserved for it is free again."""
        request = owner.requests.pop(task, None)
        if request is not None:
            for alarm in request.alarms:
                alarm.cancel()
            if request.granted:
                self.release(owner, request.activity, request.definition)
            elif self._circuits is not None and request.definition.circuit is not None:
                self._circuits.give_back(owner.id, task)

    def _grant(self, request: Request, attempt: int) -> None:
        request.granted = True
        for alarm in request.alarms:
            alarm.cancel()
        request.owner.tell(ev.ActivityStarted(request.activity.task, attempt))

    def _serve_queue(self) -> None:
        """Give free places out in the order of asking, passing by those that wait for a place of another kind."""
        while True:
            first: Request | None = None
            for line, queue in list(self._queues.items()):
                while queue and (not queue[0].is_waiting or self._is_held_back(queue[0])):
                    queue.popleft()
                if not queue:
                    del self._queues[line]
                elif (first is None or queue[0].order < first.order) and self._has_place(queue[0]):
                    first = queue[0]
            if first is None or not self.reserve(first.owner, first.activity, first.definition):
                return
            self._grant(first, first.activity.attempt)

    def _has_place(self, request: Request) -> bool:
        definition = request.definition
        limit = definition.max_concurrency
        return (
            not self._stopping
            and self._free_places[definition.place] > 0
            and (limit is None or self._by_name[definition.name] < limit)
            and not (self._isolated is not None and request.activity.losses and is_suspect(request.activity))
        )

    def _watch_schedule(self, request: Request) -> None:
        """Give up what finds no place in time."""
        options, activity = request.activity.options, request.activity
        if options is None or request.alarms:
            return
        wanted_at_us = max(activity.scheduled_at_us, activity.retry_at_us)
        limits = [
            (options.schedule_to_start_us, wanted_at_us, "found no place within"),
            (options.schedule_to_close_us, activity.scheduled_at_us, "was not done, from being scheduled, within"),
        ]
        for limit_us, since_us, text in limits:
            if limit_us:
                call = partial(self._give_up, request, f"{text} {limit_us / 1e6:g} s")
                request.alarms.append(self._alarms.at(since_us + limit_us, call))

    def _give_up(self, request: Request, text: str) -> None:
        if request.is_waiting:
            self._end_unmade(request, Failure(TIMEOUT, f"activity {request.activity.name!r} {text}"))

    def _end_unmade(self, request: Request, failure: Failure) -> None:
        owner, activity = request.owner, request.activity
        self.withdraw(owner, activity.task)
        made = activity.attempt - activity.uncounted - 1
        self._tell_unmade(request, failure)
        owner.tell(ev.ActivityFailed(activity.task, failure, made, activity.attempt))

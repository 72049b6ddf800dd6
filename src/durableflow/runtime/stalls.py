"""Instances that cannot go on: what they were being told is kept, and they are tried again."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from typing import cast

from durableflow.backends.base import Commit, HistoryRow, InstanceChange, LoadedInstance, NewInstance
from durableflow.backends.tasks import ALL_TASKS
from durableflow.core.others import last_words
from durableflow.core.turn import Send
from durableflow.errors import (
    CorruptHistory,
    HistoryTooLong,
    InstancesExist,
    InstanceStalled,
    NotRegistered,
    ReplayError,
    StorageError,
)
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.ends import End, Ends
from durableflow.runtime.instances import Instances
from durableflow.runtime.letters import letter_of_stall
from durableflow.runtime.live import Live, Told, answer
from durableflow.runtime.means import Means
from durableflow.runtime.messages import (
    FROM_OUTSIDE,
    event_in,
    events_of,
    interrupted,
    is_termination,
    is_word,
    outgoing,
    sent_by,
    seq_after,
    time_after,
)


class Stalls:
    """Puts instances away as STALLED, durably.

    Attributes:
        stuck: instances whose turn did not come to its end here: only another process may bring them further.
    """

    def __init__(self, means: Means, instances: Instances, ends: Ends) -> None:
        self._means = means
        self._instances = instances
        self._ends = ends
        self.stuck: set[str] = set()
        self.on_sent: Callable[[], None] = lambda: None
        """Called when something for other instances may have been written."""

    def stall(self, live: Live, reason: str) -> None:
        """Stop going on with an instance; what it was being told is kept in its inbox."""
        if live.gone:
            return
        told, live.pending = live.pending, []
        # One that cannot be given up is being committed, and its message tells of it.
        running = [attempt.activity for attempt in live.attempts.values() if attempt.give_up()]
        told += [(event, None, 0) for event in interrupted(running, self._means.clock.now_us())]
        new, custom_status, workflow = live.new, live.execution.custom_status, live.execution.program.name
        self._instances.forget(live, None)
        loading = self._instances.loading.pop(live.id, None)
        self.stall_unloaded(live.id, workflow, reason, custom_status, new, told, loading)

    def stall_unloaded(
        self,
        instance_id: str,
        workflow: str,
        reason: str,
        custom_status: bytes | None,
        new: NewInstance | None = None,
        told: Sequence[Told] = (),
        loading: asyncio.Future[Live] | None = None,
    ) -> None:
        """The same for one that is not, or no longer, in memory; nobody loads it before that is durable."""
        self._instances.hold(instance_id, loading)
        self._means.in_background(self._stall_durably(instance_id, workflow, reason, custom_status, new, told))

    async def _stall_durably(
        self,
        instance_id: str,
        workflow: str,
        reason: str,
        custom_status: bytes | None,
        new: NewInstance | None,
        told: Sequence[Told],
    ) -> None:
        outcome: StorageError | InstanceStalled = InstanceStalled(instance_id, reason)
        change = InstanceChange(instance_id, Status.STALLED, 0, None, custom_status, reason)
        try:
            if await self._keep_messages(instance_id, told, new):
                letter = letter_of_stall(instance_id, workflow, reason, self._means.clock.now_us())
                await self._means.commit(Commit(changes=[change], dead_letters=[letter]))
                answer(told, None)
                self._ends.tell_stalled(instance_id, reason)
                self._means.tell(facts.InstanceStalled(instance_id, reason))
            else:
                answer(told, InstancesExist({instance_id}))
        except StorageError as error:
            outcome = error
            answer(told, error)
        finally:
            self._instances.release(instance_id, outcome, again=isinstance(outcome, StorageError))

    async def _keep_messages(self, instance_id: str, told: Sequence[Told], new: NewInstance | None) -> bool:
        """Put what a stalled instance was being told into its inbox; False when another has taken its id."""
        messages = [
            outgoing(instance_id, event, new if isinstance(event, ev.InstanceStarted) else None)
            for event, _, number in told
            if not number and (type(event) in FROM_OUTSIDE or is_word(event))
        ]
        if not messages:
            return True
        results = await self._means.backend.send(messages)
        return results[0].outcome != "exists"

    def terminate(self, instance_id: str) -> None:
        """Obey a termination in its inbox without the code: nothing of it needs to run for that."""
        self._means.in_background(self.terminate_durably(instance_id))

    async def terminate_durably(self, instance_id: str) -> None:
        """The same, returning when it is done. When it fails, the order stays in the inbox for the next load."""
        try:
            for loaded in await self._means.backend.load([instance_id]):
                await self._terminate_loaded(loaded)
        except StorageError:
            self._instances.want_later(instance_id)

    async def _terminate_loaded(self, loaded: LoadedInstance) -> None:
        record, rows, messages = loaded[:3]
        orders = [message for message in messages if is_termination(message)]
        if record.status.is_terminal or not orders:
            return
        event = cast("ev.InstanceTerminated", ev.load_event(orders[0].data))
        begun = [] if rows else [each for m in messages if type(each := event_in(m)) is ev.InstanceStarted]
        at_us = time_after(rows, self._means.clock.now_us())
        row = HistoryRow(record.id, seq_after(rows), at_us, ev.dump_events([*begun, event]))
        change = InstanceChange(record.id, Status.TERMINATED, None, at_us, record.custom_status)
        consumed = [message.number for message in messages]
        sends = [sent_by(record.id, send, at_us) for send in _last_words(record.id, rows, begun, event)]
        dropped = [(record.id, ALL_TASKS)]
        commit = Commit(
            rows=[row], changes=[change], consumed=consumed, sends=sends, redeemed=[record.id], tasks_dropped=dropped
        )
        await self._means.commit(commit)
        self.on_sent()
        self.stuck.discard(record.id)
        self._means.tell(facts.InstanceEnded(record.id, record.workflow, Status.TERMINATED))
        self._ends.tell_end(record.id, End(Status.TERMINATED, event))
        self._ends.tell_status(record.id)


def _last_words(
    instance_id: str, rows: Sequence[HistoryRow], begun: Sequence[ev.Event], end: ev.Event
) -> Sequence[Send]:
    """What others are told; nothing when it is the history that cannot be read."""
    try:
        known = [*begun, *(event for row in rows for event in events_of(row))]
    except CorruptHistory:
        return ()
    return last_words(instance_id, known, end, f"its parent is {Status.TERMINATED}")


def reason_of(error: Exception) -> str:
    """Why an instance stalls; a defect of the engine, too, hurts one instance only, and visibly."""
    if isinstance(error, ReplayError):
        return f"{error} [{error.code}]"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"the engine itself failed at {where.filename}:{where.lineno}: {error!r}; please report it with this history"


def not_registered(kind: str, name: str) -> NotRegistered:
    """Nothing of this name is known here."""
    return NotRegistered(
        f"{kind} {name!r} is not registered here; import the module that defines it, "
        f"or pass it to Engine({'workflows' if kind == 'workflow' else 'activities'}=[...])"
    )


def history_too_long(events: int, limit: int) -> HistoryTooLong:
    """The hard limit is passed."""
    return HistoryTooLong(
        f"its history has {events:,} events, over the limit of {limit:,}; "
        "raise Settings(history_hard_limit=...), or terminate it and let shorter instances do the work"
    )

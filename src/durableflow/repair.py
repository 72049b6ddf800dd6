"""Making instances go on that were over, or again: rewind, fork, restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from durableflow.backends.base import Backend, HistoryRow, InstanceRecord, NewInstance, Outgoing, Rewrite
from durableflow.core import rewriting
from durableflow.core.others import birth, result_message
from durableflow.core.rewriting import Row
from durableflow.errors import AppendConflict, InstanceNotActive, InstanceNotFound, UsageError
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.messages import events_of, outgoing, sent_by

_PAGE_ROWS: Final = 1_000


async def read_rows(backend: Backend, instance_id: str, from_seq: int) -> list[Row]:
    """The rows of a history from the one that holds `from_seq` on."""
    rows: list[Row] = []
    next_seq = from_seq
    while page := await backend.history(instance_id, next_seq, _PAGE_ROWS):
        if page[0].first_seq < next_seq and rows:
            break  # the last row again: nothing follows it
        rows += [(row.first_seq, row.at_us, events_of(row)) for row in page]
        next_seq = rows[-1][0] + len(rows[-1][2])
        if len(page) < _PAGE_ROWS:
            break
    return rows


def latest_round(rows: Sequence[Row]) -> Sequence[Row]:
    """Those of `rows` that a replay needs: a round may have begun since it was asked where to read from."""
    begins = [index for index, (_, _, events) in enumerate(rows) if type(events[0]) is ev.InstanceStarted]
    return rows[begins[-1] :] if begins else rows


class Repair:
    """Rewrites histories of one store.

    Args:
        now_us: when it is done.
    """

    def __init__(self, backend: Backend, now_us: int) -> None:
        self._backend = backend
        self._now_us = now_us
        self._alive: list[tuple[str, ev.ChildScheduled]] = []
        """Children that were alive when they were looked at, with who waits for them."""

    async def rewind(
        self, record: InstanceRecord, before: int | None, *, force: bool, timeout_us: int | None, reason: str
    ) -> None:
        """See `Client.rewind`."""
        rewrites = await self._rewinds(record, before, force=force, timeout_us=timeout_us, reason=reason)
        try:
            await self._backend.rewrite(rewrites)
        except AppendConflict as error:
            raise _changed(min(error.instance_ids)) from None
        for parent_id, call in self._alive:  # one that has ended since it was looked at has told nobody
            child = await self._child(parent_id, call)
            if child is not None and child.status.is_terminal:
                await self._backend.send([outgoing(parent_id, await self._word_of(child, call))])

    async def _rewinds(
        self, record: InstanceRecord, before: int | None, *, force: bool, timeout_us: int | None, reason: str
    ) -> list[Rewrite]:
        """What makes a failed instance go on, and those of its children whose failure made it fail."""
        if record.status is not Status.FAILED:
            raise InstanceNotActive(record.id, record.status, "rewind, which is for FAILED ones; fork or restart it")
        rows = await read_rows(self._backend, record.id, record.base_seq)
        known = await self._backend.record(record.id)
        if known is None or (known.status, known.base_seq) != (record.status, record.base_seq):
            raise _changed(record.id)  # between the two questions
        deadline_us = None if timeout_us is None else self._now_us + timeout_us
        plan = rewriting.rewind(record.id, rows, before, deadline_us)
        if plan.lost and not force:
            shown = "; ".join(plan.lost[:5]) + (" ..." if len(plan.lost) > 5 else "")
            raise UsageError(
                f"instance {record.id!r} did more after that failure, which rewinding would forget, not undo: {shown}; "
                "if that is right, rewind(..., force=True), else restart it"
            )
        last_seq, last_at_us, last = rows[-1]
        cut = plan.rows[-1][0] + len(plan.rows[-1][2])
        note_seq = last_seq + len(last)
        note = ev.dump_events([ev.InstanceRewound(cut, reason)])
        base_seq = note_seq + 1
        shift = base_seq - plan.rows[0][0]
        written = [HistoryRow(record.id, note_seq, max(self._now_us, last_at_us), note)]
        written += [HistoryRow(record.id, first + shift, at, ev.dump_events(events)) for first, at, events in plan.rows]
        row = NewInstance(
            record.id,
            record.workflow,
            record.version,
            Status.RUNNING,
            record.created_us,
            0,
            record.tags,
            rewriting.custom_status_of(plan.rows),
            parent=record.parent,
            base_seq=base_seq,
        )
        messages = [outgoing(record.id, event) for event in plan.messages]
        messages.append(outgoing(record.id, ev.InstanceResumed()))  # changes nothing, but makes the worker look
        made = [Rewrite(row, written, messages, last_seq)]
        for call in plan.children:
            made += await self._child_again(record.id, call, messages, force=force, reason=reason)
        for call in plan.waiting:
            made += await self._child_waited_for(record.id, call, messages, force=force, reason=reason)
        return made

    async def _child(self, parent_id: str, call: ev.ChildScheduled) -> InstanceRecord | None:
        record = await self._backend.record(rewriting.child_id_of(parent_id, call))
        return record if record is not None and record.parent == parent_id else None

    async def _child_waited_for(
        self, parent_id: str, call: ev.ChildScheduled, messages: list[Outgoing], *, force: bool, reason: str
    ) -> list[Rewrite]:
        """A child of which its parent had not heard when it failed. What it said since then, it has said to nobody."""
        child = await self._child(parent_id, call)
        if child is None or not child.status.is_terminal:
            self._alive.append((parent_id, call))
            return []
        if child.status is Status.FAILED:
            return await self._rewinds(child, None, force=force, timeout_us=None, reason=reason)
        if child.status is Status.COMPLETED:
            messages.insert(-1, outgoing(parent_id, await self._word_of(child, call)))
            return []
        if not force:
            raise UsageError(
                f"its child {child.id!r} is {child.status} since {parent_id!r} failed, so that rewinding would start "
                "it anew, and forget what it did; if that is right, rewind(..., force=True)"
            )
        send = sent_by(parent_id, birth(parent_id, child.id, call, self._now_us), self._now_us)
        assert send.new is not None
        messages.insert(-1, send._replace(new=send.new._replace(replace=True)))
        return []

    async def _word_of(self, child: InstanceRecord, call: ev.ChildScheduled) -> ev.Observation:
        """What a child that is over has to say to its parent."""
        rows = await read_rows(self._backend, child.id, child.base_seq)
        end = ev.end_of(rows[-1][2])
        assert end is not None, f"{child.id} is {child.status}, but its history has no end"
        said = result_message(ev.Origin(child.parent or "", call.task), end)
        assert said is not None
        return said.message

    async def _child_again(
        self, parent_id: str, call: ev.ChildScheduled, messages: list[Outgoing], *, force: bool, reason: str
    ) -> list[Rewrite]:
        child_id = rewriting.child_id_of(parent_id, call)
        record = await self._backend.record(child_id)
        if record is None or record.parent != parent_id:
            send = birth(parent_id, child_id, call, self._now_us)
            messages.insert(0, sent_by(parent_id, send, self._now_us))
            return []
        if not record.status.is_terminal:
            return []  # somebody has rewound it before
        if record.status is not Status.FAILED:
            raise UsageError(
                f"its child {child_id!r} is {record.status}, so that it would fail again; restart {parent_id!r}, or "
                "purge the child, to have another one started"
            )
        return await self._rewinds(record, None, force=force, timeout_us=None, reason=reason)

    async def fork(self, record: InstanceRecord, new_id: str, at: int | None, version: int | None) -> None:
        """See `Client.fork`; raises `InstancesExist` when the id is taken."""
        rows = _round_of(await read_rows(self._backend, record.id, 1), record, at)
        started = rows[0][2][0]
        assert isinstance(started, ev.InstanceStarted)
        old = started.origin
        seed = old.seed if old is not None and old.seed else record.id
        last = rows[-1]
        forked_at = at if at is not None else last[0] + len(last[2]) - 1
        plan = rewriting.fork(rows, at, ev.Origin(forked_from=record.id, forked_at=forked_at, seed=seed), version)
        new = NewInstance(
            new_id,
            record.workflow,
            version or started.version,
            Status.RUNNING,
            self._now_us,
            0,
            record.tags,
            rewriting.custom_status_of(plan.rows),
        )
        messages = [outgoing(new_id, event) for event in plan.messages]
        for call in plan.children:
            send = birth(new_id, rewriting.child_id_of(new_id, call), call, self._now_us)
            messages.append(sent_by(new_id, send, self._now_us))
        for sent in plan.sent:
            message = ev.load_event(sent.message)
            answers = {each: ev.dump_event(ev.MessageAnswered(sent.task, each)) for each in _OUTCOMES}
            messages.append(Outgoing(sent.instance_id, ev.dump_event(message), None, None, new_id, answers))
        messages.append(outgoing(new_id, ev.InstanceResumed()))
        written = [HistoryRow(new_id, first, at_us, ev.dump_events(events)) for first, at_us, events in plan.rows]
        await self._backend.rewrite([Rewrite(new, written, messages)])

    async def first_event(self, record: InstanceRecord) -> ev.InstanceStarted:
        """What the instance was started with, in its first round."""
        rows = await self._backend.history(record.id, 1, 1)
        if not rows:
            raise InstanceNotFound(record.id)
        started = events_of(rows[0])[0]
        assert isinstance(started, ev.InstanceStarted)
        if not started.debounced:
            return started
        early = [event for row in await self._backend.history(record.id, 1, _EARLY_ROWS) for event in events_of(row)]
        inputs = [event.input for event in early if isinstance(event, ev.StartChanged)]
        return msgspec.structs.replace(started, input=inputs[-1] if inputs else started.input)


def _changed(instance_id: str) -> InstanceNotActive:
    return InstanceNotActive(instance_id, "changed", "rewind: somebody else did something with it; look again")


_OUTCOMES: Final = ("delivered", "missing", "over")
_EARLY_ROWS: Final = 1_000
"""What is told to a debounced instance before it begins is within so many rows."""


def _round_of(rows: Sequence[Row], record: InstanceRecord, seq: int | None) -> Sequence[Row]:
    """The rows of the round that holds event `seq`; of the latest one when that is None."""
    if not rows:
        raise InstanceNotFound(record.id)
    last_seq = rows[-1][0] + len(rows[-1][2]) - 1
    if seq is not None and not 1 <= seq <= last_seq:
        raise UsageError(f"instance {record.id!r} has no event #{seq}; it has #1 to #{last_seq}")
    begins = [index for index, (_, _, events) in enumerate(rows) if type(events[0]) is ev.InstanceStarted]
    if seq is None:
        return rows[begins[-1] :]
    index = max(place for place in begins if rows[place][0] <= seq)
    until = next((place for place in begins if place > index), len(rows))
    return [row for row in rows[index:until] if type(row[2][0]) is not ev.InstanceRewound]

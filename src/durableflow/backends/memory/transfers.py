"""Histories that no worker writes: of copies, of instances that go on, of instances from another store."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from durableflow.backends.base import Arrival, InstanceChange, NewInstance, Rewrite
from durableflow.backends.memory.relaying import MemoryRelays
from durableflow.backends.memory.rows import Instance, first_seq
from durableflow.backends.relaying import Outcome
from durableflow.backends.transfers import load_rewrites
from durableflow.errors import AppendConflict, InstancesExist


class MemoryTransfers(MemoryRelays):
    """The part of `MemoryBackend` that takes histories from clients."""

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """See `Backend.rewrite`."""
        self._check_seal()
        taken = {each.instance.id for each in rewrites if not each.after_seq and not self._may_insert(each.instance)}
        if taken:
            raise InstancesExist(taken)
        changed = {each.instance.id for each in rewrites if each.after_seq and not self._may_go_on(each)}
        if changed:
            raise AppendConflict(changed)
        self._write_rewrites(rewrites)
        self._notify()

    def _go_on(self, data: bytes) -> Outcome:
        rewrites = load_rewrites(data)
        going = [self._may_go_on(each) for each in rewrites]
        self._write_rewrites([each for each, goes in zip(rewrites, going, strict=True) if goes])
        return "delivered" if going[0] else "over"

    def _write_rewrites(self, rewrites: Sequence[Rewrite]) -> None:
        """Nothing here fails: all or nothing."""
        for new, rows, _, after_seq, _ in rewrites:
            if after_seq:
                change = InstanceChange(
                    new.id, new.status, new.wake_us, None, new.custom_status, None, new.base_seq, new.version
                )
                self._change(change)
                self._instances[new.id].letters.clear()
            else:
                self._insert(new)
            self._instances[new.id].rows += rows
        for rewrite in rewrites:
            for message in rewrite.messages:
                self._send_for(message)
            self._put_out(rewrite.outbox)

    def _may_go_on(self, rewrite: Rewrite) -> bool:
        known = self._instances.get(rewrite.instance.id)
        return (
            known is not None
            and known.record.status.is_terminal
            and bool(known.rows)
            and known.rows[-1].first_seq == rewrite.after_seq
        )

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """See `Backend.take_in`."""
        self._check_seal()
        taken: set[str] = set()
        for arrival in arrivals:
            record = arrival.record
            if record.id in self._instances:
                taken.add(record.id)
                continue
            new = NewInstance(record.id, record.workflow, record.version, record.status, record.created_us, None, {})
            made = self._instances[record.id] = Instance(new)
            made.record = record
            made.rows = sorted(arrival.rows, key=first_seq)
            made.beats = {beat.task: beat for beat in arrival.heartbeats}
            if record.wake_us is not None:
                insort(self._wakes, (record.wake_us, record.id))
            for message in arrival.messages:
                self._put_in(message)
        self._notify()
        return taken

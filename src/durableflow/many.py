"""The part of a client that deals with many instances at a time: bulk actions, exports, imports, cleaning up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from durableflow.backends.base import Backend, Outgoing, SendResult
from durableflow.errors import DurableflowError, InstanceError, UsageError
from durableflow.model import events as ev
from durableflow.model.duration import Duration, to_us
from durableflow.model.ids import check_name
from durableflow.model.status import TERMINAL, Status
from durableflow.runtime.bulk import ACTIONS, BulkAction, BulkReport, Tally
from durableflow.runtime.clock import Clock
from durableflow.runtime.exports import (
    BATCH,
    ExportFile,
    ExportReport,
    ImportReport,
    export_file,
    export_lines,
    exported,
    import_file,
)
from durableflow.runtime.filters import InstanceFilter, pages_of, query_of, says_nothing
from durableflow.runtime.messages import check_sent

if TYPE_CHECKING:
    from pathlib import Path  # it brings urllib and ipaddress

_BULK_PAGE: Final = 200
"""So many instances are in memory, and in one transaction, at a time."""


class ManyInstances:
    """What a `Client` can do to many instances of its store; it says which store that is."""

    _backend: Backend
    _clock: Clock

    async def purge_many(self, instance_ids: Iterable[str]) -> Sequence[str]:
        """Remove those that are over, in one transaction; returns the ids of those that were removed."""
        return await self._backend.purge([check_name(each, "the instance id") for each in instance_ids])

    async def purge_finished(
        self,
        *,
        older_than: Duration,
        status: Status | Iterable[Status] | None = None,
        batch: int = 500,
        export_to: str | Path | None = None,
    ) -> int:
        """Remove all instances that ended longer ago than `older_than`, oldest first.

        It may be cancelled, and called again: what was removed is removed.

        Args:
            status: only those that ended so; by default however they ended.
            batch: how many go in one transaction, 1 to 1,000; others may write between two of them.
            export_to: a file to which they are added, as of `export_instances`; each is on the disk before it is
                removed. After a crash some may be there twice, which `import_instances` takes for what it is.

        Returns:
            How many were removed.

        Raises:
            UsageError: a status that is no end, or a batch out of range.
        """
        if not 1 <= batch <= 1_000:
            raise UsageError(f"batch is {batch!r}, but must be from 1 to 1,000")
        statuses = TERMINAL if status is None else frozenset([status] if isinstance(status, Status) else status)
        if not statuses <= TERMINAL:
            raise UsageError(
                f"instances that are {', '.join(sorted(statuses - TERMINAL))} are not over and cannot be purged; "
                f"ends are {', '.join(sorted(TERMINAL))}"
            )
        before_us = self._clock.now_us() - to_us(older_than, "older_than")
        from pathlib import Path

        file = None if export_to is None else await asyncio.to_thread(ExportFile, Path(export_to))
        try:
            return await self._purge_found(statuses, before_us, batch, file)
        finally:
            if file is not None:
                file.close()

    async def _purge_found(
        self, statuses: frozenset[Status], before_us: int, batch: int, file: ExportFile | None
    ) -> int:
        removed = 0
        after = (-1, "")
        while found := await self._backend.finished(statuses, before_us, after, batch):
            ids = [instance_id for _, instance_id in found]
            if file is None:
                removed += len(await self.purge_many(ids))
            else:
                async for loaded, lines in exported(self._backend, _at_once(ids)):
                    over = [item.record.id for item in loaded if item.record.status.is_terminal]
                    await asyncio.to_thread(file.add, lines)
                    removed += len(await self.purge_many(over))
            after = found[-1]
        return removed

    # -- many at once ---------------------------------------------------------------------------------------

    async def bulk(
        self, action: BulkAction, *, dry_run: bool = False, reason: str = "", **where: Unpack[InstanceFilter]
    ) -> BulkReport:
        """Do the same to all instances that match, as `list` would find them; none that is made later.

        Those to which the action does not apply (a `resume` of what is not suspended) are passed by, unless `status`
        says which are meant. After a crash, or when it was cancelled, call it again: what was done is done.

        Args:
            action: `"suspend"`, `"resume"`, `"terminate"`, `"cancel"`, `"purge"`, `"rewind"` or `"restart"`.
            dry_run: do nothing, and tell for how many and for which it would be done.
            reason: of a `suspend`, `terminate` or `cancel`.
            where: which instances; at least one condition.

        Raises:
            UsageError: no such action, or a filter that says nothing: `status=list(Status)` means all.
        """
        means = ACTIONS.get(action)
        if means is None or not (means.message or hasattr(self, action)):
            raise UsageError(f"there is no bulk action {action!r}; there are {', '.join(ACTIONS)}")
        query = query_of(where)
        if says_nothing(where):
            raise UsageError(
                f"bulk({action!r}) without a filter would reach every instance of the store; "
                "say which are meant, or status=list(Status) for all"
            )
        if not query.statuses:
            query = msgspec.structs.replace(query, statuses=means.statuses)
        tally = Tally(action, dry_run=dry_run)
        async for page in pages_of(self._backend, query, _BULK_PAGE):
            ids = [record.id for record in page]
            tally.match(ids)
            if not dry_run:
                for instance_id, error in zip(ids, await self._do_all(action, ids, reason), strict=True):
                    tally.end(instance_id, error)
        return tally.report()

    async def _do_all(self, action: BulkAction, ids: Sequence[str], reason: str) -> Sequence[Exception | None]:
        """Do it to all of them; why not, of each to which it could not be done."""
        message = ACTIONS[action].message
        if action == "purge":
            purged = set(await self.purge_many(ids))
            return [None if each in purged else InstanceError(each, "it is gone, or it is not over") for each in ids]
        if message is not None:
            return await self._send_all(ids, message(reason), action)
        method = getattr(self, action)
        return [await _outcome_of(method(each)) for each in ids]

    async def _send_all(
        self, instance_ids: Sequence[str], event: ev.Observation, asked: str
    ) -> Sequence[Exception | None]:
        """Send the same to many, in one transaction; why not, of each that could not take it."""
        data = ev.dump_event(event)
        results = await self._backend.send([Outgoing(instance_id, data) for instance_id in instance_ids])
        return [_refusal(*each, asked) for each in zip(instance_ids, results, strict=True)]

    def export_lines(
        self, instance_ids: Iterable[str] | None = None, **where: Unpack[InstanceFilter]
    ) -> AsyncGenerator[str]:
        """Instances as lines of JSON, one after the other, as `export_instances` writes them to a file."""
        return export_lines(self._backend, self._chosen(instance_ids, where), must_exist=instance_ids is not None)

    async def export_instances(
        self, path: str | Path, instance_ids: Iterable[str] | None = None, **where: Unpack[InstanceFilter]
    ) -> ExportReport:
        """Write instances to a file of JSON lines: their rows, histories, inboxes and heartbeats.

        Those that are not over are exported as they are at that moment, and go on.

        Args:
            path: of a file that is not there yet. It is whole and on the disk when this returns, or not there.
            instance_ids: these; or else give a filter, as for `list`. Without either, all.

        Raises:
            UsageError: the file is there, or both ids and a filter are given.
            InstanceNotFound: there is none of one of the ids.
        """
        chosen = self._chosen(instance_ids, where)
        from pathlib import Path

        return await export_file(self._backend, Path(path), chosen, must_exist=instance_ids is not None)

    async def import_instances(self, path: str | Path, *, active: bool = False) -> ImportReport:
        """Bring in all instances of a file that an export wrote, into this store or any other.

        What is there already, the same, is passed by; so after a crash it is simply called again.

        Args:
            active: also take instances that are not over. They go on here: the store that they are from must not
                work on them any more. Attempts that were under way count as lost.

        Raises:
            CorruptHistory: the file is not whole, or not understood; nothing was written.
            UsageError: an instance is not over, and `active` is False; nothing was written.
            InstanceExists: an id is taken by another instance; those before it in the file are there.
        """
        from pathlib import Path

        return await import_file(self._backend, Path(path), active=active)

    async def _chosen(self, instance_ids: Iterable[str] | None, where: InstanceFilter) -> AsyncGenerator[Sequence[str]]:
        query = query_of(where)
        if instance_ids is None:
            async for page in pages_of(self._backend, query, BATCH):
                yield [record.id for record in page]
        elif says_nothing(where):
            yield list(dict.fromkeys(check_name(each, "the instance id") for each in instance_ids))
        else:
            raise UsageError("either the ids of instances or a filter, not both")


async def _at_once(ids: Sequence[str]) -> AsyncGenerator[Sequence[str]]:
    yield ids


async def _outcome_of(doing: Coroutine[Any, Any, object]) -> Exception | None:
    try:
        await doing
    except DurableflowError as error:
        return error
    return None


def _refusal(instance_id: str, result: SendResult, asked: str) -> Exception | None:
    try:
        check_sent(instance_id, result, asked)
    except InstanceError as error:
        return error
    return None

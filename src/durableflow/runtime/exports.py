"""Instances as lines of JSON: out of one store, and into another.

A file begins with a line that says what it is. Then, for each instance: its row, its events as in a saved history, the
messages in its inbox that no turn has taken, the heartbeats of its attempts, and a line that says it is whole. So a
file that was cut off lacks the last of these lines, and what stands behind the last one that is there can be cut away.

What cannot be read is not left out: it is exported as it is stored, and refused by whoever imports it.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from durableflow.backends.base import Arrival, Backend, Heartbeat, HistoryRow, InstanceRecord, LoadedInstance
from durableflow.core.lines import KINDS, UNREADABLE, entry_of, fields_in, fields_out, line_of, turns_of
from durableflow.core.view import HistoryEvent, numbered
from durableflow.errors import CorruptHistory, InstanceExists, InstanceNotFound, UsageError
from durableflow.model import events as ev
from durableflow.runtime.messages import outgoing

if TYPE_CHECKING:
    from pathlib import Path

FILE_FORMAT: Final = 1
_PAGE_ROWS: Final = 1_000
BATCH: Final = 50
"""So many instances are in memory at a time."""

_HEAD: Final = msgspec.json.encode({"durableflow_export": FILE_FORMAT}) + b"\n"
_END: Final = b'{"end":'
_TAIL_BYTES: Final = 1 << 16
_NOTHING: Final = ev.ActivityCompleted(0, b"null", 0)
"""The answer of no attempt: an engine that finds it in an inbox loads the instance, and drops it."""


class ExportReport(msgspec.Struct, frozen=True):
    """What was written to a file."""

    instances: int
    events: int


class ImportReport(msgspec.Struct, frozen=True):
    """What became of the instances of a file; those that were there already, the same, are `skipped`."""

    imported: int
    skipped: int


# -- out --------------------------------------------------------------------------------------------------------------


def lines_of(loaded: LoadedInstance) -> list[bytes]:
    """An instance, line by line, each with its line break."""
    record, rows, messages, heartbeats = loaded[:4]
    lines: list[dict[str, Any]] = [{"instance": fields_out(record)}]
    events = 0
    for row in rows:
        try:
            written = [line_of(entry) for entry in numbered([(row.first_seq, row.at_us, ev.load_events(row.events))])]
        except (msgspec.DecodeError, OverflowError, ValueError):
            written = [{"unreadable": "turn", "turn": row.first_seq, "at_us": row.at_us, "data": _raw(row.events)}]
        lines += written
        events += len(written)
    for message in messages:
        try:
            event = ev.load_event(message.data)
            lines.append({"message": ev.tag_of(event), "event": fields_out(event)})
        except (msgspec.DecodeError, ValueError):
            lines.append({"unreadable": "message", "data": _raw(message.data)})
    lines += [{"heartbeat": fields_out(beat)} for beat in map(_Beat.of, heartbeats)]
    lines.append({"end": record.id, "events": events, "messages": len(messages)})
    return [msgspec.json.encode(line) + b"\n" for line in lines]


class _Beat(msgspec.Struct):
    """A heartbeat, without the instance that it stands among."""

    task: int
    attempt: int
    details: bytes

    @classmethod
    def of(cls, beat: Heartbeat) -> _Beat:
        return cls(beat.task, beat.attempt, beat.details)


def _raw(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def exported(
    backend: Backend, chosen: AsyncIterable[Sequence[str]], *, must_exist: bool = False
) -> AsyncGenerator[tuple[list[LoadedInstance], list[bytes]]]:
    """The instances of these ids with their lines, some at a time; each is as it was at one moment.

    Raises:
        InstanceNotFound: there is none of an id that must be there.
    """
    async for ids in chosen:
        for start in range(0, len(ids), BATCH):
            asked = ids[start : start + BATCH]
            loaded = [await _with_all_rows(backend, item) for item in await backend.load(asked)]
            if must_exist and len(loaded) < len(asked):
                raise InstanceNotFound(min(set(asked) - {item.record.id for item in loaded}))
            yield loaded, [line for item in loaded for line in lines_of(item)]


async def _with_all_rows(backend: Backend, loaded: LoadedInstance) -> LoadedInstance:
    """Also those of earlier rounds, which nobody loads to go on with it, and which never change."""
    base_seq = loaded.record.base_seq
    earlier: list[HistoryRow] = []
    while base_seq > 1 and (page := await backend.history(loaded.record.id, _seq_behind(earlier), _PAGE_ROWS)):
        earlier += [row for row in page if row.first_seq < base_seq]
        if page[-1].first_seq >= base_seq:
            break
    return loaded._replace(rows=[*earlier, *loaded.rows])


def _seq_behind(rows: Sequence[HistoryRow]) -> int:
    return _count(rows) + 1


async def export_lines(
    backend: Backend, chosen: AsyncIterable[Sequence[str]], *, must_exist: bool
) -> AsyncGenerator[str]:
    """All lines of a file, without their line breaks."""
    yield _HEAD.decode().rstrip("\n")
    async for _, lines in exported(backend, chosen, must_exist=must_exist):
        for line in lines:
            yield line.decode().rstrip("\n")


async def export_file(
    backend: Backend, path: Path, chosen: AsyncIterable[Sequence[str]], *, must_exist: bool
) -> ExportReport:
    """Write a file, which is there as a whole and on the disk when this returns, or not at all.

    Raises:
        UsageError: there is one already.
        InstanceNotFound: there is none of an id that must be there; no file is left behind.
    """
    if await asyncio.to_thread(path.exists):
        raise UsageError(f"{path} is there already; export to another file, or remove it first")
    part = path.with_name(f"{path.name}.part")
    instances = events = 0
    try:
        with await asyncio.to_thread(part.open, "wb") as file:
            await asyncio.to_thread(file.write, _HEAD)
            async for loaded, lines in exported(backend, chosen, must_exist=must_exist):
                await asyncio.to_thread(file.writelines, lines)
                instances += len(loaded)
                events += sum(_count(item.rows) for item in loaded)
            await asyncio.to_thread(_sync, file)
        await asyncio.to_thread(os.replace, part, path)
        await asyncio.to_thread(_sync_folder, path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return ExportReport(instances, events)


def _count(rows: Sequence[HistoryRow]) -> int:
    """Events in rows; the last one says how many there are, if it can be read."""
    try:
        return rows[-1].first_seq - 1 + len(ev.load_events(rows[-1].events)) if rows else 0
    except msgspec.DecodeError:
        return rows[-1].first_seq


class ExportFile:
    """A file that grows by whole batches, each on the disk when it has been added; use it in a thread.

    What a crash left of an unfinished batch is cut away when it is opened.

    Raises:
        UsageError: the file is there and is no export.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        try:
            self._cut(path)
            if self._file.tell() == 0:
                self._file.write(_HEAD)
                _sync(self._file)
                _sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise

    def _cut(self, path: Path) -> None:
        """Stand behind the last line that ends an instance, or behind the head."""
        file = self._file
        file.seek(0)
        head = file.read(len(_HEAD))
        if head != _HEAD:
            if not _HEAD.startswith(head):
                raise UsageError(f"{path} is no export of durableflow, so nothing can be added to it")
            file.truncate(0)  # not even the head was whole
            file.seek(0)
            return
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        whole = end if file.read(1) == b"\n" else self._line_break_before(end)
        while whole > len(_HEAD):
            begin = self._line_break_before(whole - 1)
            file.seek(begin)
            if file.read(len(_END)) == _END:
                break
            whole = begin
        if whole < end:
            file.truncate(whole)
        file.seek(whole)

    def _line_break_before(self, position: int) -> int:
        """Where the line begins that `position` is in; `position` itself does not count as its break."""
        file = self._file
        while position > 0:
            begin = max(0, position - _TAIL_BYTES)
            file.seek(begin)
            found = file.read(position - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            position = begin
        return 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Add lines; they are on the disk when this returns."""
        self._file.writelines(lines)
        _sync(self._file)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Have the name of a new file on the disk, where folders can be synchronized."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- in ---------------------------------------------------------------------------------------------------------------


class _Parts:
    """An instance of which the end has not been read yet."""

    def __init__(self, record: InstanceRecord) -> None:
        self.record = record
        self.entries: list[HistoryEvent] = []
        self.messages: list[ev.Observation] = []
        self.beats: list[Heartbeat] = []

    def arrival(self, end: dict[str, Any]) -> Arrival:
        """The whole; raises `CorruptHistory` when it is none."""
        record, instance_id = self.record, self.record.id
        counted = {"end": instance_id, "events": len(self.entries), "messages": len(self.messages)}
        if end != counted:
            raise CorruptHistory(
                f"of instance {instance_id!r} lines are missing or too many: {end}, but found {counted}"
            )
        turns = turns_of(instance_id, self.entries)
        begun = [entry.event for entry in self.entries] or self.messages
        starts = [event for event in begun if isinstance(event, ev.InstanceStarted)]
        if not starts or (self.entries and starts[0] is not begun[0]):
            raise CorruptHistory(f"instance {instance_id!r} does not begin with its start")
        start = starts[-1]  # of the latest round, which may be of another version
        if (start.workflow, start.version) != (record.workflow, record.version):
            raise CorruptHistory(
                f"instance {instance_id!r} is said to be of workflow {record.workflow!r} version {record.version}, but "
                f"was started as {start.workflow!r} version {start.version}"
            )
        is_over = bool(turns) and ev.end_of(turns[-1][2]) is not None
        if is_over is not record.status.is_terminal:
            raise CorruptHistory(
                f"instance {instance_id!r} is said to be {record.status}, but its history "
                + ("has an end" if is_over else "has none")
            )
        rows = [HistoryRow(instance_id, first_seq, at_us, ev.dump_events(events)) for first_seq, at_us, events in turns]
        return Arrival(record, rows, [outgoing(instance_id, event) for event in self.messages], self.beats)


def arrivals_in(lines: Iterable[bytes], file: str) -> Generator[Arrival]:
    """The instances of a file.

    Raises:
        CorruptHistory: it is no such file, or this version does not know all that is in it; nothing is skipped.
    """
    parts: _Parts | None = None
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
            if number == 1 or "durableflow_export" in fields:
                _check_head(fields)
            elif "instance" in fields and parts is None:
                parts = _Parts(fields_in(InstanceRecord, fields["instance"]))
            elif parts is None:
                raise CorruptHistory("here an instance must begin")
            elif "end" in fields and "seq" not in fields:
                yield parts.arrival(fields)
                parts = None
            else:
                _add(parts, fields)
        except CorruptHistory as error:
            raise CorruptHistory(f"{file}, line {number}: {error}") from error
        except UNREADABLE as error:
            raise CorruptHistory(f"{file}, line {number}: this is no line of an export: {error!r}") from error
    if number == 0:
        raise CorruptHistory(f"{file} is empty")
    if parts is not None:
        raise CorruptHistory(f"{file} ends in the middle of instance {parts.record.id!r}: it was cut off")


def _check_head(fields: dict[str, Any]) -> None:
    if fields.get("durableflow_export") != FILE_FORMAT:
        raise CorruptHistory(f"this is not the beginning of an export of format {FILE_FORMAT}")


def _add(parts: _Parts, fields: dict[str, Any]) -> None:
    if "seq" in fields:
        parts.entries.append(entry_of(fields))
    elif "unreadable" in fields:
        raise CorruptHistory(
            f"this {fields['unreadable']} of {parts.record.id!r} could not be read when it was exported"
        )
    elif "message" in fields:
        parts.messages.append(fields_in(KINDS[fields["message"]], fields["event"]))
    elif "heartbeat" in fields:
        beat: _Beat = fields_in(_Beat, fields["heartbeat"])
        parts.beats.append(Heartbeat(parts.record.id, beat.task, beat.attempt, beat.details))
    else:
        raise ValueError("nothing in it says what it is")


async def import_file(backend: Backend, path: Path, *, active: bool) -> ImportReport:
    """Bring in all instances of a file; all is checked before anything is written.

    Raises:
        CorruptHistory: the file is no export, or not whole; nothing was written.
        UsageError: some are not over, and `active` does not allow that; nothing was written.
        InstanceExists: an id is taken by another instance; those before it are in the store.
    """
    await asyncio.to_thread(_check_file, path, active=active)
    imported = skipped = 0
    with await asyncio.to_thread(path.open, "rb") as file:
        arriving = arrivals_in(file, str(path))
        while batch := await asyncio.to_thread(lambda: [_awake(each) for each in islice(arriving, BATCH)]):
            taken = await backend.take_in(batch)
            imported += len(batch) - len(taken)
            skipped += len(taken)
            if taken:
                _check_same([arrival for arrival in batch if arrival.record.id in taken], await backend.load([*taken]))
    return ImportReport(imported, skipped)


def _check_file(path: Path, *, active: bool) -> None:
    with path.open("rb") as file:
        for arrival in arrivals_in(file, str(path)):
            record = arrival.record
            if not (active or record.status.is_terminal):
                raise UsageError(
                    f"instance {record.id!r} in {path} is {record.status}: it would go on here as well, and its "
                    "activities would run twice; import it with active=True when the store that it is from no longer "
                    "works on it"
                )


def _awake(arrival: Arrival) -> Arrival:
    """With a message that makes an engine which is at work on the store look at an instance that is to go on."""
    if arrival.record.wake_us is None or arrival.record.status.is_terminal:
        return arrival
    return arrival._replace(messages=[*arrival.messages, outgoing(arrival.record.id, _NOTHING)])


def _check_same(arrivals: Sequence[Arrival], there: Sequence[LoadedInstance]) -> None:
    """Instances that are there are those of the file: they have lived, perhaps, but not otherwise."""
    known = {item.record.id: item for item in there}
    for arrival in arrivals:
        record, item = arrival.record, known.get(arrival.record.id)
        since = item.record.base_seq if item is not None else 1
        ours = [(row.first_seq, row.at_us) for row in arrival.rows if row.first_seq >= since]
        if item is not None and (
            (item.record.workflow, item.record.created_us) != (record.workflow, record.created_us)
            or [(row.first_seq, row.at_us) for row in item.rows[: len(ours)]] != ours
        ):
            raise InstanceExists(
                record.id,
                f"instance {record.id!r} exists in this store, and is another one than that of the file; "
                "purge it first, or leave it out of the export",
            )

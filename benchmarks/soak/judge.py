"""The judge of a store from which the past is removed: each instance is judged between its end and its removal.

An instance is judged some time after its end, together with its children, so that what a frozen worker might still
write or run has come by then. What comes later is a violation by itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import check_tables
import msgspec
from fleetkit.processes import Fleet

from benchmarks.soak.asker import SCHEDULE, TICK_S  # with the workflows, which replay must know
from benchmarks.soak.record import Terms
from durableflow import Client, Status, StorageError, slot_of

_PAGE: Final = 300
_ENDED: Final = """
    select id from instances
    where finished_us < extract(epoch from clock_timestamp() - $1 * interval '1 second') * 1000000 and parent is null
    order by finished_us
"""
_OLDEST: Final = """
    select coalesce(max(extract(epoch from clock_timestamp())::float8 - created_us / 1e6), 0)::float8 from instances
    where parent is null and not exists (select from unnest($1::text[]) as known where known = id)
"""
_EMPTIED: Final = ("instances", "history", "inbox", "tasks", "heartbeats", "dead_letters", "windows")
_MARGIN_S: Final = 1.0
"""For what passes between two looks at a clock."""
_BOOKED: Final = (
    "select instance, array_agg(number order by number) from public.booked where instance = any($1) group by 1"
)


class Tail:
    """Lines of JSON as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> list[dict[str, Any]]:
        """Those that were not there at the call before, as far as they are whole."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        return [msgspec.json.decode(line) for line in whole.splitlines()]


class Judge:
    """Judges what is over, and remembers it until it has been removed.

    Attributes:
        violations: all that was found.
        judged: how many instances.
        acknowledged: how many starts were acknowledged.
        judged_acknowledged: how many of those were judged.
    """

    def __init__(self, fleet: Fleet, client: Client, terms: Terms, acks: Path) -> None:
        self._fleet = fleet
        self._client = client
        self._terms = terms
        self._acks_file, self._ledger_file = Tail(acks), Tail(fleet.ledger)
        self._acks: dict[str, list[check_tables.Ack]] = defaultdict(list)
        self._ledger: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._known: set[str] = set()
        """Judged, and not yet removed."""
        self._is_count_unknown = False
        self._slots: list[float] = []
        self.violations: list[str] = []
        self.judged = self.acknowledged = self.judged_acknowledged = self.removed = 0

    # -- now and then -------------------------------------------------------------------------------------------------

    async def look(self, *, over_for_s: float) -> None:
        """Judge all that has been over for so long, if its client has been told so: then no more is to come of it."""
        self._read_files()
        over = [each for (each,) in await self._fleet.sql(_ENDED, over_for_s)]
        ended = [each for each in over if each not in self._known and self._is_told(each)]
        for begin in range(0, len(ended), _PAGE):
            await self._judge(ended[begin : begin + _PAGE])

    def _is_told(self, instance: str) -> bool:
        """Whether its end was acknowledged; what the schedule has started nobody waits for."""
        ends = [ack for ack in self._acks.get(instance, ()) if ack.what in ("result", "status")]
        return bool(ends) or instance.startswith(f"{SCHEDULE}/")

    async def remove(self) -> None:
        """Have retention remove what is old; it must have been judged, and be gone.

        Who judges late removes late. Children are judged with their parent, and end after it was made.
        """
        oldest_s = await self._fleet.value(_OLDEST, list(self._known))
        older_than = max(self._terms.retention_s, oldest_s + _MARGIN_S)
        try:
            removed = await self._client.purge_finished(older_than=older_than)
        except StorageError:
            self._is_count_unknown = True
            raise
        rows = await self._fleet.sql("select id from instances where id = any($1)", list(self._known))
        gone = self._known - {each for (each,) in rows}
        if removed != len(gone) and not self._is_count_unknown:
            self.violations.append(f"{removed} instances were removed; of those that were judged {len(gone)} are gone")
        await self._fleet.sql("delete from public.booked where instance = any($1)", list(gone))
        self._is_count_unknown = False
        self._known -= gone
        self.removed += len(gone)

    def _read_files(self) -> None:
        for entry in self._acks_file.new():
            ack = check_tables.Ack(*(*entry["ack"], "")[:3], entry["value"])
            self._acks[ack.instance].append(ack)
            self.acknowledged += ack.what == "start"
        for entry in self._ledger_file.new():
            instance = entry["key"].rpartition("/")[0]
            if instance in self._known:
                self.violations.append(f"{instance} was over and judged when it ran {entry}")
            self._ledger[instance].append(entry)

    async def _judge(self, ids: Sequence[str]) -> None:
        tables = await check_tables.read(self._fleet.url, ids=ids)
        tables = tables._replace(workers={})  # who lives is another question, for when all is quiet
        acks = [ack for each in tables.instances for ack in self._acks.get(each, ())]
        ledger = [entry for each in tables.instances for entry in self._ledger.get(each, ())]
        found = [
            *await asyncio.to_thread(
                check_tables.violations, tables, [ack for ack in acks if ack.what != "status"], ledger, replayed=True
            ),
            *_statuses(acks, tables),
            *await self._bookings(tables),
        ]
        self.violations += found
        for instance in tables.instances:
            self._note_judged(instance)
        self.judged += len(tables.instances)
        self.judged_acknowledged += sum(ack.what == "start" for ack in acks)

    def _note_judged(self, instance: str) -> None:
        self._acks.pop(instance, None)
        self._ledger.pop(instance, None)
        self._known.add(instance)
        if instance.startswith(f"{SCHEDULE}/"):
            slot = slot_of(instance)
            assert slot is not None, f"{instance} was started by no schedule"
            self._slots.append(slot.timestamp())

    async def _bookings(self, tables: check_tables.Tables) -> list[str]:
        """A transactional activity has written once."""
        ids = [each for each, row in tables.instances.items() if "-booking-" in each and row.status == "COMPLETED"]
        booked = dict(await self._fleet.sql(_BOOKED, ids))
        numbers = {each: int(each.rpartition("-")[2]) for each in ids}
        return [
            f"{each} has booked {booked.get(each)}"
            for each, number in numbers.items()
            if booked.get(each) != [number, number + 1]
        ]

    # -- at the end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """When all is over: nothing was left out, nothing is owned by the dead, and retention can empty the store."""
        await self.look(over_for_s=0.0)
        tables = await check_tables.read(self._fleet.url)
        acks = [ack for acks in self._acks.values() for ack in acks]
        self.violations += check_tables.violations(_without(tables, self._known), acks)
        unasked = [entry for entries in self._ledger.values() for entry in entries]
        self.violations += [f"{entry['key']} ran, and belongs to nothing that came to an end" for entry in unasked]
        self.violations += self._missed_slots()
        self.removed += await self._client.purge_finished(older_than=0)
        left = {table: await self._fleet.value(f"select count(*) from {table}") for table in _EMPTIED}
        self.violations += [
            f"{count} rows of {table} are left when all is removed" for table, count in left.items() if count
        ]

    def _missed_slots(self) -> list[str]:
        """Of a schedule, each moment from the first to the last has its one instance."""
        slots = sorted(self._slots)
        gaps = [after - before for before, after in pairwise(slots)]
        return [f"{SCHEDULE} has {gap:g} s between two slots" for gap in gaps if abs(gap - TICK_S) > 1e-3]

    def totals(self) -> dict[str, float]:
        return {
            "judged": self.judged,
            "acknowledged": self.acknowledged,
            "judged_acknowledged": self.judged_acknowledged,
            "removed": self.removed,
            "slots": len(self._slots),
        }


def _without(tables: check_tables.Tables, judged: Container[str]) -> check_tables.Tables:
    """What was judged is not judged again: of a family, retention may have removed a part since."""
    return tables._replace(
        instances={each: row for each, row in tables.instances.items() if each not in judged},
        history={each: rows for each, rows in tables.history.items() if each not in judged},
    )


def _statuses(acks: Sequence[check_tables.Ack], tables: check_tables.Tables) -> Iterator[str]:
    """An end that is no result is the one that was told."""
    for ack in acks:
        status = tables.instances[ack.instance].status
        if ack.what == "status" and ack.value != status:
            yield f"{ack.instance} was said to be {ack.value}, and is {status}"
        if ack.what == "result" and status != Status.COMPLETED.value:
            yield f"{ack.instance} had a result, and is {status}"

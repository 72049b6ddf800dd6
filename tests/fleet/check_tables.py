"""What must be so in the tables of a fleet's store when all is quiet, whatever has befallen its workers.

    python tests/fleet/check_tables.py URL [--schema NAME] [--acks FILE] [--ledger FILE] [--flows FILE.py]

It says what is not so, a line each, and ends with 1 then. With the acknowledgements that clients were given, it looks
for what they were promised; with the ledger of the activities, for what ran and should not have; with the code, it
replays every history.
"""

import argparse
import asyncio
import importlib.util
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from durableflow.core.rewriting import child_id_of
from durableflow.core.view import HistoryEvent, numbered
from durableflow.errors import DurableflowError
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing import History, replay
from durableflow.testing.histories import Row as Turn

ENDED_AS: Final = {
    ev.InstanceCompleted: "COMPLETED",
    ev.InstanceFailed: "FAILED",
    ev.InstanceTimedOut: "FAILED",
    ev.InstanceTerminated: "TERMINATED",
    ev.InstanceCancelled: "CANCELLED",
}
ASKED: Final = (ev.ActivityScheduled, ev.ChildScheduled, ev.TimerCreated, ev.EventAwaited, ev.MessageSent)
ANSWERED: Final = (
    ev.ActivityCompleted, ev.ActivityFailed, ev.ChildCompleted, ev.ChildFailed, ev.TimerFired, ev.MessageAnswered,
)  # fmt: skip
_WORKERS: Final = "select id, expires > clock_timestamp() - interval '3 seconds' from workers"
"""Whoever has just died may not have been buried yet."""
OF_AN_ATTEMPT: Final = (ev.ActivityCompleted, ev.ActivityFailed, ev.AttemptFailed, ev.ActivityHandedOver)


class Instance(NamedTuple):
    """A row of `instances`."""

    status: str
    is_over: bool
    owner: int | None
    parent: str | None


class Row(NamedTuple):
    """A row of `history`; its events, or why they cannot be read."""

    first_seq: int
    at_us: int
    events: list[ev.Event]
    unreadable: str = ""


class Tables(NamedTuple):
    """What the tables held at one moment.

    Attributes:
        workers: each with whether its lease lasts, or did so until just now.
        inbox: of each message the instance, and the event if it is one.
        others: of the tables with rows that belong to an instance, whose they are.
    """

    workers: Mapping[int, bool]
    instances: Mapping[str, Instance]
    history: Mapping[str, Sequence[Row]]
    inbox: Sequence[tuple[str, ev.Event | None]] = ()
    others: Mapping[str, Sequence[str]] = {}


class Ack(NamedTuple):
    """Somebody was told that this is durable: a `"start"`, an `"event"` with its id, or a `"result"`."""

    what: str
    instance: str
    event_id: str
    value: Any


Histories = Mapping[str, Sequence[HistoryEvent]]


# -- the judge --------------------------------------------------------------------------------------------------------


def violations(
    tables: Tables,
    acks: Sequence[Ack] = (),
    ledger: Sequence[Mapping[str, Any]] | None = None,
    *,
    replayed: bool = False,
) -> list[str]:
    """All that is not as it must be."""
    histories = {each: numbered([row[:3] for row in rows]) for each, rows in tables.history.items()}
    found = [*_rows(tables), *_owners(tables), *_left_over(tables), *_ends(tables, histories)]
    for instance, history in histories.items():
        found += _answers(instance, history)
    found += _children(tables, histories)
    found += _acknowledged(acks, tables, histories)
    if ledger is not None:
        found += _attempts(ledger, histories)
    if replayed and not found:  # else what is wrong has been told already
        found += _replays(tables)
    return found


def _rows(tables: Tables) -> Iterator[str]:
    """Histories are readable and dense, their time goes forwards, and each belongs to an instance."""
    for instance, rows in tables.history.items():
        if instance not in tables.instances:
            yield f"{instance} has a history, but is not in the table of instances"
        next_seq, at_us = 1, 0
        for row in rows:
            if row.unreadable:
                yield f"{instance} #{row.first_seq} cannot be read: {row.unreadable}"
                break
            if row.first_seq != next_seq:
                yield f"{instance} has a row that begins with #{row.first_seq} where #{next_seq} must follow"
            if not row.events:
                yield f"{instance} #{row.first_seq} is an empty row"
            if row.at_us < at_us:
                yield f"{instance} #{row.first_seq} is {at_us - row.at_us} us before the row that it follows"
            next_seq, at_us = row.first_seq + len(row.events), row.at_us
            if isinstance(row.events[0] if row.events else None, ev.InstanceRewound):
                at_us = 0  # the rows that count once more keep their time
    for instance, row in tables.instances.items():
        if (row.is_over or row.status not in ("PENDING", "STALLED")) and not tables.history.get(instance):
            yield f"{instance} is {row.status} and has no history"


def _owners(tables: Tables) -> Iterator[str]:
    """What is not over belongs to a worker that lives; if none does, to nobody who does."""
    lives_one = any(tables.workers.values())
    for worker, lives in tables.workers.items():
        if lives_one and not lives:
            yield f"worker {worker} is dead and not buried"
    for instance, row in tables.instances.items():
        if not row.is_over and lives_one and not tables.workers.get(row.owner or 0, False):
            yield f"{instance} is {row.status} and is owned by {_worker(row.owner)}, though others live"


def _worker(owner: int | None) -> str:
    return "nobody" if owner is None else f"worker {owner}, which is dead"


def _left_over(tables: Tables) -> Iterator[str]:
    """Nothing is kept for an instance that is over, or is not there."""
    kept = {"inbox": [instance for instance, _ in tables.inbox], **tables.others}
    for table, instances in kept.items():
        for instance, count in Counter(instances).items():
            row = tables.instances.get(instance)
            if row is None or row.is_over:
                yield f"{instance} is {'missing' if row is None else row.status} and has {count} rows in {table}"


def _ends(tables: Tables, histories: Histories) -> Iterator[str]:
    """An instance begins with its start and ends once, in its last row, as its own row says."""
    for instance, rows in tables.history.items():
        history = histories[instance]
        if history and not isinstance(history[0].event, ev.InstanceStarted):
            yield f"{instance} begins with {history[0]}"
        for place, row in enumerate(rows):
            end = next((event for event in row.events if type(event) in ev.ENDS), None)
            if end is None:
                continue
            behind = row.events[row.events.index(end) + 1 :]
            later = next((event for each in rows[place + 1 :] for event in each.events), None)
            if not _may_follow(end, behind) or not (later is None or isinstance(later, ev.InstanceRewound)):
                yield f"{instance} #{row.first_seq} goes on after its end {end}: {[*behind, later]}"
        row_says = tables.instances.get(instance)
        last = ev.end_of(rows[-1].events) if rows else None
        ended_as = ENDED_AS.get(type(last)) if last is not None else None
        if row_says is not None and row_says.is_over and ended_as != row_says.status:
            yield f"{instance} is {row_says.status}, but its history says {ended_as or 'that it is not over'}"
        if row_says is not None and not row_says.is_over and ended_as is not None:
            yield f"{instance} is {row_says.status}, but its history says {ended_as}"


def _may_follow(end: ev.Event, behind: Sequence[ev.Event]) -> bool:
    """Behind an end that came in from outside stand, in its row, decisions that others which came in have caused."""
    decided = [type(event) in ev.DECISIONS - ev.ENDS for event in behind]
    return all(decided) and (not decided or type(end) not in ev.DECISIONS)


def _answers(instance: str, history: Sequence[HistoryEvent]) -> Iterator[str]:
    """What was asked for is answered at most once, and nothing else is; attempts follow one another."""
    asked: set[int] = set()
    answered: set[int] = set()
    attempts: dict[int, int] = {}
    for entry in history:
        event = entry.event
        match event:
            case ev.InstanceStarted():  # a round of its own, which counts on
                asked.clear()
                answered.clear()
                attempts.clear()
            case ev.ActivityRetried(task=task):
                answered.discard(task)
            case ev.ActivityStarted(task=task, attempt=attempt):
                if attempt <= attempts.get(task, 0):
                    yield f"{instance} {entry}: attempt {attempts[task]} had begun before"
                attempts[task] = attempt
            case ev.ActivityQueued(task=task):
                attempts[task] = 0
            case _:
                pass
        if isinstance(event, ASKED):
            asked.add(event.task)
            if isinstance(event, ev.ActivityScheduled):
                attempts[event.task] = 1
        if isinstance(event, OF_AN_ATTEMPT) and event.attempt < attempts.get(event.task, 0):
            yield f"{instance} {entry}: attempt {attempts[event.task]} had begun"
        if isinstance(event, ANSWERED):
            if event.task not in asked:
                yield f"{instance} {entry}: nobody had asked for task {event.task}"
            if event.task in answered:
                yield f"{instance} {entry}: task {event.task} had its result already"
            answered.add(event.task)


def _children(tables: Tables, histories: Histories) -> Iterator[str]:
    """A child has ended as its parent was told, and has a parent."""
    for instance, history in histories.items():
        ids: dict[int, str] = {}
        for entry in history:
            match entry.event:
                case ev.ChildScheduled(task=task) as call:
                    ids[task] = child_id_of(instance, call)
                case ev.ChildCompleted(task=task, output=output) if task in ids:
                    last = [each.event for each in histories.get(ids[task], ())][-1:]
                    if last != [ev.InstanceCompleted(output)]:
                        yield f"{instance} {entry}: its child {ids[task]} ends with {last}"
                case _:
                    pass
    for instance, row in tables.instances.items():
        if row.parent is not None and row.parent not in tables.instances:
            yield f"{instance} is the child of {row.parent}, which is missing"


# -- what clients were told, and what ran -----------------------------------------------------------------------------


def _acknowledged(acks: Sequence[Ack], tables: Tables, histories: Histories) -> Iterator[str]:
    """What was acknowledged is there, once and in order."""
    waiting = [(instance, event.event_id) for instance, event in tables.inbox if isinstance(event, ev.EventReceived)]
    places: dict[tuple[str, str], int] = defaultdict(int)
    for ack in acks:
        what = f"acknowledged {ack.what} of {ack.instance}"
        history = histories.get(ack.instance, ())
        match ack.what:
            case "start":
                if ack.instance not in tables.instances:
                    yield f"{what} is lost"
                elif history and _input(history[0].event) != [ack.value]:
                    yield f"{what} was of {ack.value!r}, recorded is {history[0]}"
            case "event":
                found = [
                    (entry.seq, entry.event.name.casefold(), entry.event.payload)
                    for entry in history
                    if isinstance(entry.event, ev.EventReceived) and entry.event.event_id == ack.event_id
                ]
                if len(found) + waiting.count((ack.instance, ack.event_id)) != 1:
                    kept = waiting.count((ack.instance, ack.event_id))
                    yield f"{what}, {ack.event_id}, is there {len(found)} times, and {kept} times in the inbox"
                for seq, name, payload in found:
                    if msgspec.json.decode(payload) != ack.value:
                        yield f"{what}, {ack.event_id}, was {ack.value!r}, recorded is {payload!r}"
                    if seq < places[ack.instance, name]:
                        yield f"{what}, {ack.event_id}, has overtaken one that was acknowledged before it"
                    places[ack.instance, name] = seq
            case _:
                end = history[-1].event if history else None
                if not isinstance(end, ev.InstanceCompleted) or msgspec.json.decode(end.output) != ack.value:
                    yield f"{what} was {ack.value!r}, recorded is {end}"


def _input(event: ev.Event) -> Any:
    return msgspec.json.decode(event.input) if isinstance(event, ev.InstanceStarted) else None


class Calls(NamedTuple):
    """What histories say of activities, by key: calls, attempts that may have begun, and of which the result is.

    Of those in `queued_elsewhere` the store counts the attempts, not the history.
    """

    asked: dict[str, ev.ActivityScheduled]
    allowed: set[tuple[str, int]]
    completed: dict[str, int]
    queued_elsewhere: set[str]


def _calls(histories: Histories) -> Calls:
    calls = asked, allowed, completed, queued_elsewhere = Calls({}, set(), {}, set())
    for instance, history in histories.items():
        queued = {entry.event.task for entry in history if isinstance(entry.event, ev.ActivityQueued)}
        for entry in history:
            match entry.event:
                case ev.ActivityScheduled(task=task, options=options) as scheduled:
                    asked[f"{instance}/{task}"] = scheduled
                    if options is not None and options.queue:
                        queued_elsewhere.add(f"{instance}/{task}")
                    elif task not in queued:
                        allowed.add((f"{instance}/{task}", 1))
                case ev.ActivityStarted(task=task, attempt=attempt):
                    allowed.add((f"{instance}/{task}", attempt))
                case ev.ActivityCompleted(task=task, attempt=attempt):
                    completed[f"{instance}/{task}"] = attempt
                case _:
                    pass
    return calls


def _attempts(ledger: Sequence[Mapping[str, Any]], histories: Histories) -> Iterator[str]:
    """Nothing ran that no history asks for, no attempt ran twice, nothing ran after its result was recorded."""
    asked, allowed, completed, queued_elsewhere = _calls(histories)
    begun = Counter((entry["key"], entry["attempt"]) for entry in ledger if entry["what"] == "begin")
    ended = {(entry["key"], entry["attempt"]) for entry in ledger if entry["what"] == "end"}
    for entry in ledger:
        call = asked.get(entry["key"])
        if call is None or [entry["activity"], entry["args"]] != [call.name, msgspec.json.decode(call.input)]:
            yield f"{entry['key']} ran as {entry['activity']}{tuple(entry['args'])}, asked for was {call}"
    for (key, attempt), count in begun.items():
        if (key, attempt) not in allowed and key not in queued_elsewhere:
            yield f"{key} attempt {attempt} ran, though no history records its beginning"
        if count > 1:
            yield f"{key} attempt {attempt} ran {count} times"
        if attempt > completed.get(key, attempt):
            yield f"{key} attempt {attempt} ran, though the result of attempt {completed[key]} is recorded"
    for key, attempt in completed.items():
        if (key, attempt) not in ended:
            yield f"{key} has a result of attempt {attempt}, which never ended"


def _replays(tables: Tables) -> Iterator[str]:
    """Today's code follows each history to where its row says that it stands."""
    for instance, rows in tables.history.items():
        status = tables.instances[instance].status
        try:
            report = replay(None, History(instance, [Turn(*row[:3]) for row in rows]))
        except DurableflowError as error:
            yield f"{instance} cannot be replayed: {error}"
        else:
            if status not in (report.status.value, Status.STALLED.value):
                yield f"{instance} is {status}, but replay says {report.status.value}"


# -- reading ----------------------------------------------------------------------------------------------------------


async def read(url: str, schema: str = "durableflow", *, ids: Sequence[str] | None = None) -> Tables:
    """All tables, as they are at one moment; with `ids`, what they hold of these instances and of their children."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f'set local search_path to "{schema}"')
            workers = await connection.fetch(_WORKERS)
            instances = await connection.fetch(
                "select id, status, finished_us is not null, owner, parent, number from instances "
                "where $1::text[] is null or id = any($1) or parent = any($1)",
                ids,
            )
            chosen = None if ids is None else [row["id"] for row in instances]
            rows = await connection.fetch(
                "select coalesce(i.id, 'number ' || h.instance_number), h.first_seq, h.at_us, h.events "
                "from history h left join instances i on i.number = h.instance_number "
                "where $1::bigint[] is null or h.instance_number = any($1) order by 1, 2",
                None if ids is None else [row["number"] for row in instances],
            )
            of_chosen = "where $1::text[] is null or instance = any($1)"
            inbox = await connection.fetch(f"select instance, data from inbox {of_chosen} order by number", chosen)
            others = {}
            for table in ("heartbeats", "windows", "tasks"):
                if await connection.fetchval("select to_regclass($1)", table):
                    hanging = await connection.fetch(f"select instance from {table} {of_chosen}", chosen)
                    others[table] = [each for (each,) in hanging]
    finally:
        await connection.close()
    history = defaultdict[str, list[Row]](list)
    for instance, first_seq, at_us, data in map(tuple, rows):
        history[instance].append(_decoded(first_seq, at_us, data))
    return Tables(
        dict(map(tuple, workers)),
        {row[0]: Instance(*tuple(row)[1:5]) for row in instances},
        history,
        [(instance, _event(data)) for instance, data in map(tuple, inbox)],
        others,
    )


def _decoded(first_seq: int, at_us: int, data: bytes) -> Row:
    try:
        return Row(first_seq, at_us, ev.load_events(data))
    except msgspec.DecodeError as error:
        return Row(first_seq, at_us, [], str(error))


def _event(data: bytes) -> ev.Event | None:
    try:
        return ev.load_event(data)
    except msgspec.DecodeError:
        return None


def read_acks(*files: Path) -> list[Ack]:
    """What those who asked have written down."""
    entries = [json.loads(line) for file in files if file.exists() for line in file.read_bytes().splitlines()]
    return [Ack(*(*entry["ack"], "")[:3], entry["value"]) for entry in entries if "ack" in entry]


def read_ledger(file: Path) -> list[dict[str, Any]]:
    """What the activities have written down."""
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def main(arguments: argparse.Namespace) -> int:
    """Look, and say what is wrong."""
    if arguments.flows:
        spec = importlib.util.spec_from_file_location("flows", arguments.flows)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    tables = asyncio.run(read(arguments.url, arguments.schema))
    ledger = read_ledger(arguments.ledger) if arguments.ledger else None
    acks = read_acks(*arguments.acks)
    found = violations(tables, acks, ledger, replayed=bool(arguments.flows))
    for line in found:
        print(line)
    statuses = Counter(row.status for row in tables.instances.values())
    print(
        f"{dict(statuses)}, {len(acks)} acknowledgements, {len(ledger or ())} lines of the ledger; {len(found)} wrong"
    )
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--schema", default="durableflow")
    parser.add_argument("--acks", type=Path, action="append", default=[])
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--flows", type=Path)
    sys.exit(main(parser.parse_args()))

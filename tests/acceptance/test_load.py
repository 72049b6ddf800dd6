"""A thousand instances of many kinds, and workers that are killed again and again while they run."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durableflow import Client, Status
from durableflow.core.view import HistoryEvent
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # starts, kills and starts processes

COUNT = 1_000
KINDS = ["sequence", "fan_out", "timers", "events", "retries"]
Acks = dict[tuple[Any, ...], Any]
Histories = dict[str, list[HistoryEvent]]


def expected(number: int) -> object:
    match KINDS[number % len(KINDS)]:
        case "sequence":
            return number + 10
        case "fan_out":
            return sum((number + i) ** 2 for i in range(8)) + 1
        case "timers":
            return [number + 2, 0]
        case "events":
            return [number, number * 10 + 1, number * 10 + 2, number * 10 + 2]
        case _:
            return number


def load_acks(path: Path) -> Acks:
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    return {tuple(entry["ack"]): entry["value"] for entry in entries}


async def load_histories(client: Client) -> tuple[Histories, dict[str, Status]]:
    histories: Histories = {}
    statuses: dict[str, Status] = {}
    cursor = None
    while True:
        page = await client.list(limit=1_000, cursor=cursor)
        for each in page.instances:
            statuses[each.instance_id] = each.status
            histories[each.instance_id] = await client.history(each.instance_id)
        cursor = page.cursor
        if cursor is None:
            return histories, statuses


def check_shape(histories: Histories) -> None:
    """Numbers without gaps, one end, one result for each activity."""
    for instance, history in histories.items():
        assert [entry.seq for entry in history] == list(range(1, len(history) + 1)), instance
        assert [type(entry.event) in ev.ENDS for entry in history] == [False] * (len(history) - 1) + [True], instance
        asked = Counter(entry.event.task for entry in history if isinstance(entry.event, ev.ActivityScheduled))
        got = Counter(entry.event.task for entry in history if isinstance(entry.event, ev.ActivityCompleted))
        assert got == asked, instance


def check_acks(acks: Acks, histories: Histories) -> None:
    """What was acknowledged is there: starts, events in order and once, results."""
    for ack, value in acks.items():
        history = histories[ack[1]]
        match ack:
            case ("start", _):
                assert isinstance(history[0].event, ev.InstanceStarted)
            case ("event", instance, turn):
                payloads = [entry.event.payload for entry in history if isinstance(entry.event, ev.EventReceived)]
                assert payloads[turn - 1] == msgspec.json.encode(value), instance
                assert len(payloads) == 2, f"{instance}: an event was delivered twice"
            case ("result", instance):
                end = history[-1].event
                assert isinstance(end, ev.InstanceCompleted)
                assert msgspec.json.decode(end.output) == value == expected(int(instance.rpartition("-")[2]))


def check_ledger(entries: Sequence[dict[str, Any]], histories: Histories) -> None:
    """Nothing ran that no history asks for, no attempt ran twice, nothing ran after its result."""
    asked: dict[str, ev.ActivityScheduled] = {}
    allowed: set[tuple[str, int]] = set()
    completed: dict[str, int] = {}
    for instance, history in histories.items():
        queued = {entry.event.task for entry in history if isinstance(entry.event, ev.ActivityQueued)}
        for entry in history:
            match entry.event:
                case ev.ActivityScheduled(task=task) as scheduled:
                    asked[f"{instance}/{task}"] = scheduled
                    if task not in queued:
                        allowed.add((f"{instance}/{task}", 1))
                case ev.ActivityStarted(task=task, attempt=attempt):
                    allowed.add((f"{instance}/{task}", attempt))
                case ev.ActivityCompleted(task=task, attempt=attempt):
                    completed[f"{instance}/{task}"] = attempt
                case _:
                    pass
    begun = Counter((entry["key"], entry["attempt"]) for entry in entries if entry["what"] == "begin")
    for entry in entries:
        scheduled = asked[entry["key"]]
        assert (entry["activity"], entry["args"]) == (scheduled.name, msgspec.json.decode(scheduled.input)), entry
    assert set(begun) <= allowed, "an attempt ran whose beginning no history records"
    assert set(begun.values()) == {1}, "an attempt ran twice"
    late = [(key, attempt) for key, attempt in begun if attempt > completed[key]]
    assert late == [], "an activity ran again after its result was recorded"
    ended = {(entry["key"], entry["attempt"]) for entry in entries if entry["what"] == "end"}
    assert set(completed.items()) <= ended, "a result was recorded of an attempt that never ended"


async def check_all(stage: Any) -> None:
    async with stage.client() as looker:
        histories, statuses = await load_histories(looker)
    assert Counter(statuses.values()) == {Status.COMPLETED: COUNT}
    acks = load_acks(stage.folder / "acks.jsonl")
    told = Counter(ack[0] for ack in acks)
    assert told["result"] == COUNT
    assert told["start"] > COUNT * 0.9, "too few acknowledgements to prove anything"
    check_shape(histories)
    check_acks(acks, histories)
    check_ledger(stage.entries(), histories)
    failures = [
        entry.event.failure
        for history in histories.values()
        for entry in history
        if isinstance(entry.event, ev.AttemptFailed)
    ]
    assert any(failure.type_name == "WorkerLost" for failure in failures), "no kill met a running attempt"
    replayed = stage.run("replay", stage.store, "load")
    assert await replayed.ends() == 0, replayed.said
    assert replayed.said == [str(COUNT)]


async def test_workers_may_be_killed_at_any_moment_while_a_client_asks(stage: Any) -> None:
    dice = random.Random(1)
    asked = (stage.store, stage.folder / "acks.jsonl", COUNT, 1)
    worker = await stage.leading_worker("load", slow_disk=True)
    client = stage.run("load", *asked)
    kills = 0
    while client.popen.poll() is None and kills < 8:
        await asyncio.sleep(dice.uniform(0.1, 0.7))
        worker.kill()
        kills += 1
        worker = await stage.leading_worker("load", slow_disk=True)
        if kills == 4:  # the client, too, cannot know what became of what it was asking
            client.kill()
            client = stage.run("load", *asked)
    assert await client.ends(timeout_s=60) == 0, client.said
    await worker.close()
    assert kills >= 5, "the load was over before it was disturbed"
    await check_all(stage)


async def test_an_application_with_an_engine_of_its_own_may_be_killed_at_any_moment(stage: Any) -> None:
    dice = random.Random(2)
    asked = (stage.store, stage.folder / "acks.jsonl", COUNT, 2, stage.ledger)
    kills = 0
    while kills < 8:
        application = stage.run("load", *asked)
        await asyncio.sleep(dice.uniform(0.25, 0.7))
        if application.popen.poll() is not None:
            break
        application.kill()
        kills += 1
    assert await stage.run("load", *asked).ends(timeout_s=60) == 0
    assert kills >= 3, "the load was over before it was disturbed"
    await check_all(stage)

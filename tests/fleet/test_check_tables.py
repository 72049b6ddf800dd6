"""The judge of the tables finds whatever is planted there, and finds nothing else."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from check_tables import Ack, Instance, Row, Tables, read, violations
from fleetkit.processes import Fleet

from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.failure import Failure

from flows import sequence  # isort: skip

FAILURE = Failure("ConnectionError", "not yet")


def scheduled(task: int, name: str, *args: object) -> ev.ActivityScheduled:
    data = msgspec.json.encode(args)
    return ev.ActivityScheduled(task, name, data, converter.digest(data))


@dataclass
class Scene:
    """A store in order: a parent that is over, its child, and one that waits; planting spoils it."""

    workers: dict[int, bool] = field(default_factory=lambda: {1: True, 2: True})
    instances: dict[str, Instance] = field(
        default_factory=lambda: {
            "p": Instance("COMPLETED", is_over=True, owner=9, parent=None),
            "p/1": Instance("COMPLETED", is_over=True, owner=2, parent="p"),
            "w": Instance("RUNNING", is_over=False, owner=1, parent=None),
        }
    )
    history: dict[str, list[Row]] = field(
        default_factory=lambda: {
            "p": [
                Row(
                    1,
                    10,
                    [ev.InstanceStarted("children", 1, b"[7]"), ev.ChildScheduled(1, "part", 1, b"[7]", b"", "p/1")],
                ),
                Row(3, 20, [ev.ChildCompleted(1, b"8"), ev.InstanceCompleted(b"[8]")]),
            ],
            "p/1": [
                Row(1, 10, [ev.InstanceStarted("part", 1, b"[7]"), scheduled(1, "add", 7, 1)]),
                Row(3, 12, [ev.AttemptFailed(1, 1, FAILURE, 13)]),
                Row(4, 13, [ev.ActivityStarted(1, 2)]),
                Row(5, 15, [ev.ActivityCompleted(1, b"8", 2), ev.InstanceCompleted(b"8")]),
            ],
            "w": [
                Row(1, 10, [ev.InstanceStarted("waiting", 1, b"[5]"), ev.EventAwaited(1, "go")]),
                Row(3, 11, [ev.EventReceived("GO", b"1", "e1"), ev.EventAwaited(2, "go")]),
                Row(5, 12, [ev.EventReceived("go", b"2", "e2"), scheduled(3, "add", 5, 2)]),
            ],
        }
    )
    inbox: list[tuple[str, ev.Event | None]] = field(
        default_factory=lambda: [("w", ev.EventReceived("go", b"3", "e3"))]
    )
    others: dict[str, list[str]] = field(default_factory=lambda: {"heartbeats": ["w"]})
    acks: list[Ack] = field(
        default_factory=lambda: [
            Ack("start", "p", "", 7),
            Ack("start", "w", "", 5),
            Ack("event", "w", "e1", 1),
            Ack("event", "w", "e2", 2),
            Ack("event", "w", "e3", 3),
            Ack("result", "p", "", [8]),
        ]
    )
    ledger: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"what": "begin", "key": "p/1/1", "activity": "add", "args": [7, 1], "attempt": 1},
            {"what": "begin", "key": "p/1/1", "activity": "add", "args": [7, 1], "attempt": 2},
            {"what": "end", "key": "p/1/1", "activity": "add", "args": [7, 1], "attempt": 2},
            {"what": "begin", "key": "w/3", "activity": "add", "args": [5, 2], "attempt": 1},
        ]
    )

    def judged(self) -> list[str]:
        tables = Tables(self.workers, self.instances, self.history, self.inbox, self.others)
        return violations(tables, self.acks, self.ledger)


def set_row(scene: Scene, instance: str, index: int, **changes: Any) -> None:
    scene.history[instance][index] = scene.history[instance][index]._replace(**changes)


def set_instance(scene: Scene, instance: str, **changes: Any) -> None:
    scene.instances[instance] = scene.instances[instance]._replace(**changes)


PLANTED: dict[str, tuple[Callable[[Scene], object], str]] = {
    "a gap": (lambda s: set_row(s, "w", 1, first_seq=4), "begins with #4 where #3 must follow"),
    "a row that is missing": (lambda s: s.history["w"].pop(1), "begins with #5 where #3 must follow"),
    "a turn that is there twice": (
        lambda s: s.history["w"].append(s.history["w"][2]._replace(events=[ev.EventReceived("go", b"4")])),
        "begins with #5 where #7 must follow",
    ),
    "an empty row": (lambda s: set_row(s, "w", 2, events=[]), "is an empty row"),
    "a row that cannot be read": (lambda s: set_row(s, "w", 2, unreadable="no MessagePack"), "cannot be read"),
    "time that goes back": (lambda s: set_row(s, "w", 2, at_us=10), "1 us before the row"),
    "a history of nobody": (lambda s: s.instances.pop("w"), "not in the table of instances"),
    "an instance without history": (lambda s: s.history.pop("w"), "has no history"),
    "another beginning": (
        lambda s: set_row(s, "w", 0, events=[ev.EventAwaited(1, "go"), ev.EventAwaited(4, "go")]),
        "begins with #1 wait",
    ),
    "two ends": (
        lambda s: s.history["p"].append(Row(5, 21, [ev.InstanceCompleted(b"[8]")])),
        "goes on after its end",
    ),
    "a life after the end": (
        lambda s: s.history["p"].append(Row(5, 21, [ev.EventReceived("go", b"1")])),
        "goes on after its end",
    ),
    "two ends in one row": (
        lambda s: set_row(s, "p", 1, events=[ev.InstanceTerminated("x"), ev.InstanceCompleted(b"[8]")]),
        "goes on after its end",
    ),
    "a decision behind the end that was decided": (
        lambda s: set_row(s, "p", 1, events=[ev.InstanceCompleted(b"[8]"), ev.EventAwaited(2, "go")]),
        "goes on after its end",
    ),
    "something that came in behind an end": (
        lambda s: set_row(s, "p", 1, events=[ev.InstanceTerminated("x"), ev.EventReceived("go", b"1")]),
        "goes on after its end",
    ),
    "an end that is another": (lambda s: set_instance(s, "p", status="FAILED"), "history says COMPLETED"),
    "an end that is not in the history": (
        lambda s: set_row(s, "p", 1, events=[ev.ChildCompleted(1, b"8")]),
        "history says that it is not over",
    ),
    "an end that is not in the row": (
        lambda s: set_instance(s, "p", status="RUNNING", is_over=False, owner=1),
        "is RUNNING, but its history says COMPLETED",
    ),
    "a result that is recorded twice": (
        lambda s: s.history["p/1"].insert(3, Row(5, 14, [ev.ActivityCompleted(1, b"8", 2)])),
        "had its result already",
    ),
    "a result of nothing": (
        lambda s: s.history["w"].append(Row(7, 14, [ev.TimerFired(9)])),
        "nobody had asked for task 9",
    ),
    "a late result of an attempt that was given up": (
        lambda s: set_row(s, "p/1", 3, events=[ev.ActivityCompleted(1, b"8", 1), ev.InstanceCompleted(b"8")]),
        "attempt 2 had begun",
    ),
    "an attempt that begins twice": (
        lambda s: s.history["p/1"].insert(3, Row(5, 14, [ev.ActivityStarted(1, 2)])),
        "attempt 2 had begun before",
    ),
    "a child that ended otherwise": (
        lambda s: set_row(s, "p", 1, events=[ev.ChildCompleted(1, b"9"), ev.InstanceCompleted(b"[8]")]),
        "its child p/1 ends with",
    ),
    "a child of nobody": (lambda s: set_instance(s, "p/1", parent="q"), "child of q, which is missing"),
    "an owner who is dead": (lambda s: set_instance(s, "w", owner=7), "owned by worker 7, which is dead"),
    "an owner who is dead and not buried": (lambda s: s.workers.update({1: False}), "is dead and not buried"),
    "no owner": (lambda s: set_instance(s, "w", owner=None), "owned by nobody, though others live"),
    "a message for what is over": (
        lambda s: s.inbox.append(("p", ev.EventReceived("go", b"1"))),
        "p is COMPLETED and has 1 rows in inbox",
    ),
    "a message for nobody": (lambda s: s.inbox.append(("x", None)), "x is missing and has 1 rows in inbox"),
    "a heartbeat of what is over": (lambda s: s.others.update(heartbeats=["p/1"]), "rows in heartbeats"),
    "a start that is lost": (lambda s: s.acks.append(Ack("start", "x", "", 1)), "acknowledged start of x is lost"),
    "a start that is another": (lambda s: s.acks.append(Ack("start", "w", "", 6)), "was of 6"),
    "an event that is lost": (lambda s: s.acks.append(Ack("event", "w", "e4", 4)), "e4, is there 0 times"),
    "an event that is delivered twice": (
        lambda s: s.history["w"].append(Row(7, 14, [ev.EventReceived("go", b"2", "e2")])),
        "e2, is there 2 times",
    ),
    "an event that waits though it was delivered": (
        lambda s: s.inbox.append(("w", ev.EventReceived("go", b"2", "e2"))),
        "e2, is there 1 times",
    ),
    "an event that is another": (
        lambda s: set_row(s, "w", 1, events=[ev.EventReceived("go", b"9", "e1"), ev.EventAwaited(2, "go")]),
        "e1, was 1, recorded is b'9'",
    ),
    "events in another order": (lambda s: s.acks.insert(2, s.acks.pop(3)), "has overtaken"),
    "a result that is another": (lambda s: s.acks.append(Ack("result", "p", "", [9])), "was [9]"),
    "a result of what is not over": (lambda s: s.acks.append(Ack("result", "w", "", 9)), "recorded is"),
    "an activity that no history asks for": (
        lambda s: s.ledger.append({"what": "begin", "key": "w/4", "activity": "add", "args": [1, 1], "attempt": 1}),
        "w/4 ran as add(1, 1), asked for was None",
    ),
    "an activity with another input": (lambda s: s.ledger[3].update(args=[5, 3]), "w/3 ran as add(5, 3)"),
    "an attempt that no history begins": (
        lambda s: s.ledger.append({"what": "begin", "key": "w/3", "activity": "add", "args": [5, 2], "attempt": 2}),
        "though no history records its beginning",
    ),
    "an attempt that ran twice": (lambda s: s.ledger.append(s.ledger[3]), "ran 2 times"),
    "an attempt after the result": (
        lambda s: s.ledger.append({"what": "begin", "key": "p/1/1", "activity": "add", "args": [7, 1], "attempt": 3}),
        "though the result of attempt 2 is recorded",
    ),
    "a result of an attempt that never ended": (lambda s: s.ledger.pop(2), "which never ended"),
}


def test_nothing_is_found_where_all_is_in_order() -> None:
    assert Scene().judged() == []


@pytest.mark.parametrize("what", PLANTED)
def test_it_finds(what: str) -> None:
    scene = Scene()
    plant, told = PLANTED[what]
    plant(scene)
    assert [line for line in scene.judged() if told in line], scene.judged()


def test_a_fleet_that_has_closed_may_leave_what_is_not_over_to_nobody() -> None:
    scene = Scene()
    scene.workers.clear()
    set_instance(scene, "w", owner=None)
    assert scene.judged() == []


def test_behind_a_termination_may_stand_what_came_in_before_has_caused() -> None:
    scene = Scene()
    scene.history["w"].append(
        Row(7, 13, [ev.ActivityCompleted(3, b"7", 1), ev.InstanceTerminated("x"), scheduled(4, "add", 7, 1)])
    )
    set_instance(scene, "w", status="TERMINATED", is_over=True)
    scene.inbox.clear()
    scene.others.clear()
    scene.acks.remove(Ack("event", "w", "e3", 3))
    scene.ledger.append({"what": "end", "key": "w/3", "activity": "add", "args": [5, 2], "attempt": 1})
    assert scene.judged() == []


# -- on a real store --------------------------------------------------------------------------------------------------

SPOILED = {
    "delete from history where first_seq = 3": "where #3 must follow",
    "update history set events = 'nonsense' where first_seq = 3": "cannot be read",
    "update instances set status = 'FAILED'": "history says COMPLETED",
    "update instances set finished_us = null, status = 'RUNNING'": "is RUNNING, but its history says",
    "insert into inbox (instance, data) values ('s', 'x')": "rows in inbox",
    "insert into heartbeats values ('s', 1, 1, 'x')": "rows in heartbeats",
    "delete from instances": "not in the table of instances",
}


@pytest.mark.slow
async def test_it_reads_what_a_fleet_has_written_and_finds_what_is_spoiled_there(fleet: Fleet, tmp_path: Path) -> None:
    workers = await fleet.workers(1)
    async with fleet.client() as client:
        handle = await client.start(sequence.options(instance_id="s"), 4)
        assert await handle.result(timeout=20) == 14
    assert "0 wrong" in await fleet.come_to_rest(workers)
    assert len((await read(fleet.url)).history["s"]) == 6
    for statement, told in SPOILED.items():
        copy = await asyncio.to_thread(copied, fleet)
        await asyncio.to_thread(fleet.server.execute, f"set search_path to durableflow; {statement}", database=copy)
        command = [sys.executable, str(Path(__file__).parent / "check_tables.py"), fleet.server.url(copy)]
        judge = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert (judge.returncode, told in judge.stdout) == (1, True), f"{statement}: {judge.stdout}{judge.stderr}"
        await asyncio.to_thread(fleet.server.drop_database, copy)


def copied(fleet: Fleet) -> str:
    """A copy of the database, to be spoiled."""
    copy = f"{fleet.database}_copy"
    ended = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{fleet.database}'"
    fleet.server.execute(ended, f"create database {copy} template {fleet.database}")
    return copy

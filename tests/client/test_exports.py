"""Instances as JSON lines: whole, to the byte, from any store into any other, and before they are removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    InstanceExists,
    InstanceNotFound,
    Status,
    UsageError,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Arrival, Backend, Heartbeat, HistoryRow, InstanceRecord, Outgoing, Query
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import CorruptHistory
from durableflow.runtime.exports import ExportFile

if TYPE_CHECKING:
    World = Any  # of tests/runtime/conftest.py


@activity
async def double(n: int) -> int:
    activity_context().heartbeat({"at": n})
    return 2 * n


@workflow
async def sell(ctx: Context, item: str) -> list[Any]:
    ctx.set_custom_status({"item": item})
    twice = await ctx.call_activity(double, 21)
    paid = await ctx.wait_for_event("paid", float)
    return [item, twice, paid, None]


async def kept(backend: Any) -> list[Any]:
    """All that a store holds of instances, but the numbers of the messages."""
    ids = sorted(record.id for record in await backend.list_records(Query(limit=1_000)))
    loaded = sorted(await backend.load(ids), key=lambda item: item.record.id)
    return [item._replace(messages=[m.data for m in item.messages]) for item in loaded]


async def fill(world: World) -> None:
    """Two that are over, one that waits."""
    async with world.engine(workflows=[sell], activities=[double]) as engine:
        for each, item in (("a", "lamp"), ("b", 'a "chair"\u2028 of ünïcödé'), ("c", "vase")):
            await engine.start(sell.options(instance_id=each, tags={"kind": each}), item)
        await world.settle()
        for each in "ab":
            await engine.raise_event(each, "paid", 0.1, event_id="e")
        await world.settle()


@pytest.fixture
def other(world: World, tmp_path: Path) -> Backend:
    """A store of the other kind."""
    return SqliteBackend(tmp_path / "other.db") if world.kind == "memory" else MemoryBackend()


async def test_what_is_imported_is_what_was_exported(world: World, other: Any, tmp_path: Path) -> None:
    await fill(world)
    path = tmp_path / "out.jsonl"
    async with Client(world.backend()) as client, Client(other) as target:
        await client.raise_event("c", "paid", 7.5, event_id="e")
        await client.raise_event("c", "other")
        report = await client.export_instances(path)
        assert (report.instances, report.events) == (3, sum([len(await client.history(each)) for each in "abc"]))
        imported = await target.import_instances(path, active=True)
        assert (imported.imported, imported.skipped) == (3, 0)
        assert await kept(other) == await kept(client._backend)
        again = await target.import_instances(path, active=True)
        assert (again.imported, again.skipped) == (0, 3)
        assert await kept(other) == await kept(client._backend)
    async with world.engine(other, workflows=[sell], activities=[double]) as engine:
        assert await engine.result("a") == ["lamp", 42, 0.1, None]
        assert await engine.result("c") == ["vase", 42, 7.5, None]


async def test_one_that_was_terminated_in_the_turn_in_which_it_decided_something_is_over(
    world: World, other: Any, tmp_path: Path
) -> None:
    async with Client(world.backend(), clock=world.clock) as client, Client(other) as target:
        await client.start(sell.options(instance_id="t"), "lamp")
        await client.terminate("t")
        async with world.engine(workflows=[sell], activities=[double]):
            await client.wait_for_status("t", Status.TERMINATED)
        await client.export_instances(tmp_path / "out.jsonl")
        assert (await target.import_instances(tmp_path / "out.jsonl")).imported == 1
        assert (await target.status("t")).status is Status.TERMINATED


async def test_a_file_is_lines_of_json_that_people_can_read(world: World, tmp_path: Path) -> None:
    await fill(world)
    async with Client(world.backend()) as client:
        lines = [json.loads(line) async for line in client.export_lines(["a"])]
        await client.export_instances(tmp_path / "a.jsonl", ["a"])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == lines
    assert lines[0] == {"durableflow_export": 1}
    assert lines[1]["instance"]["id"] == "a"
    assert lines[1]["instance"]["tags"] == {"kind": "a"}
    assert lines[1]["instance"]["custom_status"] == {"item": "lamp"}
    assert [line["kind"] for line in lines[2:-1]][:2] == ["instance_started", "custom_status_set"]
    assert lines[2]["input"] == ["lamp"]
    assert lines[-1] == {"end": "a", "events": len(lines) - 3, "messages": 0}


async def test_everything_that_hangs_on_an_instance_travels(world: World, other: Any, tmp_path: Path) -> None:
    from durableflow.model import events as ev

    source = world.backend()
    record = InstanceRecord("x", "sell", 1, Status.STALLED, 5, None, 0, {"k": "v"}, b"\xff not JSON", "why")
    rows = [
        HistoryRow("x", 1, 5, ev.dump_events([ev.InstanceStarted("sell", 1, b'["lamp"]'), ev.TimerCreated(1, 9)])),
        HistoryRow("x", 3, 2**50, ev.dump_events([ev.TimerFired(1)])),
    ]
    messages = [
        Outgoing("x", ev.dump_event(ev.EventReceived("e", b"1.0", "id")), event_id="id"),
        Outgoing("x", ev.dump_event(ev.InstanceSuspended("tired"))),
    ]
    beats = [Heartbeat("x", 2, 3, b"{}")]
    async with Client(source) as client, Client(other) as target:
        await source.take_in([Arrival(record, rows, messages, beats)])
        await client.export_instances(tmp_path / "x.jsonl", id_prefix="x")
        await target.import_instances(tmp_path / "x.jsonl", active=True)
        (item,) = await other.load(["x"])
        (original,) = await source.load(["x"])
        assert (item.record, item.rows, item.heartbeats) == (original.record, original.rows, original.heartbeats)
        assert [m.data for m in item.messages][:2] == [m.data for m in original.messages]
        await other.send([Outgoing("x", b"again", event_id="id")])
        assert len((await other.load(["x"]))[0].messages) == len(item.messages)


async def test_what_is_not_over_is_imported_only_when_that_is_said(world: World, other: Any, tmp_path: Path) -> None:
    await fill(world)
    async with Client(world.backend()) as client, Client(other) as target:
        await client.export_instances(tmp_path / "all.jsonl")
        with pytest.raises(UsageError, match=r"'c'.*is RUNNING.*active=True"):
            await target.import_instances(tmp_path / "all.jsonl")
        assert await kept(other) == []
        await client.export_instances(tmp_path / "over.jsonl", status=Status.COMPLETED)
        assert (await target.import_instances(tmp_path / "over.jsonl")).imported == 2


async def test_an_engine_at_work_goes_on_with_what_is_imported(world: World, other: Any, tmp_path: Path) -> None:
    begun: list[int] = []

    @workflow
    async def sleeper(ctx: Context) -> str:
        begun.append(1)
        await ctx.sleep(3600)
        return "awake"

    async with world.engine(workflows=[sleeper]) as engine:
        await engine.start(sleeper.options(instance_id="s"))
        await world.settle()
        await engine.export_instances(tmp_path / "s.jsonl", ["s"])
    async with (
        world.engine(other, workflows=[sleeper]) as engine,
        Client(other if world.kind == "sqlite" else SqliteBackend(tmp_path / "other.db")) as client,
    ):
        await client.import_instances(tmp_path / "s.jsonl", active=True)
        await world.until(lambda: len(begun) == 2)
        await world.advance(3600)
        assert await engine.result("s") == "awake"
        assert await engine._backend.inbox(0, 10) == []


async def test_another_instance_of_the_same_id_is_no_reason_to_overwrite_it(
    world: World, other: Any, tmp_path: Path
) -> None:
    await fill(world)
    async with Client(world.backend()) as client, Client(other) as target:
        await target.start(sell.options(instance_id="b"), "mine")
        before = await kept(other)
        await client.export_instances(tmp_path / "b.jsonl", ["b"])
        with pytest.raises(InstanceExists, match="is another one"):
            await target.import_instances(tmp_path / "b.jsonl")
        assert await kept(other) == before


def spoil(lines: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The lines of a file with one instance, spoilt."""
    changed: dict[str, Callable[[], object]] = {
        "cut off": lines.pop,
        "a line is missing": lambda: lines.pop(3),
        "a line twice": lambda: lines.insert(3, lines[3]),
        "unknown kind": lambda: lines[3].update(kind="from the future"),
        "unknown field": lambda: lines[3].update(more=1),
        "unknown status": lambda: lines[1]["instance"].update(status="HAPPY"),
        "no start": lambda: lines[2].update(kind="timer_fired", task=1),
        "other workflow": lambda: lines[1]["instance"].update(workflow="buy"),
        "not over": lambda: lines[1]["instance"].update(status="RUNNING"),
        "other format": lambda: lines[0].update(durableflow_export=99),
        "no head": lambda: lines.pop(0),
        "nothing": lines.clear,
        "not of an instance": lambda: lines.pop(1),
        "unreadable": lambda: lines.insert(3, {"unreadable": "turn", "turn": 9, "at_us": 1, "data": ""}),
        "meaningless": lambda: lines.insert(3, {"a": 1}),
    }
    changed[where]()
    return lines


@pytest.mark.parametrize(
    "where",
    ["cut off", "a line is missing", "a line twice", "unknown kind", "unknown field", "unknown status", "no start",
     "other workflow", "not over", "other format", "no head", "nothing", "not of an instance", "unreadable",
     "meaningless"],
)  # fmt: skip
async def test_a_file_that_is_not_whole_is_refused_and_nothing_is_written(
    memory_world: World, where: str, tmp_path: Path
) -> None:
    await fill(memory_world)
    target = MemoryBackend()
    async with Client(memory_world.backend()) as client:
        good = [json.loads(line) async for line in client.export_lines(["a"])]
        whole = [json.loads(line) async for line in client.export_lines(["b"])]
    path = tmp_path / "spoilt.jsonl"
    spoilt = spoil(whole, where)
    begin = [] if where in {"other format", "no head", "nothing"} else good
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [*begin, *(spoilt[1:] if begin else spoilt)]))
    async with Client(target) as client:
        with pytest.raises(CorruptHistory, match=r"spoilt\.jsonl"):
            await client.import_instances(path, active=True)
        assert await kept(target) == []


async def test_what_cannot_be_read_is_exported_as_it_is(memory_world: World, tmp_path: Path) -> None:
    backend = memory_world.backend()
    record = InstanceRecord("x", "sell", 1, Status.FAILED, 5)
    await backend.take_in([Arrival(record, [HistoryRow("x", 1, 5, b"spoilt")], [Outgoing("x", b"too")], [])])
    async with Client(backend) as client:
        lines = [json.loads(line) async for line in client.export_lines(["x"])]
        assert [line.get("unreadable") for line in lines] == [None, None, "turn", "message", None]
        await client.export_instances(tmp_path / "x.jsonl", ["x"])
        with pytest.raises(CorruptHistory, match="could not be read when it was exported"):
            await client.import_instances(tmp_path / "x.jsonl")


async def test_an_export_leaves_no_half_file(memory_world: World, tmp_path: Path) -> None:
    await fill(memory_world)
    async with Client(memory_world.backend()) as client:
        with pytest.raises(InstanceNotFound, match="nobody"):
            await client.export_instances(tmp_path / "x.jsonl", ["a", "nobody"])
        assert [*tmp_path.iterdir()] == []  # noqa: ASYNC240  # nobody waits
        await client.export_instances(tmp_path / "x.jsonl", ["a"])
        with pytest.raises(UsageError, match="is there already"):
            await client.export_instances(tmp_path / "x.jsonl", ["b"])
        with pytest.raises(UsageError, match="not both"):
            await client.export_instances(tmp_path / "y.jsonl", ["b"], workflow="sell")


# -- before they are removed ------------------------------------------------------------------------------------------


async def test_what_is_purged_is_in_the_file_before(world: World, other: Any, tmp_path: Path) -> None:
    await fill(world)
    path = tmp_path / "archive.jsonl"
    async with Client(world.backend(), clock=world.clock) as client, Client(other) as target:
        before = await kept(client._backend)
        world.clock.move(world.clock.now + 10)
        assert await client.purge_finished(older_than=timedelta(0), export_to=path, batch=1) == 2
        assert await client.purge_finished(older_than=timedelta(0), export_to=path) == 0
        assert [record.id for record in await client._backend.list_records(Query())] == ["c"]
        assert (await target.import_instances(path)).imported == 2
        assert await kept(other) == before[:2]


async def test_a_crash_between_export_and_removal_loses_nothing(memory_world: World, tmp_path: Path) -> None:
    await fill(memory_world)
    path = tmp_path / "archive.jsonl"

    class Dies(Client):
        async def purge_many(self, instance_ids: Any) -> Any:
            raise KeyboardInterrupt

    backend = memory_world.backend()
    memory_world.clock.move(memory_world.clock.now + 10)
    async with Client(backend, clock=memory_world.clock) as client, Dies(backend, clock=memory_world.clock) as dies:
        with pytest.raises(KeyboardInterrupt):
            await dies.purge_finished(older_than=0, export_to=path)
        with path.open("ab") as file:  # and what a kill leaves of a batch
            file.write(path.read_bytes().splitlines(keepends=True)[1] + b'{"seq": 1, "ki')
        assert await client.purge_finished(older_than=0, export_to=path) == 2
    target = MemoryBackend()
    async with Client(target) as client:
        report = await client.import_instances(path)
        assert (report.imported, report.skipped) == (2, 2), "both are there twice, and the rest was cut away"


@pytest.mark.parametrize("cut", [0, 5, 24, 25, 26, 30, 80, 300, -1, -2, -40])
def test_what_an_interrupted_batch_left_is_cut_away(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    file = ExportFile(path)
    one = [b'{"instance": 1}\n', b'{"seq": "%s"}\n' % (b"x" * 100), b'{"end":"a"}\n']
    file.add(one)
    file.add(one)
    file.close()
    whole = path.read_bytes()
    head = whole.splitlines(keepends=True)[0]
    path.write_bytes(whole[:cut] if cut else b"")
    ExportFile(path).close()
    kept_instances = whole[:cut].count(b'{"end":"a"}\n') if cut else 0
    assert path.read_bytes() == head + b"".join(one) * kept_instances


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada,")
    with pytest.raises(UsageError, match="is no export"):
        ExportFile(path)
    assert path.read_text() == "Dear Ada,"

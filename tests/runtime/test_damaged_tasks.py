"""Tasks and queues that the store does not keep in a readable form: each harms its own instance or queue, visibly."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Context, Status, WorkflowFailed, activity, activity_context, workflow
from durableflow.backends.tasks import StoredTask
from durableflow.model import events as ev
from durableflow.observe import facts
from durableflow.runtime.tasks import CORRUPT_TASK, damage_of, dump_options

if TYPE_CHECKING:
    World = Any  # of conftest.py

LONG_S = 1_000_000.0
"""A lease that outlasts every move of the clock."""
DEAD_SERVER = 77


@activity(queue="mail")
async def send(n: int) -> int:
    sent.append((n, activity_context().attempt))
    return n


@activity(queue="other")
async def send_elsewhere(n: int) -> int:
    return n


@workflow
async def sends(ctx: Context, n: int) -> int:
    return await ctx.call_activity(send, n)


@workflow
async def sends_elsewhere(ctx: Context, n: int) -> int:
    return await ctx.call_activity(send_elsewhere, n)


sent: list[tuple[int, int]] = []
WORKFLOWS = {"workflows": [sends, sends_elsewhere], "queues": []}
ACTIVITIES = {"activities": [send, send_elsewhere], "lease_s": LONG_S}


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    sent.clear()


def change(world: World, sql: str, *values: object) -> None:
    """Write into the file past everybody."""
    with closing(sqlite3.connect(world.path, isolation_level=None, timeout=10)) as connection:
        assert connection.execute(sql, values).rowcount == 1


async def start(world: World, engine: Any, **numbers: int) -> None:
    """Instances whose tasks wait, for nobody serves their queue."""
    for name, number in numbers.items():
        await engine.start(sends.options(instance_id=name), number)
    await world.settle()


DAMAGES = [
    ("options", b"\xff"),
    ("options", "text"),
    ("input", 1.5),
    ("attempt", "text"),
    ("attempt", -1),
    ("attempt", 2**63 - 1),
    ("uncounted", 1),
    ("losses", b""),
    ("priority", "text"),
    ("priority", b"\xff"),
    ("fairness_key", b"\xff"),
    ("expires_us", "text"),
    ("not_before_us", b""),
    ("scheduled_at_us", 2**63 - 1),
    ("token_digest", 1),
    ("details", "text"),
]


@pytest.mark.parametrize(("column", "value"), DAMAGES)
async def test_a_task_that_cannot_be_read_fails_its_activity_and_no_other(
    sqlite_world: World, column: str, value: object
) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, bad=1, good=2)
        change(world, f"update tasks set {column} = ? where instance = 'bad'", value)
        async with world.engine(**ACTIVITIES):
            with pytest.raises(WorkflowFailed) as failed:
                await engine.handle("bad").result(timeout=5)
            assert await engine.handle("good").result(timeout=5) == 2
        (told,) = world.told(facts.TaskUnreadable)
        assert (told.instance_id, column in told.reason) == ("bad", True)
        assert told.reason in failed.value.message
        (end,) = [e.event for e in await engine.history("bad") if isinstance(e.event, ev.ActivityFailed)]
        assert end.failure.type_name == CORRUPT_TASK
        assert [n for n, _ in sent] == [2]


@pytest.mark.parametrize(
    "state",
    [
        "state = 1, not_before_us = 1",
        "state = 1, not_before_us = 'text'",
        f"state = 2, claimed_by = {DEAD_SERVER}",
        "state = 3, expires_us = 1",
        "state = 3, expires_us = 'text'",
    ],
)
async def test_whatever_a_task_was_waiting_for_that_it_cannot_be_read_comes_to_light(
    sqlite_world: World, state: str
) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, bad=1)
        change(world, "insert into servers values (?, 'dead', 1)", DEAD_SERVER)
        change(world, f"update tasks set {state}, options = 'text' where instance = 'bad'")
        async with world.engine(**ACTIVITIES):
            with pytest.raises(WorkflowFailed, match="cannot be read"):
                await engine.handle("bad").result(timeout=5)


async def test_an_activity_whose_task_could_not_be_read_is_made_again_when_it_is_redriven(sqlite_world: World) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, bad=1)
        change(world, "update tasks set attempt = 'text', options = x'ff' where instance = 'bad'")
        async with world.engine(**ACTIVITIES):
            await engine.handle("bad").wait_for_status(Status.FAILED, timeout=5)
            await engine.dead_letters.redrive("bad")
            assert await engine.handle("bad").result(timeout=5) == 1
    async with world.engine(**WORKFLOWS, check_replay=True) as again:
        assert await again.handle("bad").result(timeout=5) == 1


async def test_a_task_of_which_nobody_can_say_whose_it_is_stalls_its_instance(sqlite_world: World) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, bad=1, good=2)
        change(world, "update tasks set task = 'text' where instance = 'bad'")
        async with world.engine(**ACTIVITIES):
            await engine.handle("bad").wait_for_status(Status.STALLED, timeout=5)
            assert await engine.handle("good").result(timeout=5) == 2
        assert "cannot be read" in (await engine.status("bad")).stall_reason
        await engine.terminate("bad")
        assert (await engine.status("bad")).status is Status.TERMINATED


@pytest.mark.parametrize(
    ("column", "value"),
    [("concurrency", "text"), ("concurrency", -1), ("rate_count", 1.5), ("rate_count", 5), ("rate_burst", b"")],
)
async def test_of_a_queue_whose_limits_cannot_be_read_nothing_is_taken_until_they_are_set(
    sqlite_world: World, column: str, value: object
) -> None:
    """A rate without a period among them."""
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, waits=1)
        change(world, f"update queues set {column} = ? where name = 'mail'", value)
        async with world.engine(**ACTIVITIES):
            assert await (await engine.start(sends_elsewhere, 3)).result(timeout=5) == 3
            await world.settle()
            assert (await engine.queue("mail")).concurrency == 0
            assert (sent, [each.queue for each in world.told(facts.QueueUnreadable)]) == ([], ["mail"])
            await engine.set_queue("mail", concurrency=1)
            assert await engine.handle("waits").result(timeout=5) == 1


@pytest.mark.parametrize("value", ["text", 2**63 - 1, -1])
async def test_where_the_last_number_of_a_task_cannot_be_read_tasks_get_numbers_all_the_same(
    sqlite_world: World, value: object
) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, a=1)
        change(world, "update task_numbers set last = ?", value)
        await start(world, engine, b=2)
        async with world.engine(**ACTIVITIES):
            assert [await engine.handle(each).result(timeout=5) for each in "ab"] == [1, 2]


async def test_where_the_order_of_tasks_cannot_be_read_they_go_on_in_some_order(sqlite_world: World) -> None:
    world = sqlite_world
    async with world.engine(**WORKFLOWS) as engine:
        await start(world, engine, a=1, b=2)
        change(world, "update tasks set vtime = 9223372036854775807 where instance = 'a'")
        change(world, "update tasks set vtime = 'text' where instance = 'b'")
        await start(world, engine, c=3)
        async with world.engine(**ACTIVITIES):
            await start(world, engine, d=4)
            assert [await engine.handle(each).result(timeout=5) for each in "abcd"] == [1, 2, 3, 4]


SOUND = StoredTask(
    1, "i", 1, 1, "q", "send", b"[1]", dump_options(None), 0, "", 0, 0, None, 0, 0, None, None, 1, 0, 0, False
)  # fmt: skip


def test_of_a_sound_task_nothing_is_said() -> None:
    assert damage_of(SOUND) is None
    assert damage_of(SOUND._replace(attempt=3, uncounted=2, expires_us=5, details=b"1", is_suspect=True)) is None


@pytest.mark.parametrize("field", StoredTask._fields)
def test_of_a_damaged_task_it_is_said_what_is_damaged(field: str) -> None:
    assert damage_of(SOUND._replace(**{field: 1.5})) == f"its {field} is 1.5"

"""Many instances at a time: chosen by a filter, acted on in few transactions, counted and reported."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import BlockingClient, Client, Context, Status, UsageError, workflow
from durableflow.model.status import TERMINAL
from durableflow.runtime.bulk import ACTIONS, LISTED_MAX

if TYPE_CHECKING:
    World = Any  # of tests/runtime/conftest.py


@workflow
async def wait(ctx: Context) -> None:
    await ctx.wait_for_event("go")


@workflow
async def fail(ctx: Context) -> None:
    raise ValueError("no")


async def started(client: Client, count: int, name: str = "a", **tags: str) -> list[str]:
    return [(await client.start(wait.options(instance_id=f"{name}{n:03}", tags=tags))).id for n in range(count)]


async def statuses(client: Client) -> dict[str, Status]:
    return {each.instance_id: each.status for each in (await client.list(limit=1_000)).instances}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["engine", "client"])
async def test_an_action_reaches_all_that_match_and_no_other(world: World, elsewhere: bool) -> None:
    async with world.engine(workflows=[wait]) as engine, Client(world.backend(), clock=world.clock) as client:
        ids = await started(engine, 450, kind="old")
        await started(engine, 2, "b", kind="new")
        await world.settle()
        asker = client if elsewhere else engine
        report = await asker.bulk("suspend", tags={"kind": "old"}, reason="over the holidays")
        assert (report.matched, report.done, report.failed) == (450, 450, 0)
        assert sorted(report.instance_ids) == ids
        await engine.wait_for_status("a000", Status.SUSPENDED, timeout=5)
        await world.settle()
        assert [each for each, status in (await statuses(engine)).items() if status is not Status.SUSPENDED] == [
            "b001",
            "b000",
        ]
        again = await asker.bulk("suspend", tags={"kind": "old"})
        assert (again.matched, again.done) == (0, 0)
        report = await asker.bulk("resume", workflow=wait)
        assert (report.matched, report.done) == (450, 450)
        await engine.wait_for_status("a449", Status.RUNNING, timeout=5)


async def test_a_dry_run_tells_and_does_nothing(world: World) -> None:
    async with world.engine(workflows=[wait]) as engine:
        ids = await started(engine, 3)
        await world.settle()
        report = await engine.bulk("terminate", id_prefix="a", dry_run=True)
        assert (report.action, report.dry_run) == ("terminate", True)
        assert (report.matched, report.done, report.failed, report.failures) == (3, 0, 0, {})
        assert sorted(report.instance_ids) == ids
        assert set((await statuses(engine)).values()) == {Status.RUNNING}


async def test_few_transactions_are_made(sqlite_world: World) -> None:
    backend = sqlite_world.backend()
    moments: list[str] = []
    async with Client(backend) as client:
        await started(client, 250)
        backend.hook = moments.append
        await client.bulk("terminate", id_prefix="a")
    assert moments.count("before commit") == 2


async def test_those_to_which_it_does_not_apply_are_passed_by_unless_they_are_asked_for(world: World) -> None:
    async with world.engine(workflows=[wait]) as engine:
        await started(engine, 3)
        await world.settle()
        await engine.terminate("a001")
        assert (await engine.bulk("cancel", id_prefix="a", dry_run=True)).matched == 2
        report = await engine.bulk("cancel", id_prefix="a", status=list(Status))
        assert (report.matched, report.done, report.failed) == (3, 2, 1)
        assert list(report.failures) == ["a001"]
        assert "TERMINATED" in report.failures["a001"]


async def test_purging_takes_only_what_is_over(world: World) -> None:
    async with world.engine(workflows=[wait]) as engine:
        await started(engine, 5)
        await world.settle()
        for each in ("a001", "a003"):
            await engine.terminate(each)
        report = await engine.bulk("purge", workflow="wait")
        assert (report.matched, report.done) == (2, 2)
        assert sorted(await statuses(engine)) == ["a000", "a002", "a004"]
        report = await engine.bulk("purge", status=[Status.RUNNING], id_prefix="a004")
        assert (report.failed, list(report.failures)) == (1, ["a004"])


async def test_what_is_made_later_is_not_reached(world: World) -> None:
    backend = world.backend()
    async with Client(backend, clock=world.clock) as client:
        await started(client, 3)
        real = client._send_all

        async def send_all(*args: Any) -> Any:
            world.clock.move(world.clock.now + 10)
            await client.start(wait.options(instance_id=f"late{world.clock.now}"))
            return await real(*args)

        client._send_all = send_all  # type: ignore[method-assign]  # somebody starts one meanwhile
        report = await client.bulk("terminate", workflow="wait")
        assert (report.matched, report.done) == (3, 3)


async def test_a_report_lists_so_many_and_counts_all(world: World) -> None:
    async with Client(world.backend()) as client:
        await started(client, LISTED_MAX + 10)
        report = await client.bulk("suspend", id_prefix="a", dry_run=True)
        assert (report.matched, len(report.instance_ids)) == (LISTED_MAX + 10, LISTED_MAX)


async def test_a_call_that_would_reach_everything_or_nothing_known_is_refused(memory_world: World) -> None:
    async with Client(memory_world.backend()) as client:
        untyped: Any = client
        with pytest.raises(UsageError, match="every instance"):
            await client.bulk("terminate")
        with pytest.raises(UsageError, match="every instance"):
            await client.bulk("terminate", workflow=None, tags=None)
        with pytest.raises(UsageError, match="there is no bulk action 'explode'"):
            await untyped.bulk("explode", id_prefix="a")
        with pytest.raises(UsageError, match="did you mean 'id_prefix'"):
            await untyped.bulk("suspend", id_prefx="a")
        with pytest.raises(ValueError, match="time zone"):
            await client.bulk("suspend", created_from=datetime(2026, 1, 1))  # noqa: DTZ001  # the mistake


async def test_an_action_that_is_a_method_of_the_client_is_called_for_each(memory_world: World) -> None:
    called: list[str] = []

    class Rewinding(Client):
        async def rewind(self, instance_id: str) -> None:
            called.append(instance_id)
            if instance_id == "b":
                await self.status("nobody")

    async with memory_world.engine(workflows=[fail]) as engine:
        for each in "abc":
            await engine.start(fail.options(instance_id=each))
        await memory_world.settle()
        async with Rewinding(memory_world.backend(), clock=memory_world.clock) as client:
            report = await client.bulk("rewind", workflow="fail")
    assert called == ["c", "b", "a"]
    assert (report.matched, report.done, report.failed) == (3, 2, 1)
    assert "nobody" in report.failures["b"]


def test_every_action_says_to_whom_it_applies() -> None:
    for action, means in ACTIONS.items():
        assert means.statuses, action
        assert not (means.message and means.statuses & TERMINAL), f"{action} is a message, and nobody would take it"


def test_the_blocking_twin_does_it_too(sqlite_world: World) -> None:
    with BlockingClient(f"sqlite:///{sqlite_world.path}") as client:
        client.start(wait.options(instance_id="a"))
        assert client.bulk("terminate", id_prefix="a", dry_run=True).matched == 1
        lines = list(client.export_lines())
        assert len(lines) == 4

"""A parent that is rewound hears of the children that it was waiting for, whatever became of them meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Context, Engine, Handle, Status, UsageError, WorkflowFailed, workflow

if TYPE_CHECKING:
    World = Any  # of conftest.py

broken: set[str] = set()


@workflow
async def kid(ctx: Context) -> str:
    went = await ctx.wait_for_event("go", str)
    if "kid" in broken:
        raise LookupError(went)
    return went


@workflow
async def parent(ctx: Context, close: Any) -> str:
    child = ctx.call_workflow(kid.options(instance_id="kid", parent_close=close))
    await ctx.wait_for_event("look")
    if "parent" in broken:
        raise LookupError("parent")
    return await child


@pytest.fixture(autouse=True)
def nothing_is_broken() -> None:
    broken.clear()


async def failed(engine: Engine, close: str) -> Handle[str]:
    """A parent that has failed while its child was open."""
    broken.add("parent")
    handle = await engine.start(parent.options(instance_id="parent"), close)
    await engine.wait_for_status("kid", Status.RUNNING, timeout=5)
    await handle.raise_event("look")
    with pytest.raises(WorkflowFailed):
        await handle.result(timeout=5)
    broken.discard("parent")
    return handle


async def test_of_what_a_child_has_returned_meanwhile(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await failed(engine, "abandon")
        await engine.raise_event("kid", "go", "far")
        assert await engine.result("kid", timeout=5) == "far"
        await handle.rewind()
        assert await handle.result(timeout=5) == "far"


async def test_of_a_child_that_has_failed_meanwhile_which_is_rewound_too(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await failed(engine, "abandon")
        broken.add("kid")
        await engine.raise_event("kid", "go", "far")
        with pytest.raises(WorkflowFailed):
            await engine.result("kid", timeout=5)
        broken.clear()
        await handle.rewind()
        assert await handle.result(timeout=5) == "far"


async def test_of_a_child_that_is_alive(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await failed(engine, "abandon")
        await handle.rewind()
        await engine.raise_event("kid", "go", "far")
        assert await handle.result(timeout=5) == "far"


async def test_of_a_child_that_ends_while_its_parent_is_being_rewound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await failed(engine, "abandon")
        real = engine._backend.rewrite

        async def rewrite(rewrites: Any) -> None:
            await engine.raise_event("kid", "go", "far")
            await engine.result("kid", timeout=5)
            await real(rewrites)

        monkeypatch.setattr(engine._backend, "rewrite", rewrite)
        await handle.rewind()
        assert await handle.result(timeout=5) == "far"


async def test_a_child_that_ended_with_it_is_started_anew_if_that_is_what_is_wanted(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await failed(engine, "terminate")
        await engine.wait_for_status("kid", Status.TERMINATED, timeout=5)
        with pytest.raises(UsageError, match=r"its child 'kid' is TERMINATED since .* would start it anew"):
            await handle.rewind()
        assert (await handle.status()).status is Status.FAILED
        await handle.rewind(force=True)
        await engine.wait_for_status("kid", Status.RUNNING, timeout=5)
        await engine.raise_event("kid", "go", "far")
        assert await handle.result(timeout=5) == "far"

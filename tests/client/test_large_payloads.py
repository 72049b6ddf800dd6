"""A hundred megabytes at every door: refused by name before anything is stored, and the memory comes back."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow import ActivityFailed, Context, Engine, Status, WorkflowFailed, activity, activity_context, workflow
from durableflow.errors import PayloadTooLarge

pytestmark = pytest.mark.slow  # it takes its time to make so much, and to look at it

HUGE_BYTES = 100_000_000
SLACK_BYTES = 30_000_000


def huge() -> str:
    return "x" * HUGE_BYTES


@workflow
async def waits(ctx: Context, word: str) -> str:
    await ctx.wait_for_event("end")
    return word


@activity(retry=1)
async def swallow(word: str) -> None: ...


@activity(retry=1)
async def give() -> str:
    return huge()


@activity(retry=1)
async def beat() -> None:
    activity_context().heartbeat(huge())


DOINGS: dict[str, Callable[[Context], Any]] = {
    "a result": lambda ctx: huge(),
    "an argument": lambda ctx: ctx.call_activity(swallow, huge()),
    "a result of an activity": lambda ctx: ctx.call_activity(give),
    "a heartbeat": lambda ctx: ctx.call_activity(beat),
    "a child's input": lambda ctx: ctx.call_workflow(waits, huge()),
    "a message": lambda ctx: ctx.raise_event("other", "word", huge()),
    "a custom status": lambda ctx: ctx.set_custom_status(huge()),
    "a side effect": lambda ctx: ctx.side_effect(huge),
    "the next round's input": lambda ctx: ctx.continue_as_new(huge()),
    "a checkpoint": lambda ctx: ctx.checkpoint(huge()),
}


@workflow
async def does(ctx: Context, what: str) -> Any:
    done = DOINGS[what](ctx)
    return await done if hasattr(done, "__await__") else done


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


async def test_what_is_handed_to_a_client_is_refused_and_not_stored(url: str) -> None:
    async with Engine(url) as engine:
        handle = await engine.start(waits.options(instance_id="i"), "word")
        before = resident_bytes()
        for call in (
            lambda: engine.start(waits.options(instance_id="new"), huge()),
            lambda: handle.raise_event("end", huge()),
            lambda: engine.request("i", "ask", huge()),
        ):
            with pytest.raises(PayloadTooLarge, match=r"100,000,00\d bytes, over the limit"):
                await call()
        assert resident_bytes() - before < SLACK_BYTES
        assert [each.instance_id for each in (await engine.list()).instances] == ["i"]
        assert [each.kind for each in await handle.history()] == ["instance_started", "event_awaited"]


@pytest.mark.parametrize("what", DOINGS)
async def test_what_a_workflow_or_an_activity_makes_fails_it_and_is_not_stored(what: str, url: str) -> None:
    async with Engine(url) as engine:
        other = await engine.start(waits.options(instance_id="other"), "word")
        before = resident_bytes()
        handle = await engine.start(does.options(instance_id="i"), what)
        with pytest.raises((WorkflowFailed, ActivityFailed), match="PayloadTooLarge"):
            await handle.result(timeout=30)
        assert resident_bytes() - before < SLACK_BYTES
        assert sum(len(repr(each)) for each in await handle.history()) < 10_000
        await other.raise_event("end")
        assert await other.result() == "word"
        assert (await handle.status()).status is Status.FAILED
    assert os.stat(url.removeprefix("sqlite:///")).st_size < 1_000_000  # noqa: PTH116  # nothing else runs

"""Several processes serve one queue; one of them is killed while it holds claims."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, activity, workflow

pytestmark = pytest.mark.slow

SERVER = """
import asyncio, os, sys, time
from durableflow import Engine, Settings, activity

@activity(name="count", queue="counting")
def count(number: int) -> int:
    os.write(1, b"began\\n")  # whole, though others say it at the same time
    time.sleep(60)
    return number

async def main() -> None:
    async with Engine(sys.argv[1], queues={"counting": 8}, settings=Settings(lease_s=2.0)):
        await asyncio.sleep(60)

asyncio.run(main())
"""


@activity(name="count", queue="counting")
async def count(number: int) -> int:
    return number


@activity(queue="counting", retry=RetryPolicy(max_attempts=2, initial=0.01))
async def poison() -> None:
    raise ValueError("poison")


@activity(queue="counting")
async def slow() -> str:
    await asyncio.sleep(2.0)
    return "slow"


@workflow
async def adding(ctx: Context, numbers: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(count, each) for each in range(numbers)]))


@workflow
async def mixed(ctx: Context, numbers: int) -> tuple[int, int, bool]:
    late, bad = ctx.call_activity(slow), ctx.call_activity(poison)
    total = sum(await ctx.when_all([ctx.call_activity(count, each) for each in range(numbers)]))
    was_slow_still_running = not late.done
    try:
        await bad
    except ActivityFailed as failed:
        await late
        return total, failed.attempts, was_slow_still_running
    raise AssertionError("the poison was none")


async def test_claims_of_a_process_that_was_killed_are_taken_by_another(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    settings = Settings(lease_s=2.0)
    async with Engine(url, workflows=[adding], activities=[count], queues=[], settings=settings) as leading:
        handle = await leading.start(adding, 40)
        command: Sequence[str] = [sys.executable, "-c", SERVER, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: ASYNC220  # begun at once
            assert server.stdout is not None
            try:
                assert await asyncio.to_thread(server.stdout.readline) == "began\n"
                assert (await leading.queue("counting")).running > 0
            finally:
                server.kill()
        async with Engine(url, workflows=[], activities=[count], settings=settings):
            assert await handle.result(timeout=15) == sum(range(40))
        kinds = [each.kind for each in await handle.history()]
        assert kinds.count("activity_completed") == 40
        assert 0 < kinds.count("attempt_failed") <= 8


async def test_the_good_ones_flow_while_one_is_slow_and_one_is_poison(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    known = [count, poison, slow]
    async with (
        Engine(url, workflows=[mixed], activities=known) as leading,
        Engine(url, workflows=[], activities=known),
        Engine(url, workflows=[], activities=known),
    ):
        handle = await leading.start(mixed, 1_000)
        assert await handle.result(timeout=30) == (sum(range(1_000)), 2, True)

"""A queue with a poison task, a slow one and a thousand good ones; the poison is mended and driven again."""

import asyncio
from pathlib import Path

import pytest

from durableflow import Context, Engine, RetryPolicy, Status, activity, workflow

pytestmark = pytest.mark.slow


class Pipe:
    """What the letters go through."""

    is_blocked = True
    hurry = asyncio.Event()


@activity(queue="letters", retry=RetryPolicy(max_attempts=3, initial=0.01))
async def deliver(number: int) -> int:
    if number == 13 and Pipe.is_blocked:
        raise ValueError("the pipe is blocked")
    if number == 7:
        await Pipe.hurry.wait()
    return number


@workflow
async def letter(ctx: Context, number: int) -> int:
    return await ctx.call_activity(deliver, number)


async def test_the_poison_is_in_the_dead_letters_and_completes_when_it_is_redriven_after_a_fix(tmp_path: Path) -> None:
    Pipe.is_blocked, Pipe.hurry = True, asyncio.Event()
    known = {"activities": [deliver]}
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[letter], **known) as engine, Engine(url, workflows=[], **known):
        handles = [await engine.start(letter.options(instance_id=f"letter-{n}"), n) for n in range(1_002)]
        good = [handle for n, handle in enumerate(handles) if n not in (7, 13)]
        assert sum([await handle.result(timeout=60) for handle in good]) == sum(range(1_002)) - 7 - 13
        assert (await handles[7].status()).status is Status.RUNNING, "the slow one goes on while all others are over"
        await handles[13].wait_for_status(Status.FAILED, timeout=10)

        (dead,) = (await engine.dead_letters.list(kind="activity")).letters
        assert (dead.instance_id, dead.name, dead.attempts) == ("letter-13", "deliver", 3)
        shown = await engine.dead_letters.get("letter-13", dead.task)
        assert shown.input == b"[13]"
        assert [each.failure.message for each in shown.attempts] == ["the pipe is blocked"] * 3
        assert shown.history[-1].kind == "instance_failed"

        await engine.dead_letters.redrive("letter-13")
        await handles[13].wait_for_status(Status.FAILED, timeout=10)
        assert (await engine.dead_letters.get("letter-13", dead.task)).letter.attempts == 3, "all attempts anew"

        Pipe.is_blocked = False
        assert (await engine.dead_letters.redrive_all(name="deliver")).redriven == 1
        assert await handles[13].result(timeout=10) == 13
        assert not (await engine.dead_letters.list()).letters
        Pipe.hurry.set()
        assert await handles[7].result(timeout=10) == 7
        assert (await engine.queue("letters")).running == 0

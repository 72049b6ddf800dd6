"""A workflow that is not deterministic fails its test, whoever looks, and however late."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest

from durableflow import Context, Engine, InstanceStalled, NondeterminismError, Settings, Status, activity, workflow
from durableflow.testing import BlockingEnvironment, WorkflowEnvironment

PIECES = itertools.count(1)


@activity
async def pack_counted(piece: int) -> int:
    return piece


@workflow
async def packs_by_a_counter(ctx: Context) -> int:
    """Each time that this is called, it asks for something else."""
    packed = await ctx.call_activity(pack_counted, next(PIECES))
    await ctx.wait_for_event("go")
    return packed


@workflow
async def ends_by_a_counter(ctx: Context) -> int:
    return next(PIECES)


@workflow
async def drifts_late(ctx: Context, turns: int) -> None:
    """Deterministic, but for its last wait."""
    for _ in range(turns):
        await ctx.sleep(1)
    await ctx.sleep(next(PIECES))


@workflow
async def long_checked(ctx: Context, turns: int) -> int:
    for _ in range(turns):
        await ctx.sleep(timedelta(minutes=1))
    return turns


async def test_the_one_who_waits_for_the_result_gets_the_error() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(packs_by_a_counter.options(instance_id="p-1"))
        with pytest.raises(NondeterminismError) as caught:
            await handle.result()
        error = caught.value
        assert (error.instance_id, error.seq) == ("p-1", 2)
        assert "pack_counted" in error.recorded
        assert "pack_counted" in error.asked
        assert error.location.startswith(__file__)


async def test_the_error_waits_for_whoever_comes_late() -> None:
    async with WorkflowEnvironment() as env:
        open_one, over = await env.start(packs_by_a_counter), await env.start(ends_by_a_counter)
        await env.advance(days=1)
        for handle in (open_one, over, over):
            with pytest.raises(NondeterminismError):
                await handle.result()
        assert (await open_one.status()).status is Status.STALLED
        assert (await open_one.status()).stall_reason.startswith("replay check: history #2")


async def test_an_instance_that_stalls_in_the_check_goes_no_further() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(packs_by_a_counter)
        await env.settle()
        assert env.calls() == []  # its decisions are recorded, but nothing follows from them
        with pytest.raises(NondeterminismError):
            await handle.result()


async def never_look(then: Callable[[], None]) -> None:
    async with WorkflowEnvironment() as env:
        await env.start(packs_by_a_counter)
        await env.settle()
        then()


def never_look_without_a_loop() -> None:
    with BlockingEnvironment() as df:
        df.start(packs_by_a_counter)
        df.settle()


async def test_a_test_that_never_looks_fails_when_it_ends() -> None:
    with pytest.raises(NondeterminismError):
        await never_look(lambda: None)
    with pytest.raises(NondeterminismError):
        never_look_without_a_loop()


async def test_a_test_that_fails_by_itself_keeps_its_own_error() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await never_look(fail)


async def test_a_drift_deep_in_a_long_history_is_found() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(drifts_late, 200)
        with pytest.raises(NondeterminismError) as caught:
            await handle.result()
        assert caught.value.seq > 400


async def test_a_deterministic_workflow_is_followed_through_hundreds_of_turns() -> None:
    async with WorkflowEnvironment() as env:
        assert await env.run(long_checked, 400) == 400


async def test_without_the_check_the_same_workflow_passes_which_is_why_there_is_one() -> None:
    async with WorkflowEnvironment(settings=Settings()) as env:
        handle = await env.start(packs_by_a_counter)
        await env.settle()
        await handle.raise_event("go")
        assert await handle.result() > 0


async def test_the_check_can_be_had_in_any_engine() -> None:
    async with Engine("memory://", settings=Settings(check_replay=True)) as engine:
        handle = await engine.start(packs_by_a_counter)
        with pytest.raises(NondeterminismError):
            await handle.result()
        with pytest.raises(NondeterminismError):
            await handle.result()


async def test_a_purged_or_replaced_instance_is_judged_anew() -> None:
    async with WorkflowEnvironment() as env:
        over = await env.start(ends_by_a_counter.options(instance_id="same"))
        with pytest.raises(NondeterminismError):
            await over.result()
        again = await env.start(long_checked.options(instance_id="same", on_conflict="replace"), 1)
        assert await again.result() == 1


async def test_a_payload_as_large_as_the_settings_allow_is_no_difference() -> None:
    limit_bytes = 3 * 1024 * 1024
    settings = Settings(check_replay=True, payload_limit_bytes=limit_bytes)

    @workflow
    async def big(ctx: Context) -> str:
        return "x" * (limit_bytes - 100)

    async with WorkflowEnvironment(settings=settings) as env:
        assert len(await env.run(big)) == limit_bytes - 100


async def test_an_instance_that_stalls_for_another_reason_says_so() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(asks_for_nobody)
        with pytest.raises(InstanceStalled, match="activity 'nobody' is not registered here"):
            await handle.result()


@workflow
async def asks_for_nobody(ctx: Context) -> None:
    await ctx.call_activity_by_name("nobody")

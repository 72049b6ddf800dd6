"""What users do wrong with children, rounds, requests, queries and repairs, and what they are told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from durableflow import (
    Client,
    Context,
    Engine,
    InstanceNotActive,
    RequestFailed,
    Settings,
    UsageError,
    Workflow,
    WorkflowFailed,
    activity,
    workflow,
)


@activity(retry=1, name="mistaken_add")
async def add(a: int, b: int) -> int:
    return a + b


@workflow(name="mistaken_child")
async def child(ctx: Context, number: int) -> int:
    return await ctx.call_activity(add, number, 1)


@workflow
async def calls_what_is_no_workflow(ctx: Context, which: str) -> Any:
    other: Any = {"activity": add, "name": "ship", "function": len}[which]
    return await ctx.call_workflow(other, 1)


@workflow
async def calls_a_workflow_as_activity(ctx: Context) -> Any:
    return await ctx.call_activity(cast("Any", child), 1)


@workflow
async def answers(ctx: Context, again: bool = False) -> str:
    @ctx.on_request("double")
    def double(number: int) -> int:
        return 2 * number

    @ctx.on_request("again")
    async def begin_again() -> None:
        await ctx.sleep(0)
        ctx.continue_as_new(again=True)

    @ctx.on_query("asks")
    def asks() -> None:
        ctx.sleep(1)

    ctx.set_custom_status("open")
    word = await ctx.wait_for_event("word", str)
    ctx.set_custom_status("closed")
    return word


@workflow
async def two_queries_of_a_name(ctx: Context) -> None:
    ctx.on_query("total")(lambda: 1)
    ctx.on_query("total")(lambda: 2)


@workflow
async def no_handler(ctx: Context) -> None:
    ctx.on_request("total")(cast("Any", 5))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory://", settings=Settings(check_replay=True)) as engine:
        yield engine


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("activity", r"takes a workflow, not <activity mistaken_add>; write ctx\.call_activity\(\.\.\.\)"),
        ("name", r"takes a workflow, not 'ship'; write ctx\.call_workflow_by_name\('ship', \.\.\.\)"),
        ("function", r"takes a workflow, not <built-in function len>; decorate it with @workflow"),
    ],
)
async def test_who_calls_no_workflow_is_told_what_to_write(engine: Engine, which: str, told: str) -> None:
    with pytest.raises(WorkflowFailed, match=told):
        await (await engine.start(calls_what_is_no_workflow, which)).result()


async def test_who_calls_a_workflow_as_an_activity_is_told_what_to_write(engine: Engine) -> None:
    with pytest.raises(WorkflowFailed, match=r"not <workflow mistaken_child v1>; write ctx\.call_workflow"):
        await (await engine.start(calls_a_workflow_as_activity)).result()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (two_queries_of_a_name, "has a handler for query 'total' already"),
        (no_handler, "request 'total' is answered by a function, not by 5"),
    ],
)
async def test_a_handler_that_is_none_is_refused_where_it_is_registered(
    engine: Engine, wrong: Workflow[[], None], told: str
) -> None:
    with pytest.raises(WorkflowFailed, match=told):
        await (await engine.start(wrong)).result()


async def test_a_handler_that_begins_anew_answers_with_what_is_wrong(engine: Engine) -> None:
    handle = await engine.start(answers)
    with pytest.raises(RequestFailed, match=r"continue_as_new works only in the workflow's own code"):
        await handle.request("again", timeout=5)
    assert await handle.request("double", 4, timeout=5) == 8, "the instance goes on"


async def test_a_query_that_asks_for_something_is_told_so(engine: Engine) -> None:
    handle = await engine.start(answers)
    with pytest.raises(UsageError, match="side effects or queries"):
        await handle.query("asks")


async def test_a_request_that_is_sent_again_when_all_is_over_gets_the_recorded_answer(engine: Engine) -> None:
    handle = await engine.start(answers)
    assert await handle.request("double", 4, request_id="one") == 8
    await handle.raise_event("word", "end")
    assert await handle.result() == "end"
    assert await handle.request("double", 4, request_id="one") == 8
    with pytest.raises(InstanceNotActive, match="is COMPLETED, so it cannot take request 'double'"):
        await handle.request("double", 4, request_id="two")


async def test_who_asks_and_gets_no_answer_before_the_end_is_told_so(engine: Engine) -> None:
    handle = await engine.start(answers)
    asked = asyncio.create_task(handle.request("nobody takes this"))
    await asyncio.sleep(0)
    assert await handle.request("double", 1) == 2, "which came after it"
    await handle.raise_event("word", "end")
    with pytest.raises(
        InstanceNotActive, match=r"is COMPLETED, .* a request any more: it ended before it had answered"
    ):
        await asked


async def test_a_query_by_the_code_of_another_workflow_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    async with Engine(url) as engine, Client(url) as client:
        await engine.start(answers.options(instance_id="one"))
        with pytest.raises(UsageError, match="'one' is of workflow 'answers', not of 'no_handler'"):
            await client.query("one", "asks", workflow=no_handler)


async def test_who_rewinds_to_an_event_that_is_not_there_is_told_which_are(engine: Engine) -> None:
    handle = await engine.start(child, cast("Any", "no number"))
    with pytest.raises(WorkflowFailed):
        await handle.result()
    with pytest.raises(UsageError, match=r"has no event #99 .* its latest round has #1 to #\d"):
        await handle.rewind(before=99)


async def test_a_fork_shows_the_custom_status_of_the_place_that_it_goes_on_from(engine: Engine) -> None:
    handle = await engine.start(answers)
    assert await handle.request("double", 1) == 2
    await handle.raise_event("word", "end")
    await handle.result()
    came = next(entry.seq for entry in await handle.history() if entry.kind == "event_received")
    fork = await handle.fork(at=came - 1)
    assert ((await fork.status()).custom_status, (await handle.status()).custom_status) == ("open", "closed")

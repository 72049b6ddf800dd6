"""The test kit and the blocking twin keep the types of what they stand for."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import assert_type

from durableflow import (
    BlockingClient,
    BlockingEngine,
    BlockingHandle,
    Context,
    InstanceStatus,
    Page,
    activity,
    workflow,
)
from durableflow.testing import BlockingEnvironment, Exploration, Outcome, WorkflowEnvironment, explore
from durableflow.testing.blocking import BlockingEnvironmentHandle
from durableflow.testing.environment import EnvironmentHandle


@activity
def double(number: int) -> int:
    return 2 * number


@activity
async def listed(number: int) -> list[int]:
    return [number]


@activity
async def nothing() -> None: ...


@workflow
async def shown(ctx: Context, number: int) -> str:
    return str(await ctx.call_activity(double, number))


async def listed_otherwise(number: int) -> list[int]:
    return [number, number]


def blocking(engine: BlockingEngine, client: BlockingClient) -> None:
    assert_type(engine.start(shown, 4), BlockingHandle[str])
    assert_type(engine.start(shown, 4).result(timeout=5), str)
    assert_type(engine.run(shown, 4), str)
    assert_type(engine.handle("id", shown).result(), str)
    assert_type(client.status("id"), InstanceStatus)
    assert_type(client.list(limit=5), Page)
    with BlockingEngine("memory://", workflows=[shown]) as opened:
        assert_type(opened, BlockingEngine)
    engine.start(shown, "four")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    engine.raise_event("id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.status("id", wait=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    BlockingEngine("memory://", clocks=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def plain_test(df: BlockingEnvironment) -> None:
    df.mock(double, returns=4)
    df.mock(listed, raises=[OSError(), None, OSError], returns=[4])
    df.mock(nothing, returns=None)
    df.mock(listed, calls=listed_otherwise)
    df.mock("elsewhere", returns=object())
    df.mock_workflow(shown, returns="four", takes=60)
    df.mock_workflow(shown, raises=ValueError)
    df.mock_workflow(double, returns=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(df.start(shown, 4), BlockingEnvironmentHandle[str])
    assert_type(df.start(shown, 4).result(), str)
    assert_type(df.run(shown, 4), str)
    df.advance(days=1)
    df.mock(double, returns="four")  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    df.mock(listed, returns=["four"])  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    df.mock(double, calls=listed_otherwise)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    df.run(shown, "four")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    df.advance(fortnights=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_test(env: WorkflowEnvironment) -> None:
    assert_type(await env.start(shown, 4), EnvironmentHandle[str])
    assert_type(await env.run(shown, 4), str)
    env.mock(double, returns="four")  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]


class Till:
    def double(self, number: int) -> int:
        return 2 * number


def check(till: Till, outcome: Outcome[str]) -> None:
    assert_type(outcome.result, str | None)


def check_alone(outcome: Outcome[str]) -> bool:
    return outcome.result == "4"


@contextmanager
def till() -> Generator[Till]:
    yield Till()


def exploring() -> None:
    assert_type(explore(shown, 4, world=Till, check=check, activities={double: Till.double}), Exploration)
    explore(shown, 4, world=till, check=check, always=lambda till: till.double(2) == 4)
    explore(shown, 4, check=check_alone, events=["go", ("go", 1)])
    explore(shown, 4, world=Till, check=lambda till, outcome: till.double(2) == 4 and outcome.result == "4")
    explore(shown, 4, check=check)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    explore(shown, 4, world=Till, check=check_alone)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    explore(listed, 4)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

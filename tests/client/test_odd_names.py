"""Names of every kind, in every place that takes one: memory, SQLite and Postgres give the same answers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from durableflow import Context, Cron, DurableflowError, Engine, Status, activity, workflow

pytestmark = pytest.mark.slow  # three stores are asked for everything

ODD = {
    "unicode": "żółw-Σ-日本-🐢",
    "combining": "e\u0301 and \u00e9",
    "right to left": "\u202eabc\u200f",
    "line breaks": "a\nb\r\nc\td",
    "control": "\x01\x1b[31m\x7f",
    "SQL": "x'; drop table instances; --",
    "SQL pattern": "%_\\%",
    "quotes": "'\"`\\",
    "braces": "{s}{0}%s$1",
    "path": "../../../etc/passwd",
    "Windows path": "C:\\CON\\..\\nul",
    "HTML": "<script>alert(1)</script>&amp;",
    "slash": "a/b/1",
    "looks like a child": "parent/1",
    "number": "12345678901234567890",
    "null": "null",
    "JSON": '{"a": [1]}',
    "array": '{"a","b"}',
    "spaces": "  a  ",
    "as long as can be": "\U0001f422" * 500,
    "NUL": "a\0b",
    "too long": "a" * 501,
    "10 kB": "ab" * 5_000,
    "lone surrogate": "a\ud800",
    "empty": "",
    "blank": " \t\n",
    "null itself": None,
    "not a text": 7,
    "bytes": b"a",
}
REFUSED = {"NUL", "too long", "10 kB", "lone surrogate", "empty", "blank", "null itself", "not a text", "bytes"}
CANNOT_BE_ASKED = {"NUL", "lone surrogate", "not a text", "bytes"}
"""Also as a part of a filter, which may be empty, or longer than what it looks for."""


@activity
async def echo(text: str) -> str:
    return text


@workflow
async def echoes(ctx: Context, text: str) -> list[str]:
    said = await ctx.call_activity(echo, text)
    return [ctx.instance_id, said, await ctx.wait_for_event(text, str)]


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_for_event("word")


@pytest.fixture(scope="module")
async def engines(
    tmp_path_factory: pytest.TempPathFactory, store_url: Callable[[object], str]
) -> AsyncIterator[dict[str, Engine]]:
    folder = tmp_path_factory.mktemp("odd")
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder / 'store.db'}", "postgres": store_url(folder)}
    known: dict[str, Any] = {"workflows": [echoes, waits], "activities": [echo]}
    async with AsyncExitStack() as stack:
        yield {kind: await stack.enter_async_context(Engine(url, **known)) for kind, url in urls.items()}


async def answer(call: Callable[[Engine], Awaitable[object]], engine: Engine) -> object:
    """What a call gives; of an error what its caller can act on."""
    try:
        return await call(engine)
    except DurableflowError as error:
        return type(error).__name__, str(error)
    except ValueError as error:
        return "ValueError", str(error)


async def answers(engines: dict[str, Engine], call: Callable[[Engine], Awaitable[object]]) -> object:
    """The one answer that all give."""
    given = {kind: await answer(call, engine) for kind, engine in engines.items()}
    assert given["memory"] == given["sqlite"] == given["postgres"], given
    return given["memory"]


@pytest.mark.parametrize("what", ODD)
async def test_an_instance_may_have_any_name_that_all_stores_can_hold(what: str, engines: dict[str, Engine]) -> None:
    name: Any = ODD[what]

    async def live(engine: Engine) -> object:
        handle = await engine.start(echoes.options(instance_id=name, tags={"key": name}), name)
        await handle.raise_event(name, name, event_id=name)
        result = await handle.result(timeout=20)
        (listed,) = (await engine.list(tags={"key": name})).instances
        ids = [entry.kind for entry in await engine.history(name)]
        return result, listed.instance_id, listed.status, ids, await engine.purge(name)

    given: Any = await answers(engines, live)
    if what in REFUSED:
        assert given[0] == "UsageError", given
    else:
        assert given[:3] == ([name, name, name], name, Status.COMPLETED)


@pytest.mark.parametrize("what", ODD)
async def test_whatever_is_asked_about_a_name_the_answer_is_a_documented_one(
    what: str, engines: dict[str, Engine]
) -> None:
    name: Any = ODD[what]
    calls: dict[str, Callable[[Engine], Awaitable[object]]] = {
        "status": lambda e: e.status(name),
        "result": lambda e: e.result(name, timeout=1),
        "history": lambda e: e.history(name),
        "view": lambda e: e.view(name),
        "raise_event": lambda e: e.raise_event(name, "word"),
        "suspend": lambda e: e.suspend(name),
        "terminate": lambda e: e.terminate(name),
        "cancel": lambda e: e.cancel(name),
        "rewind": lambda e: e.rewind(name),
        "fork": lambda e: e.fork(name, at=1),
        "restart": lambda e: e.restart(name),
        "purge": lambda e: e.purge(name),
        "request": lambda e: e.request(name, "ask", timeout=1),
        "query": lambda e: e.query(name, "ask"),
        "list": lambda e: e.list(workflow=name),
        "tags": lambda e: e.list(tags={"key": name}),
        "cursor": lambda e: e.list(cursor=name),
        "queue": lambda e: e.queue(name),
        "set_queue": lambda e: e.set_queue(name, concurrency=1),
        "pause_queue": lambda e: e.pause_queue(name),
        "complete": lambda e: e.complete(name, 1),
        "reset_circuit": lambda e: e.reset_circuit(name),
        "letters": lambda e: e.dead_letters.list(name=name),
        "letters of": lambda e: e.dead_letters.list(instance_id=name),
        "letter": lambda e: e.dead_letters.get(name),
        "letters' cursor": lambda e: e.dead_letters.list(cursor=name),
        "redrive": lambda e: e.dead_letters.redrive(name),
        "discard": lambda e: e.dead_letters.discard(name),
        "schedule": lambda e: e.schedules.get(name),
        "schedules": lambda e: e.schedules.list(cursor=name),
        "create": lambda e: created(e, name),
    }
    wrong: list[object] = []
    for asked, call in calls.items():
        given = {kind: await answer(call, engine) for kind, engine in engines.items()}
        (first, *others) = given.values()
        if others != [first, first]:
            wrong.append((asked, given))
        is_refused = isinstance(first, tuple) and first[0] in ("UsageError", "ValueError", "TokenRefused")
        if what in CANNOT_BE_ASKED and not is_refused:
            wrong.append((asked, first))
    assert not wrong, "\n".join(map(repr, wrong))


async def created(engine: Engine, name: str) -> object:
    view = await engine.schedules.create(name, Cron("0 0 1 1 *"), waits)
    await engine.schedules.delete(name)
    return view.id


@pytest.mark.parametrize("what", sorted(set(ODD) - REFUSED))
async def test_an_odd_name_is_that_of_one_instance_only(what: str, engines: dict[str, Engine]) -> None:
    """Its neighbour, whose name only looks alike, hears nothing of what is said to it."""
    name = ODD[what]
    assert isinstance(name, str)
    near = [name[:-1] + "\u00a0", name[:-1] + name[-1].swapcase() + "x", "%", "_"]

    async def live(engine: Engine) -> object:
        neighbours = [each[:500] for each in near if each[:500] != name and each.strip()]
        for each in [name, *neighbours]:
            await engine.start(waits.options(instance_id=each))
        await engine.terminate(name)
        return [(await engine.status(each)).status for each in [name, *neighbours]]

    given: Any = await answers(engines, live)
    assert given[0] is Status.TERMINATED
    assert Status.TERMINATED not in given[1:]

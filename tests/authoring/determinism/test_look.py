"""The walk goes everywhere in a workflow, and into the helpers that get its context."""

import functools
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from durableflow.authoring.determinism.look import HELPER_DEPTH_MAX

Look = Callable[..., Any]


@pytest.mark.parametrize(
    "body",
    [
        "def inner():\n    return time.time()\ninner()",
        "async def inner():\n    return time.time()",
        "key = lambda item: time.time()",
        "sorted(items, key=lambda item: time.time())",
        "[time.time() for item in items]",
        "{item: time.time() for item in items}",
        "class Inner:\n    at = time.time()",
        "f'{time.time()}'",
        "with order:\n    try:\n        pass\n    finally:\n        time.time()",
        "match order:\n    case [_, *rest] if time.time():\n        pass",
        "yield from ctx.call_activity(order, time.time())",
        "while (at := time.time()) < order:\n    pass",
        "return ctx.when_all([ctx.call_activity(order, at=time.time())])",
    ],
)
def test_it_is_found_however_deep_it_stands(in_body: Look, body: str) -> None:
    assert in_body(body, "import time").calls == ["time.time()"]


def test_a_coroutine_workflow_is_looked_at_as_a_generator_is(look: Look) -> None:
    source = """
        import asyncio
        @workflow
        async def wf(ctx):
            await asyncio.sleep(5)
            async for item in {1, 2}:
                pass
    """
    assert look(source).calls == ["asyncio.sleep(...)", "for item in {1, 2}"]


def test_a_default_that_each_process_works_out_anew_is_found(look: Look) -> None:
    source = """
        import time, uuid
        @workflow
        def wf(ctx, at=time.time(), *, key=uuid.uuid4()): pass
    """
    assert look(source).calls == ["time.time()", "uuid.uuid4()"]


def test_a_default_inside_a_function_is_left_alone_for_its_names_are_out_of_reach(look: Look) -> None:
    source = """
        import time
        def make(time):
            @workflow
            def wf(ctx, at=time.time()):
                return at
        class Clock:
            def time(self): return 7
        make(Clock())
    """
    assert look(source) == []


@pytest.mark.parametrize(
    "body",
    [
        "yield from ctx.side_effect(lambda: uuid.uuid4())",
        "yield from ctx.side_effect(uuid.uuid4)",
        "yield from ctx.side_effect(lambda: [uuid.uuid4() for _ in range(3)])",
        "def make():\n    return uuid.uuid4()\nyield from ctx.side_effect(make)",
    ],
)
def test_what_a_side_effect_records_is_left_alone(in_body: Look, body: str) -> None:
    assert in_body(body, "import uuid") == []


def test_a_function_that_is_recorded_once_and_called_once_is_found(in_body: Look) -> None:
    body = "def make():\n    return uuid.uuid4()\nctx.side_effect(make)\nmake()"
    assert in_body(body, "import uuid").calls == ["uuid.uuid4()"]


def test_a_helper_that_gets_the_context_is_looked_at(look: Look) -> None:
    source = """
        import time
        exec("def unseen(ctx): time.time()")
        def above(order, context): time.time()
        @workflow
        def wf(ctx, order):
            above(order, ctx)
            unseen(ctx)
            yield from below(order, c=ctx)
        def below(order, *, c):
            time.time_ns()
            yield
    """
    assert [(finding.call, finding.function) for finding in look(source)] == [
        ("time.time()", "above"),
        ("time.time_ns()", "below"),
    ]


def test_a_helper_of_a_helper_is_looked_at_under_the_name_it_gives_the_context(look: Look) -> None:
    source = """
        import time
        def last(c): time.time()
        def middle(c): last(c); other(ctx)
        def other(c): time.time_ns()
        @workflow
        def wf(ctx): middle(ctx)
    """
    assert look(source).calls == ["time.time()"]


def test_a_branch_given_to_spawn_is_looked_at(look: Look) -> None:
    source = """
        import time
        def branch(c, order):
            yield c.sleep(order)
            time.time()
        @workflow
        def wf(ctx, order):
            task = ctx.spawn(branch(ctx, order))
    """
    assert look(source).calls == ["time.time()"]


def test_a_helper_without_the_context_is_left_alone(look: Look) -> None:
    source = """
        import time
        def helper(order): time.time()
        @workflow
        def wf(ctx, order): helper(order)
    """
    assert look(source) == []


def test_helpers_that_call_each_other_in_a_circle_are_looked_at_once(look: Look) -> None:
    source = """
        import time
        def one(ctx): two(ctx)
        def two(ctx): one(ctx); time.time()
        @workflow
        def wf(ctx): one(ctx); two(ctx); wf(ctx)
    """
    assert look(source).calls == ["time.time()"]


def test_helpers_are_followed_so_deep_and_no_deeper(look: Look) -> None:
    deep = HELPER_DEPTH_MAX + 3
    chain = "\n".join(f"def h{n}(ctx): time.time(); h{n + 1}(ctx)" for n in range(deep))
    source = f"import time\n{chain}\n@workflow\ndef wf(ctx): h0(ctx)\n"
    assert len(look(source)) == HELPER_DEPTH_MAX


def test_a_helper_of_another_module_is_left_alone(look: Look) -> None:
    assert look("@workflow\ndef wf(ctx): helper(ctx)", helper=lambda ctx: None) == []
    assert look("@workflow\ndef wf(ctx): helper(ctx)", helper=textwrap.dedent) == []


def test_an_activity_is_not_looked_into(look: Look) -> None:
    class Activity:
        def __init__(self, fn: Callable[..., object]) -> None:
            functools.update_wrapper(self, fn)

    source = """
        import time
        @activity
        def above(ctx): time.time()
        @workflow
        def wf(ctx):
            above(ctx)
            below(ctx)
            ctx.call_activity(above, ctx)
        @activity
        def below(ctx): time.time()
    """
    assert look(source, activity=Activity) == []

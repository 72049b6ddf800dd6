"""`@workflow`: what it takes, what it makes of it."""

from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from durableflow import Context, Flow, PayloadError, UsageError, workflow
from durableflow.authoring.workflow import StartOptions, Workflow
from durableflow.errors import RegistrationError

SECOND = 1_000_000


def test_a_bare_and_a_called_decorator_make_the_same() -> None:
    @workflow
    def bare(ctx: Context, x: int) -> Flow[str]:
        """Says it."""
        yield from ()
        return str(x)

    @workflow(name="other", version=3, timeout=60)
    async def called(ctx: Context, x: int) -> str:
        return str(x)

    assert (bare.name, bare.version, bare.start_options) == ("bare", 1, StartOptions())
    assert (bare.__name__, bare.__doc__, repr(bare)) == ("bare", "Says it.", "<workflow bare v1>")
    assert (called.name, called.version, called.start_options.timeout_us) == ("other", 3, 60 * SECOND)


def test_a_plain_call_is_the_function_for_unit_tests() -> None:
    @workflow
    def plain(ctx: Context, x: int, *, y: int = 1) -> int:
        return x + y

    assert plain(None, 1, y=2) == 3


async def _agen(ctx: Context) -> Any:
    yield 1


class Callable_:  # noqa: N801  # a callable, for once
    def __call__(self, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (_agen, "is an async generator; write async def with await, or def with yield from"),
        (Callable_(), "@workflow wraps functions, not "),
        (5, "@workflow wraps functions, not 5"),
        (lambda: 0, "has no parameter for its context; write: def <lambda>"),
        (lambda *, ctx: 0, "has no parameter for its context"),
        (lambda **kw: 0, "has no parameter for its context"),
    ],
    ids=["async generator", "callable", "number", "no parameter", "keyword only", "keywords"],
)
def test_what_cannot_run_is_refused_at_decoration(wrong: Any, text: str) -> None:
    with pytest.raises(RegistrationError, match=text):
        Workflow(wrong, name="x")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"version": 0}, "version is 0, but versions count from 1"),
        ({"version": 2**31}, "version is 2147483648, but versions count from 1 to 2,147,483,647"),
        ({"timeout": -1}, "timeout is -1"),
        ({"name": ""}, "the name of a workflow is empty"),
    ],
)
def test_definitions_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, UsageError), match=text):

        @workflow(**options)
        def flow(ctx: Context) -> None: ...


def test_start_options_ride_on_a_copy_and_add_up() -> None:
    @workflow(timeout=60)
    def flow(ctx: Context) -> None: ...

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    one = flow.options(instance_id="i", tags={"a": "b"}, start_at=moment)
    two = one.options(start_delay=timedelta(seconds=5), timeout=1, on_conflict="fail")
    assert one.start_options == StartOptions("i", {"a": "b"}, 1_767_312_000 * SECOND, 0, 60 * SECOND)
    assert two.start_options == StartOptions(
        "i", {"a": "b"}, 1_767_312_000 * SECOND, 5 * SECOND, 1 * SECOND, on_conflict="fail"
    )
    assert flow.start_options == StartOptions(timeout_us=60 * SECOND)
    assert (two.name, two.function) == (flow.name, flow.function)
    assert two.options(tags={}).start_options.tags == {}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"instance_id": ""}, "the instance id is empty"),
        ({"instance_id": "a\0b"}, "contains NUL"),
        ({"instance_id": 5}, "must be a string, not 5"),
        ({"tags": {"": "x"}}, "a tag's name is empty"),
        ({"tags": {"x": 1}}, "the value of tag 'x' must be a string, not 1"),
        ({"start_at": datetime(2026, 1, 1)}, "start_at is .* which has no time zone"),  # noqa: DTZ001  # the mistake
        ({"start_delay": -1}, "start_delay is -1"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"on_conflict": "ignore"}, "on_conflict is 'ignore', but must be 'return', 'fail' or 'replace'"),
    ],
)
def test_start_options_out_of_range_are_refused_by_name(options: dict[str, Any], text: str) -> None:
    @workflow
    def flow(ctx: Context) -> None: ...

    with pytest.raises((ValueError, UsageError), match=text):
        flow.options(**options)


def _generator(ctx: Context) -> Flow[Decimal]:
    yield from ()
    return Decimal(1)


def _handed_on(ctx: Context) -> Flow[Decimal]:
    return _generator(ctx)


def _spelled_out(ctx: Context) -> Generator[Any, Any, Decimal]:
    yield from ()
    return Decimal(1)


async def _coroutine(ctx: Context) -> Decimal:
    return Decimal(1)


def _coroutine_handed_on(ctx: Context) -> Coroutine[Any, Any, Decimal]:
    return _coroutine(ctx)


def _plain(ctx: Context) -> Decimal:
    return Decimal(1)


def _silent(ctx: Context):  # type: ignore[no-untyped-def]  # what happens without annotations
    yield


def _vague(ctx: Context) -> Any:
    yield


@pytest.mark.parametrize(
    "function",
    [_generator, _handed_on, _spelled_out, _coroutine, _coroutine_handed_on, _plain],
    ids=lambda function: function.__name__,
)
def test_a_result_is_read_back_as_what_the_function_returns_in_the_end(function: Callable[..., Any]) -> None:
    assert Workflow(function).load_result(b'"1.5"') == Decimal("1.5")


@pytest.mark.parametrize("function", [_silent, _vague], ids=lambda function: function.__name__)
def test_without_an_annotation_a_result_is_plain_json(function: Callable[..., Any]) -> None:
    assert Workflow(function).load_result(b'"1.5"') == "1.5"


def _unresolvable(source: str) -> Workflow[..., Any]:
    names: dict[str, Any] = {"__name__": "elsewhere"}
    header = "from __future__ import annotations\nfrom decimal import Decimal\n"
    exec(compile(header + source, "elsewhere.py", "exec"), names)
    return Workflow(names["flow"])


def test_a_context_known_to_type_checkers_only_is_no_hindrance() -> None:
    flow = _unresolvable("def flow(ctx: Context, x: Decimal) -> Decimal: return x")
    data = flow.arguments.dump((Decimal("1.5"),), {}, "the input")
    assert flow.arguments.load(data)[0] == (Decimal("1.5"),)
    assert flow.load_result(data[1:-1]) == Decimal("1.5")


@pytest.mark.parametrize(
    "source",
    ["def flow(ctx, order: Order) -> Decimal: ...", "def flow(ctx, order) -> Flow[Decimal]: ..."],
    ids=["argument", "result"],
)
def test_a_payload_type_known_to_type_checkers_only_is_told_to_whoever_starts_it(source: str) -> None:
    with pytest.raises(PayloadError, match=r"annotations of flow cannot be resolved: .*not only under TYPE_CHECKING"):
        _unresolvable(source).arguments.dump((1,), {}, "the input")

"""Strategies for hypothesis: what they make can be stored, and is what the annotations say."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from durableflow import Context, NondeterminismError, RetryPolicy, UsageError, activity, workflow
from durableflow.model import converter
from durableflow.testing import History, explore, replay, strategies
from durableflow.testing.histories import load_history


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Extra(TypedDict, total=False):
    note: str


@dataclass
class Item:
    name: str
    cents: int = 0
    tags: list[str] = field(default_factory=list)
    parts: list[Item] = field(default_factory=list)


@attrs.define
class Parcel:
    weight: float
    extra: Extra | None = None


class Shelf(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=1, le=9)]
    label: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")] = "AB"


class Customer(pydantic.BaseModel):
    age: int = pydantic.Field(ge=18, le=130, alias="years")
    mail: str = "a@b.c"


OrderId = NewType("OrderId", str)

KINDS: list[Any] = [
    bool, int, float, str, bytes, type(None), Any, object, dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID,
    decimal.Decimal, list, dict, list[int], set[str], frozenset[int], tuple[int, str], tuple[float, ...],
    dict[str, list[bool]], Mapping[str, int], Sequence[str], int | None, Literal["a", 1], Colour, Point, Extra, Item,
    Parcel, Shelf, Customer, OrderId, Annotated[float, msgspec.Meta(gt=0.5)],
    Annotated[str, msgspec.Meta(max_length=3)], Annotated[list[int], msgspec.Meta(max_length=2)],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_of_a_type_are_read_back_as_they_were_stored(kind: Any) -> None:
    @settings(max_examples=25)
    @given(strategies.values(kind))
    def check(value: Any) -> None:
        data = converter.dump(value)
        back = converter.loader(kind)(data)
        assert converter.dump(back) == data
        if kind not in {Any, object, list, dict}:
            assert back == value

    check()


@pytest.mark.slow
def test_bounds_and_validation_are_kept_and_all_of_a_type_is_reached() -> None:
    assert find(strategies.values(Shelf), lambda shelf: shelf.number == 9).label == "AB"
    assert find(strategies.values(Customer), lambda customer: customer.age > 100).mail == "a@b.c"
    assert find(strategies.values(Item), lambda item: bool(item.parts)).parts[0].parts == []
    assert find(strategies.values(Colour | None), lambda colour: colour is None) is None


def test_what_nothing_is_known_of_is_refused_by_name() -> None:
    class Odd:
        pass

    with pytest.raises(UsageError, match=r"nothing is known of values of type .*Odd.*pass a strategy of your own"):
        strategies.values(Odd)


@activity
def put(item: Item, count: int = 1) -> None: ...


@workflow
async def sell(ctx: Context, item: Item, count: int = 1, *notes: str, fast: bool = False) -> int:
    await ctx.call_activity(put, item, count)
    return len(notes)


@pytest.mark.slow
@settings(max_examples=50)
@given(strategies.inputs_of(sell))
def test_inputs_of_a_workflow_are_arguments_that_it_takes(inputs: tuple[Any, ...]) -> None:
    item, *rest = inputs
    assert isinstance(item, Item)
    assert rest == [] or isinstance(rest[0], int)
    assert all(isinstance(note, str) for note in rest[1:])
    explore(sell, *inputs, crashes=0)


@workflow
async def tally(ctx: Context, start: int, count: int = 1, *more: int) -> None: ...


@pytest.mark.slow
def test_optional_and_further_arguments_are_sometimes_given() -> None:
    for length in (1, 2, 4):
        assert find(strategies.inputs_of(tally), lambda inputs, n=length: len(inputs) == n) == (0,) * length  # type: ignore[misc]


@pytest.mark.slow
def test_a_parameter_may_have_a_strategy_of_its_own() -> None:
    seven = st.just(7)
    assert find(strategies.inputs_of(tally, count=seven), lambda inputs: len(inputs) > 1) == (0, 7)
    assert find(strategies.inputs_of(put, count=seven), lambda inputs: len(inputs) > 1)[1] == 7
    with pytest.raises(UsageError, match="<workflow tally v1> has no parameter 'cuont'"):
        strategies.inputs_of(tally, cuont=seven)


def test_a_parameter_that_must_be_passed_by_keyword_is_told_of() -> None:
    @workflow
    async def flow(ctx: Context, *, cents: int) -> int:
        return cents

    with pytest.raises(UsageError, match=r"'cents' .* is passed by keyword.*kwargs=\{'cents': \.\.\.\}"):
        strategies.inputs_of(flow)
    explore(flow, kwargs={"cents": 7}, check=lambda outcome: outcome.result == 7)


@given(strategies.retry_policies(max_attempts=4), strategies.seeds())
def test_retry_policies_and_seeds_are_such_as_can_be_used(policy: RetryPolicy, seed: int) -> None:
    assert 1 <= policy.max_attempts <= 4
    assert put.options(retry=policy).stored_options is not None
    assert seed >= 0


@pytest.mark.slow
@settings(max_examples=30)
@given(strategies.events({"approved": bool, "note": str}, max_size=3))
def test_events_are_such_as_can_be_sent(events: list[tuple[str, Any]]) -> None:
    @workflow
    async def flow(ctx: Context) -> list[Any]:
        return [await ctx.wait_for_event(name, type(payload)) for name, payload in events]

    told: list[Any] = []
    explore(flow, events=events, crashes=0, check=lambda outcome: told.append(outcome.result))
    assert told == [[payload for _, payload in events]] * len(told) != []


@pytest.mark.slow
def test_events_may_be_given_by_their_names_alone() -> None:
    assert find(strategies.events(["go"]), lambda events: len(events) == 2) == [("go", None), ("go", None)]


@workflow
async def fetch(ctx: Context, count: int) -> list[int]:
    return await ctx.when_all([ctx.call_activity(double, number) for number in range(count)])


@activity
def double(x: int) -> int:
    return 2 * x


counts = st.tuples(st.integers(0, 3))


@pytest.mark.slow
@settings(max_examples=40)
@given(strategies.histories_of(fetch, counts))
def test_histories_are_those_of_whole_stories(history: History) -> None:
    report = replay(fetch, history, every_prefix=True)
    assert report.status.is_terminal


def test_a_history_shrinks_to_the_usual_story(tmp_path: Any) -> None:
    found = find(strategies.histories_of(fetch, counts), lambda history: len(history.rows[0].events) > 2)
    assert [len(row.events) for row in found.rows] == [3, 1, 2]
    found.save(tmp_path / "found.jsonl")
    assert load_history(tmp_path / "found.jsonl").events == found.events


@pytest.mark.slow
def test_code_that_cannot_go_on_with_yesterdays_histories_is_found_out() -> None:
    def tomorrow() -> Any:
        @workflow
        async def fetch(ctx: Context, count: int) -> list[int]:
            return [await ctx.call_activity(double, number) for number in range(count)]

        return fetch

    @settings(max_examples=100)
    @given(strategies.histories_of(fetch, counts))
    def check(history: History) -> None:
        replay(tomorrow(), history)

    with pytest.raises(NondeterminismError, match="recorded activity 'double'"):
        check()


@pytest.mark.slow
def test_without_hypothesis_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["hypothesis"] = None
try:
    from durableflow.testing import strategies
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "durableflow.testing.strategies needs hypothesis: pip install hypothesis\n"

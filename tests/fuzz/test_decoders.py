"""Whatever the bytes: each decoder gives what they say, or the one error that its documentation names, and soon.

Each is given whole inputs first (so that the seeds are real), then thousands of spoiled ones.
"""

import dataclasses
import enum
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiled import BINARY, TEXT, only, spoiled

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import ScheduleRow
from durableflow.backends.stores import open_backend
from durableflow.cli import main
from durableflow.errors import (
    CorruptHistory,
    CorruptSchedule,
    DurableflowError,
    PayloadError,
    TokenRefused,
    UsageError,
)
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.schedule import Calendar, Cron, Schedule
from durableflow.model.schedule_state import ScheduleState
from durableflow.model.tokens import new_token, read_token
from durableflow.runtime.exports import arrivals_in
from durableflow.runtime.firings import load_state
from durableflow.runtime.tasks import dump_options, load_options
from durableflow.testing.histories import History, Row, load_histories, replay

pytestmark = pytest.mark.slow  # thousands of inputs each

GOLDEN = sorted((Path(__file__).parents[1] / "histories").glob("v*/*.jsonl"))
ROWS = [
    bytes.fromhex(line.split()[2])
    for path in GOLDEN
    for line in path.with_suffix(".rows").read_text(encoding="ascii").splitlines()
]
SAVED = [path.read_bytes() for path in GOLDEN if path.stat().st_size < 3_000]
MANY = settings(max_examples=1_500)
SOME = settings(max_examples=400)


class Color(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Order:
    item: str
    count: int = 1
    parts: list["Order"] | None = None


class Point(msgspec.Struct):
    x: float
    names: dict[str, int] = {}


class Model(pydantic.BaseModel):
    n: int
    s: str = "a"


STATE = ScheduleState(
    schedule=Schedule(Cron("30 2 * * mon-fri", tz="Europe/Berlin")),
    workflow="w",
    version=1,
    input=b"[]",
    created_us=0,
    changed_us=0,
    cursor_us=0,
    slot_us=None,
)
A_SCHEDULE = msgspec.json.encode(STATE)
TYPES: list[Any] = [
    Any, int, float, str, bytes, bool, None, list[int], tuple[int, str], dict[str, int], dict[int, str], set[str],
    Order, Point, Model, Color, uuid.UUID, Decimal, datetime, date, time, timedelta, list[Order], int | str | None,
    frozenset[int], Literal["a", 1], list[Any],
]  # fmt: skip
PAYLOADS = [
    b"[1,2]", b'{"item":"x","count":2}', b'"2020-01-01T00:00:00Z"', b'"r"', b"null", b"1.5", b'"P1D"',
    b'{"x":1.0,"names":{"a":1}}', b'[[1,2],{"a":[]}]', b'"12345678-1234-5678-1234-567812345678"', b'{"n":1}',
    b'"aGVsbG8="', b'{"item":"x","parts":[{"item":"y"}]}',
]  # fmt: skip


def takes(a: int, b: str = "x", *rest: float, flag: bool = False, **named: list[int]) -> Order: ...


# -- what a store holds -----------------------------------------------------------------------------------------------


@MANY
@given(spoiled(ROWS, BINARY))
def test_a_row_is_read_or_is_no_row(data: bytes) -> None:
    only(msgspec.DecodeError, lambda: ev.load_events(data))
    only(msgspec.DecodeError, lambda: ev.load_event(data[1:]))


@SOME
@given(spoiled(ROWS, BINARY), st.data())
def test_a_history_with_a_spoiled_row_is_followed_or_refused(
    workflows: dict[str, Workflow[..., Any]], data: bytes, drawn: st.DataObject
) -> None:
    """The code of its workflow never sees what could not be, nor does anything of ours break on it."""
    history = load_histories(drawn.draw(st.sampled_from(GOLDEN)))[0]
    rows = list(history.rows)
    at = drawn.draw(st.integers(0, len(rows) - 1))
    events = only(msgspec.DecodeError, lambda: ev.load_events(data))
    if isinstance(events, list) and events:
        rows[at] = Row(rows[at].first_seq, rows[at].at_us, events)
        program = workflows[history.started.workflow]
        only(DurableflowError, lambda: replay(program, History(history.instance_id, rows)))


@MANY
@given(spoiled(PAYLOADS, TEXT), st.sampled_from(TYPES))
def test_a_payload_is_of_its_type_or_does_not_fit(data: bytes, kind: Any) -> None:
    only(PayloadError, lambda: converter.loader(kind)(data))


@MANY
@given(spoiled([b'[1,"x",1.5]', b'{"args":[1],"kwargs":{"flag":true,"more":[1]}}', b"[]"], TEXT))
def test_arguments_fit_their_function_or_do_not(data: bytes) -> None:
    only(PayloadError, lambda: converter.Arguments(takes).load(data))


@SOME
@given(spoiled([dump_options(ev.ActivityOptions()), dump_options(None)], BINARY))
def test_the_options_of_a_task_are_read_or_are_none(data: bytes) -> None:
    class Task:
        options = data

    only(msgspec.DecodeError, lambda: load_options(Task()))  # type: ignore[arg-type]


@SOME
@given(spoiled([A_SCHEDULE], TEXT))
def test_a_schedule_is_read_or_is_corrupt(data: bytes) -> None:
    only(CorruptSchedule, lambda: load_state(ScheduleRow("s", 1, None, data)))


# -- what people and programs hand over -------------------------------------------------------------------------------


@MANY
@given(spoiled([new_token("instance", 1, 1, 5)[0].encode()], TEXT))
def test_a_token_is_read_or_is_none(data: bytes) -> None:
    only(TokenRefused, lambda: read_token(data.decode("utf-8", "surrogateescape")))


URLS = [
    b"sqlite:///a.db", b"sqlite:////tmp/a.db?power_loss_safe=true", b"memory://",
    b"postgresql://u:p@h:5432/d?schema=x&pooler=transaction", b"postgres://h/d?listen=postgresql://x",
]  # fmt: skip


@MANY
@given(spoiled(URLS, TEXT))
def test_a_url_names_a_store_or_is_refused(data: bytes) -> None:
    only(UsageError, lambda: open_backend(data.decode("utf-8", "surrogateescape")))


@SOME
@given(st.lists(spoiled([b"move", b"migrate", b"--abort", b"sqlite:///", b"demo"], TEXT), max_size=3))
def test_words_on_the_command_line_are_understood_or_not(words: list[bytes]) -> None:
    argv = [word.decode("utf-8", "surrogateescape") for word in words]
    if argv and argv[0] in ("demo", "move", "migrate"):
        argv[0] += "?"  # what these words do has tests of its own; here they are not to be done
    ended = only(SystemExit, lambda: main(argv))
    assert ended in (0, 2) or (isinstance(ended, SystemExit) and ended.code in (0, 2))


FIELDS = ["*", "*/0", "*/1", "60", "0", "1-5", "5-1", "L", "#", "5#3", "mon", "MON-fri", "W", "?", "feb", "31", "2"]
ODD_FIELDS = ["1,2,", "/", "-", "*/61", "0-59/7", "\uff11", "\u00b2", "", "\0", "1-", "L-3", "0#6", "-1", "*/-1", "1e3"]
PARTS = st.sampled_from(FIELDS + ODD_FIELDS)
ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "",
        "../etc/passwd",
        "/etc/passwd",
        "Europe",
        "\0",
        "é",
        "UTC\n",
        "a" * 5_000,
        ".",
        7,
        None,
    ]
)
MOMENTS = st.sampled_from([0, -(10**15), 10**15, 253_370_764_800_000_000, 1_717_171_717_000_000])


@MANY
@given(st.lists(PARTS, min_size=4, max_size=7).map(" ".join) | st.text(max_size=30), ZONES, MOMENTS)
def test_a_cron_expression_has_a_next_slot_or_none_or_is_refused(text: str, zone: Any, moment_us: int) -> None:
    made = only(UsageError, lambda: Cron(text, tz=zone))
    if isinstance(made, Cron):
        slot_us = only((), lambda: made.after(moment_us))
        assert slot_us is None or slot_us > moment_us


ANYTHING = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(-40, 40), max_size=4)


@SOME
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["months", "days", "weekdays", "at"], ANYTHING)), ZONES, MOMENTS
)
def test_a_calendar_has_a_next_slot_or_none_or_is_refused(given_: dict[str, Any], zone: Any, moment_us: int) -> None:
    made = only((UsageError, TypeError), lambda: Calendar(tz=zone, **given_))
    if isinstance(made, Calendar):
        slot_us = only((), lambda: made.after(moment_us))
        assert slot_us is None or slot_us > moment_us


# -- files ------------------------------------------------------------------------------------------------------------


@SOME
@given(spoiled(SAVED, TEXT))
def test_a_saved_history_is_read_or_is_corrupt(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    only(CorruptHistory, lambda: load_histories(file))


@SOME
@given(st.data())
def test_an_export_is_read_or_is_corrupt(an_export: bytes, drawn: st.DataObject) -> None:
    data = drawn.draw(spoiled([an_export], TEXT))
    only(CorruptHistory, lambda: list(arrivals_in(data.splitlines(), "file")))


def test_what_was_not_spoiled_is_read(
    an_export: bytes, file: Path, workflows: dict[str, Workflow[..., Any]], check: Callable[[object], None]
) -> None:
    """Else the seeds would be spoiled before they are."""
    for row in ROWS:
        check(ev.load_events(row))
    for saved in SAVED:
        file.write_bytes(saved)
        check(load_histories(file))
    check(list(arrivals_in(an_export.splitlines(), "file")))
    check(load_state(ScheduleRow("s", 1, None, A_SCHEDULE)) == STATE)
    check(load_options(type("Task", (), {"options": dump_options(ev.ActivityOptions())})()))
    assert all(load_histories(path)[0].started.workflow in workflows for path in GOLDEN)

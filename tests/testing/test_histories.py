"""Histories as stories, as files, and replayed without a store."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import (
    ActivityFailed,
    ChildFailed,
    Context,
    Engine,
    EventTimeout,
    Flow,
    NondeterminismError,
    RetryPolicy,
    Status,
    UsageError,
    activity,
    workflow,
)
from durableflow.core.view import HistoryEvent
from durableflow.errors import CorruptHistory, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.model.converter import PAYLOAD_LIMIT_BYTES, digest
from durableflow.model.failure import Failure
from durableflow.model.retry import StoredRetry
from durableflow.testing import (
    History,
    WorkflowEnvironment,
    load_histories,
    load_history,
    replay,
    replay_directory,
    save_history,
)
from durableflow.testing.histories import (
    Row,
    activity_retried,
    attempt_failed,
    attempt_started,
    cancel_requested,
    checkpoint_taken,
    child_called,
    child_completed,
    child_failed,
    completed,
    continued_as_new,
    custom_status,
    event_awaited,
    event_received,
    failed,
    instance_cancelled,
    instance_completed,
    instance_failed,
    message_answered,
    message_sent,
    queued,
    request_answered,
    request_received,
    resumed,
    rewound,
    scheduled,
    side_effect,
    started,
    suspended,
    task_cancelled,
    terminated,
    timer_created,
    timer_fired,
)


@activity(retry=RetryPolicy(max_attempts=2, initial=5.0))
async def fetch_story(name: str) -> str:
    return name


@workflow
async def story(ctx: Context, name: str) -> str:
    text = await ctx.call_activity(fetch_story, name)
    try:
        ending = await ctx.wait_for_event("Ending", str, timeout=timedelta(hours=1))
    except EventTimeout:
        return f"{text}, unfinished"
    await ctx.sleep(60)
    return f"{text}, {ending}"


@workflow
async def story_of_all(ctx: Context) -> None:
    ctx.set_custom_status({"chapter": 1})
    side = ctx.side_effect(lambda: 7)
    given_up = ctx.create_timer(side)
    given_up.cancel()
    try:
        await ctx.call_activity(fetch_story, "b")
    except ActivityFailed:
        ctx.set_custom_status("over")
        raise


def told() -> History:
    """From its start to its end, with a retry and an early event on the way."""
    return (
        History("s-1")
        .turn(started(story, "tale"), scheduled(1, fetch_story, "tale"))
        .turn(event_received("ENDING", "happily"), after=1)
        .turn(attempt_failed(1, OSError("busy"), retry_after=5), after=1)
        .turn(attempt_started(1, 2), after=5)
        .turn(completed(1, "tale", attempt=2), event_awaited(2, "ending", timeout=3600), timer_created(3, 60), after=1)
        .turn(timer_fired(3), instance_completed("tale, happily"), after=60)
    )


# -- stories ----------------------------------------------------------------------------------------------------------


def test_a_story_replays_and_the_report_says_what_was_matched() -> None:
    report = replay(story, told())
    assert (report.status, report.turns, report.events, report.decisions) == (Status.COMPLETED, 6, 10, 4)


def test_every_beginning_of_a_story_replays_too() -> None:
    history = told()
    statuses = [replay(story, history.until(turns)).status for turns in range(1, 7)]
    assert statuses == [Status.RUNNING] * 5 + [Status.COMPLETED]
    assert replay(story, history, every_prefix=True).turns == 6


def test_a_story_with_every_other_word_replays() -> None:
    error = ActivityFailed("fetch_story", "OSError", "busy", "", 2)
    history = (
        History("s-2")
        .turn(
            started(story_of_all),
            custom_status({"chapter": 1}),
            side_effect(1, 7),
            timer_created(2, 7),
            task_cancelled(2),
            scheduled(3, fetch_story, "b"),
            queued(3),
        )
        .turn(suspended("a pause"))
        .turn(attempt_started(3, 1), after=3)
        .turn(failed(3, OSError("busy"), attempts=1), after=1)
        .turn(resumed(), custom_status("over"), instance_failed(_as_recorded(error)), after=timedelta(days=1))
    )
    assert replay(story_of_all, history).status is Status.FAILED
    ended_by_order = History("s-3").turn(started(story, "t"), scheduled(1, fetch_story, "t")).turn(terminated("enough"))
    assert replay(story, ended_by_order).status is Status.TERMINATED
    cancelled = (
        History("s-4")
        .turn(started(story, "t"), scheduled(1, fetch_story, "t"))
        .turn(cancel_requested("enough"), instance_cancelled("enough"))
    )
    assert replay(story, cancelled).status is Status.CANCELLED


def _as_recorded(error: ActivityFailed) -> ActivityFailed:
    error.args = (str(error).replace("2 attempts", "1 attempt"),)
    return error


async def test_a_story_is_what_the_engine_records() -> None:
    """Written by hand or by an engine: the same events in the same turns."""
    async with WorkflowEnvironment() as env:
        env.mock(fetch_story, returns="tale")
        handle = await env.start(story.options(instance_id="s-1"), "tale")
        await env.advance(hours=1)
        recorded = await handle.saved_history()
    written = (
        History("s-1")
        .turn(started(story, "tale"), scheduled(1, fetch_story, "tale"))
        .turn(completed(1, "tale"), event_awaited(2, "ending", timeout=3600))
        .turn(timer_fired(2), instance_completed("tale, unfinished"), after=3600)
    )
    assert recorded.rows == written.rows


# -- what replay refuses ----------------------------------------------------------------------------------------------


def test_another_decision_than_the_recorded_one_is_named() -> None:
    history = History("s-5").turn(started(story, "tale"), scheduled(1, fetch_story, "another tale"))
    with pytest.raises(NondeterminismError) as caught:
        replay(story, history)
    assert (caught.value.seq, caught.value.instance_id) == (2, "s-5")
    assert caught.value.location.startswith(__file__)


async def test_what_was_too_large_when_it_was_recorded_is_so_in_replay() -> None:
    """Whether it was caught or not; and what was let through under a higher limit is let through."""

    @workflow
    async def too_large(ctx: Context, catch: bool) -> str:
        try:
            await ctx.call_activity_by_name("fetch", "x" * (PAYLOAD_LIMIT_BYTES + 1))
        except PayloadTooLarge:
            if not catch:
                raise
        return "caught"

    async with Engine("memory://", workflows=[too_large]) as engine:
        for catch in (True, False):
            handle = await engine.start(too_large.options(instance_id=f"{catch}"), catch)
            await handle.wait_for_status(Status.COMPLETED if catch else Status.FAILED)
            replay(too_large, History.of(handle.id, await handle.history()))
    higher = History(
        "i", [Row(1, 0, [ev.InstanceStarted("too_large", 1, b"[true]"), _scheduled("x" * (PAYLOAD_LIMIT_BYTES + 1))])]
    )
    replay(too_large, higher)


def _scheduled(argument: str) -> ev.ActivityScheduled:
    data = msgspec.json.encode([argument])
    return ev.ActivityScheduled(1, "fetch", data, digest(data))


def test_a_history_that_cannot_be_is_refused() -> None:
    with pytest.raises(CorruptHistory, match="cannot follow what came before it"):
        replay(story, told().until(4).turn(completed(1, "late", attempt=1)))
    with pytest.raises(CorruptHistory, match="does not begin with its start"):
        replay(story, History("s-6").turn(timer_fired(1)))
    with pytest.raises(CorruptHistory, match="does not begin with its start"):
        replay(story, History("s-6"))


def test_the_code_must_be_of_the_name_and_version_that_are_recorded() -> None:
    @workflow(name="story", version=2)
    async def newer(ctx: Context, name: str) -> str:
        return name

    with pytest.raises(CorruptHistory, match="begun by version 1 of workflow 'story', but the code here is version 2"):
        replay(newer, told())
    with pytest.raises(UsageError, match="is of workflow 'story', not of 'story_of_all'"):
        replay(story_of_all, told())


def test_a_replay_calls_nothing_but_the_workflow() -> None:
    calls = list[str]()

    @activity
    def effect() -> None:
        calls.append("effect")

    @workflow
    async def has_effect(ctx: Context) -> None:
        try:
            await ctx.call_activity(effect)
        finally:
            ctx.set_custom_status("put away")

    history = History("s-7").turn(started(has_effect), scheduled(1, effect))
    assert replay(has_effect, history, every_prefix=True).status is Status.RUNNING
    assert calls == []


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_readable_and_gives_the_history_back(tmp_path: Path) -> None:
    path = tmp_path / "story.jsonl"
    told().save(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"durableflow_history": 1, "instance_id": "s-1", "workflow": "story", "version": 1}
    assert lines[1] == {
        "seq": 1, "turn": 1, "at": "2030-01-01T00:00:00.000000+00:00", "kind": "instance_started",
        "workflow": "story", "version": 1, "input": ["tale"], "format": ev.FORMAT,
    }  # fmt: skip
    assert lines[3]["payload"] == "happily"
    assert len(lines) == 11
    loaded = load_history(path)
    assert (loaded.instance_id, loaded.rows) == ("s-1", told().rows)
    assert replay(None, path).path == path


def test_turns_at_the_same_moment_stay_apart(tmp_path: Path) -> None:
    """Two turns without a decision between them look like one, but for the number of the turn."""
    history = told().until(1).turn(event_received("a", 1)).turn(event_received("b", 2)).turn(event_received("c", 3))
    assert [row.at_us for row in history.rows] == [history.rows[0].at_us] * 4
    history.save(tmp_path / "h.jsonl")
    assert [row.first_seq for row in load_history(tmp_path / "h.jsonl").rows] == [1, 3, 4, 5]


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ).map(msgspec.json.encode),
    st.sampled_from(
        [b"1.0", b"1e0", b'{"a": 1}', b'{"$text":"1"}', b'{"$base64":"AA=="}', b'{"$text":1}', b'"\\u00e9"', b"-0", b"",
         b'{"a":1,"a":2}', b"12345678901234567890123", b"null", b"\xff"]
    ),
)  # fmt: skip
TEXTS = st.text(max_size=20)
NUMBERS = st.integers(0, 2**62)
FAILURES = st.recursive(
    st.builds(Failure, TEXTS, TEXTS, TEXTS), lambda inner: st.builds(Failure, TEXTS, TEXTS, TEXTS, inner), max_leaves=3
)
RETRIES = st.builds(
    StoredRetry, NUMBERS, NUMBERS, st.floats(1, 10), NUMBERS, st.floats(0, 1), st.lists(TEXTS, max_size=2).map(tuple)
)
OPTIONS = st.builds(ev.ActivityOptions, st.none() | RETRIES, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
BY_FIELD: dict[object, st.SearchStrategy[object]] = {
    str: TEXTS,
    int: NUMBERS,
    bool: st.booleans(),
    bytes: PAYLOADS,
    Failure: FAILURES,
    ev.ActivityOptions: OPTIONS,
    dict[str, str]: st.dictionaries(TEXTS, TEXTS, max_size=2),
    type(None): st.none(),
}


def field_of(annotation: object) -> st.SearchStrategy[object]:
    if get_origin(annotation) is tuple:
        return st.lists(field_of(get_args(annotation)[0]), max_size=2).map(tuple)
    if annotation in BY_FIELD:
        return BY_FIELD[annotation]
    if get_args(annotation):
        return st.one_of(*(field_of(part) for part in get_args(annotation)))
    assert isinstance(annotation, type)
    assert issubclass(annotation, msgspec.Struct)
    return st.builds(annotation, **fields_of(annotation))


def fields_of(kind: type[msgspec.Struct]) -> dict[str, st.SearchStrategy[object]]:
    return {field.name: field_of(field.type) for field in msgspec.structs.fields(kind)}


EVENTS = st.one_of(*(st.builds(kind, **fields_of(kind)) for kind in get_args(ev.Event)))


@pytest.mark.slow
@given(rows=st.lists(st.lists(EVENTS, min_size=1, max_size=4), max_size=4))
def test_every_event_comes_back_from_a_file_byte_for_byte(
    rows: list[list[ev.Event]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    history = History("any").turn(ev.InstanceStarted("w", 1, b"[]"))
    for row in rows:
        history.turn(*row, after=0.000001)
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    history.save(path)
    loaded = load_history(path)
    assert [ev.dump_events(row.events) for row in loaded.rows] == [ev.dump_events(row.events) for row in history.rows]
    assert [row[:2] for row in loaded.rows] == [row[:2] for row in history.rows]


def test_events_of_an_engine_are_saved_with_the_name_of_their_instance(tmp_path: Path) -> None:
    path = tmp_path / "story.jsonl"
    save_history(path, told().events, instance_id="s-1")
    assert load_history(path).rows == told().rows
    with pytest.raises(UsageError, match="instance_id="):
        save_history(path, told().events)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda events: events[1:], id="the first is gone"),
        pytest.param(lambda events: events[:3] + events[4:], id="one is gone"),
        pytest.param(lambda events: [*events[:2], events[2], *events[2:]], id="one is there twice"),
        pytest.param(lambda events: [msgspec.structs.replace(e, first_seq=0) for e in events], id="no turns"),
        pytest.param(
            lambda events: [events[0], msgspec.structs.replace(events[1], at_us=0), *events[2:]],
            id="two times in one turn",
        ),
    ],
)
def test_events_that_are_no_history_are_not_saved(
    spoil: Callable[[list[HistoryEvent]], list[HistoryEvent]], tmp_path: Path
) -> None:
    with pytest.raises(CorruptHistory, match="must follow"):
        save_history(tmp_path / "h.jsonl", spoil(told().events), instance_id="s-1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "text", "says"),
    [
        (1, "{}", "line 1: this is not the beginning"),
        (1, '{"durableflow_history":99,"instance_id":"x"}', "line 1: this is not the beginning"),
        (1, "hello", "line 1: this is not a line"),
        (3, "[1]", "line 3: this is not a line"),
        (3, "{}", "line 3: this is no event"),
        (3, '{"seq":2,"turn":1,"at":"2030-01-01T00:00:00+00:00","kind":"not_yet_known"}', "line 3: this is no event"),
        (
            3,
            '{"seq":2,"turn":1,"at":"2030-01-01T00:00:00+00:00","kind":"timer_fired","task":1,"colour":"red"}',
            "unknown fields",
        ),
        (3, '{"seq":2,"turn":1,"at":"2030-01-01T00:00:00+00:00","kind":"timer_fired","task":"one"}', "Expected `int`"),
        (3, '{"seq":2,"turn":1,"at":"2030-01-01T00:00:00","kind":"timer_fired","task":1}', "no time zone"),
        (3, '{"seq":9,"turn":1,"at":"2030-01-01T00:00:00+00:00","kind":"timer_fired","task":1}', "#2 must follow"),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_its_line(line: int, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    told().save(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(CorruptHistory, match=says):
        load_history(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_bytes(b"")
    with pytest.raises(CorruptHistory, match="line 1"):
        load_history(tmp_path / "h.jsonl")


# -- directories ------------------------------------------------------------------------------------------------------


def test_a_directory_of_histories_is_replayed_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    told().save(tmp_path / "a.jsonl")
    told().until(3).save(tmp_path / "deep" / "b.jsonl")
    reports = replay_directory(tmp_path, story)
    assert [(report.path, report.turns) for report in reports] == [
        (tmp_path / "a.jsonl", 6),
        (tmp_path / "deep" / "b.jsonl", 3),
    ]
    assert replay_directory(tmp_path) == reports


def test_all_files_that_do_not_replay_are_named_at_once(tmp_path: Path) -> None:
    told().save(tmp_path / "a.jsonl")
    History("x").turn(started(story, "t"), scheduled(1, "other", "t")).save(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("?", encoding="utf-8")
    with pytest.raises(ExceptionGroup, match="2 of 3 histories") as caught:
        replay_directory(tmp_path)
    first, second = caught.value.exceptions
    assert isinstance(first, NondeterminismError)
    assert first.__notes__ == [f"in {tmp_path / 'b.jsonl'}"]
    assert isinstance(second, CorruptHistory)


def test_an_empty_directory_is_no_passed_test(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was replayed"):
        replay_directory(tmp_path)


def test_a_workflow_that_was_not_imported_is_asked_for(tmp_path: Path) -> None:
    @workflow
    async def unheard_of(ctx: Context) -> None: ...

    History("x").turn(started(unheard_of), instance_completed()).save(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="'unheard_of', which is not known here"):
        replay(None, tmp_path / "x.jsonl")
    assert replay(unheard_of, tmp_path / "x.jsonl").status is Status.COMPLETED


# -- others, rounds, rewinds ------------------------------------------------------------------------------------------


@workflow
async def tower(ctx: Context, floor: int) -> int:
    built = ctx.restore(int) or 0

    @ctx.on_request("height")
    def height() -> int:
        if built > 5:
            raise ValueError("too high")
        return floor * 10 + built

    if not built:
        await ctx.call_workflow(story.options(instance_id="cellar", parent_close="abandon"), "deep")
        await ctx.raise_event("neighbour", "noise", floor)
        built = await ctx.wait_for_event("stone", int)
        ctx.checkpoint(built)
    await ctx.wait_for_event("night")
    if floor == 0:
        ctx.continue_as_new(1)
    raise ValueError("it fell")


def built() -> History:
    """Two floors, the second of which falls, is mended, and falls again."""
    history = History("t-1")
    for floor, night in ((0, 4), (1, 8)):
        if floor == 0:
            history.turn(started(tower, 0), child_called(1, CELLAR, "deep"))
        else:
            history.next_round(child_called(5, CELLAR, "deep"))
        history.turn(
            child_completed(night - 3, "a story"), message_sent(night - 2, "neighbour", event_received("noise", floor))
        )
        history.turn(request_received(f"r{floor}", "height"), request_answered(f"r{floor}", floor * 10))
        history.turn(message_answered(night - 2), event_awaited(night - 1, "stone"))
        history.turn(event_received("stone", floor + 7), checkpoint_taken(floor + 7))
        history.next_round(event_awaited(night, "night"), request_ids=[f"r{known}" for known in range(floor + 1)])
        if floor == 0:
            history.turn(event_received("night"), continued_as_new(tower, 1))
    history.turn(event_received("night"), instance_failed(ValueError("it fell")))
    failed_at = history.rows[-1].first_seq
    begun, *_ = history.rounds[-1]
    history.turn(rewound(failed_at, "mended"))
    history.turn(*begun.events)
    history.turn(event_received("night"), instance_failed(ValueError("it fell")))
    return history


CELLAR = story.options(instance_id="cellar", parent_close="abandon")


def test_a_story_of_rounds_is_followed_in_its_latest_one_or_in_each() -> None:
    history = built()
    assert len(history.rounds) == 5
    report = replay(tower, history)
    assert (report.status, report.turns, report.events, report.decisions) == (Status.FAILED, 2, 4, 2)
    report = replay(tower, history, every_prefix=True, every_round=True)
    assert (report.status, report.turns) == (Status.FAILED, len(history.rows) - 1)
    with pytest.raises(UsageError, match="no round begins here"):
        history.next_round()


def test_a_change_of_an_earlier_round_is_noticed_when_it_is_asked_for() -> None:
    @workflow(name="tower")
    async def changed(ctx: Context, floor: int) -> int:
        if floor == 0:
            await ctx.sleep(5)
        if ctx.restore(int) is None:
            await ctx.sleep(1)
        await ctx.wait_for_event("night")
        raise ValueError("it fell")

    assert replay(changed, built()).turns == 2, "what an engine would need"
    with pytest.raises(NondeterminismError, match="recorded child workflow 'story' as 'cellar'"):
        replay(changed, built(), every_round=True)


def test_rounds_and_rewinds_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tower.jsonl"
    built().save(path)
    assert load_history(path).rows == built().rows
    (line,) = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if '"instance_rewound"' in line
    ]
    assert (line["seq"], line["seq_"], line["reason"]) == (line["turn"], line["seq"] - 2, "mended")
    assert replay_directory(tmp_path, tower)[0].turns == 2


def test_other_ends_of_children_and_requests_are_written_too() -> None:
    @workflow
    async def asks(ctx: Context) -> str:
        def refuse() -> None:
            raise ValueError("no")

        ctx.on_request("r")(refuse)
        try:
            await ctx.call_workflow(story, "x")
        except ChildFailed as error:
            return str(error.status)
        return "?"

    history = (
        History("a-1")
        .turn(started(asks), child_called(1, story, "x"))
        .turn(request_received("1", "r"), request_answered("1", error=ValueError("no")))
        .turn(child_failed(1, OSError("gone"), status="TERMINATED"), instance_completed("TERMINATED"))
    )
    assert replay(asks, history, every_prefix=True).status is Status.COMPLETED
    fetched = (
        History("a-2")
        .turn(started(story, "t"), scheduled(1, fetch_story, "t"))
        .turn(activity_retried(1, 1))
        .turn(attempt_started(1, 2))
    )
    assert replay(story, fetched).status is Status.RUNNING


async def test_a_history_of_rounds_by_an_engine_replays(tmp_path: Path) -> None:
    @workflow
    def laps(ctx: Context, n: int) -> Flow[int]:
        done = ctx.restore(int) or 0
        while done < 3:
            yield from ctx.sleep(1)
            done += 1
            ctx.checkpoint(done)
        yield from ctx.sleep(1)
        return n if n == 2 else ctx.continue_as_new(n + 1)

    async with WorkflowEnvironment() as env:
        handle = await env.start(laps, 0)
        await env.advance(minutes=1)
        assert await handle.result() == 2
        assert (await handle.assert_replays()).status is Status.COMPLETED
        recorded = await handle.saved_history()
    assert len(recorded.rounds) == 12
    assert replay(laps, recorded, every_prefix=True, every_round=True).turns == len(recorded.rows)


# -- exports ----------------------------------------------------------------------------------------------------------


async def test_an_export_is_replayed_like_saved_histories(tmp_path: Path) -> None:
    @workflow
    async def naps(ctx: Context, seconds: int) -> str:
        await ctx.sleep(seconds)
        return "awake"

    path = tmp_path / "all.jsonl"
    async with WorkflowEnvironment() as env:
        handles = [await env.start(naps.options(instance_id=f"nap-{n}"), n) for n in (1, 2)]
        assert [await handle.result() for handle in handles] == ["awake", "awake"]
        histories = [await handle.saved_history() for handle in handles]
        await env.engine.export_instances(path, ["nap-1", "nap-2"])
        await env.engine.export_instances(tmp_path / "one.jsonl", ["nap-1"])
    assert [each.events for each in load_histories(path)] == [each.events for each in histories]
    assert load_history(tmp_path / "one.jsonl").events == histories[0].events
    with pytest.raises(CorruptHistory, match="holds 2 histories"):
        load_history(path)
    reports = replay_directory(tmp_path, naps)
    assert [(report.instance_id, report.path) for report in reports] == [
        ("nap-1", path), ("nap-2", path), ("nap-1", tmp_path / "one.jsonl"),
    ]  # fmt: skip
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(ExceptionGroup, match="1 of 2 histories"):
        replay_directory(tmp_path, naps)

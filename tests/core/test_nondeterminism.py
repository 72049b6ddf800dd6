"""Code that does not ask for what its history records: told, with place and line, and nothing is harmed."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from stories import Story, number, other, work

from durableflow import Context, NondeterminismError, Status
from durableflow.errors import ReplayError
from durableflow.model import events as ev

Live = Callable[..., Story]
HERE = re.escape(__file__)


def recorded(ctx: Context) -> Any:
    a = yield from ctx.call_activity(work, [1])
    yield from ctx.sleep(5)
    b = yield from ctx.wait_for_event("answer", timeout=60)
    side = ctx.side_effect(lambda: 7)
    ctx.set_custom_status("here")
    task = ctx.call_activity(other)
    task.cancel()
    c = yield from ctx.call_activity(work, "last")
    return [a, b, side, c]


@pytest.fixture
def story(live: Live) -> Story:
    """Five turns: start, result, timer, event, result."""
    told = live(recorded)
    told.complete(1)
    told.wait(5)
    told.event("answer", 42)
    told.complete(6, "end")
    assert told.status is Status.COMPLETED
    return told


def disagreement(story: Story, changed: Callable[..., Any]) -> NondeterminismError:
    with pytest.raises(NondeterminismError) as caught:
        story.replayed(changed)
    return caught.value


def lines_of(function: Callable[..., Any]) -> range:
    first = function.__code__.co_firstlineno
    return range(first, max(line for *_, line in function.__code__.co_lines() if line) + 1)


def changed_from(text: str, becomes: str) -> Callable[..., Any]:
    """The recorded workflow with one piece of its source changed, at the lines where it stands here."""
    import inspect

    source, first = inspect.getsourcelines(recorded)
    code = "".join(source)
    assert code.count(text) == 1
    names = {"work": work, "other": other, "number": number, "Context": Context, "Any": Any}
    exec(compile("\n" * (first - 1) + code.replace(text, becomes), __file__, "exec"), names)
    flow: Callable[..., Any] = names["recorded"]  # type: ignore[assignment]
    return flow


@pytest.mark.parametrize(
    ("text", "becomes", "seq", "was", "asked", "line"),
    [
        pytest.param("work, [1]", "other, [1]", 2, "activity 'work' [[1]]", "activity 'other' [[1]]", 1, id="name"),
        pytest.param("work, [1]", "work, [2]", 2, "activity 'work' [[1]]", "activity 'work' [[2]]", 1, id="input"),
        pytest.param(
            "ctx.call_activity(work, [1])", "ctx.sleep(1)", 2, "activity 'work' [[1]]", "timer due", 1, id="kind"
        ),
        pytest.param(
            "    yield from ctx.sleep(5)", "    ctx.call_activity(other)\n    yield from ctx.sleep(5)",
            4, "timer due 2027-01-15 08:00:05.000000", "activity 'other' []", 2, id="another before",
        ),
        pytest.param("sleep(5)", "sleep(6)", 4, "timer due 2027-01-15 08:00:05.000000",
                     "timer due 2027-01-15 08:00:06.000000", 2, id="due time"),
        pytest.param('"answer"', '"question"', 6, "wait for event 'answer' until 2027-01-15 08:01:05.000000",
                     "wait for event 'question' until 2027-01-15 08:01:05.000000", 3, id="event name"),
        pytest.param("timeout=60", "timeout=None", 6, "wait for event 'answer' until 2027-01-15 08:01:05.000000",
                     "wait for event 'answer'", 3, id="event timeout"),
        pytest.param("ctx.side_effect(lambda: 7)", "7", 8, "side effect", 'custom status "here"', 5,
                     id="no side effect"),
        pytest.param('"here"', '"there"', 9, 'custom status "here"', 'custom status "there"', 5, id="custom status"),
        pytest.param('ctx.set_custom_status("here")', "pass", 9, 'custom status "here"', "activity 'other' []", 6,
                     id="no custom status"),
        pytest.param("task.cancel()", "pass", 11, "cancelling of task 5", "activity 'work' [\"last\"]", 8,
                     id="no cancel"),
        pytest.param("[a, b, side, c]", "[a, b]", 14, 'completion with [null,42,7,"end"]', "completion with [null,42]",
                     0, id="result"),
        pytest.param("return [a, b, side, c]", "raise LookupError(a)", 14, 'completion with [null,42,7,"end"]',
                     "failure with LookupError: None", 9, id="failure"),
        pytest.param('    ctx.set_custom_status("here")', "    yield from ctx.sleep(0)", 9, 'custom status "here"',
                     "timer due 2027-01-15 08:00:05.000000", 5, id="sleeps instead"),
    ],
)  # fmt: skip
def test_a_difference_is_named_with_its_place_in_history_and_in_the_code(
    story: Story, text: str, becomes: str, seq: int, was: str, asked: str, line: int
) -> None:
    error = disagreement(story, changed_from(text, becomes))
    assert (error.seq, error.recorded) == (seq, was)
    assert error.asked.startswith(asked)
    assert error.location == f"{__file__}:{recorded.__code__.co_firstlineno + line}"
    for part in ("history #", repr(story.instance_id), "'recorded'", was, asked, error.location, "code change"):
        assert part in str(error)


def test_a_decision_too_many_is_told_with_the_place_where_the_record_ends(live: Live) -> None:
    def short(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    def long(ctx: Context) -> Any:
        ctx.call_activity(work)
        yield from ctx.call_activity(other)

    error = disagreement(live(short), long)
    assert (error.seq, error.recorded, error.asked) == (3, "nothing more", "activity 'other' []")
    assert error.location == f"{__file__}:{long.__code__.co_firstlineno + 2}"


def test_a_decision_too_few_is_told_with_the_line_where_the_code_waits(live: Live) -> None:
    def two(ctx: Context) -> Any:
        ctx.call_activity(work)
        yield from ctx.call_activity(other)

    def inner(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    def one(ctx: Context) -> Any:
        yield from inner(ctx)

    error = disagreement(live(two), one)
    assert (error.seq, error.recorded, error.asked) == (3, "activity 'other' []", "no more in this turn")
    assert error.location == f"{__file__}:{inner.__code__.co_firstlineno + 1}"


def test_code_that_ends_too_early_or_never_began_to_wait_is_told_with_its_definition(live: Live) -> None:
    def waits(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    def plain(ctx: Context) -> Any:
        return 5

    error = disagreement(live(waits), plain)
    assert (error.recorded, error.asked) == ("activity 'work' []", "completion with 5")
    assert error.location == f"{__file__}:{plain.__code__.co_firstlineno}"


async def _deep(ctx: Context) -> Any:
    return await ctx.call_activity(other)


@pytest.mark.parametrize("swallow", [Exception, BaseException])
def test_code_that_swallows_exceptions_cannot_hide_it(live: Live, swallow: type[BaseException]) -> None:
    def was(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    over: list[bool] = []

    def generator(ctx: Context) -> Any:
        while not over:
            try:
                yield from ctx.call_activity(other)
            except swallow:
                ctx.is_cancelled  # noqa: B018

    async def coroutine(ctx: Context) -> Any:
        try:
            return await _deep(ctx)
        except swallow:
            return "all is well"

    def plain(ctx: Context) -> Any:
        try:
            ctx.call_activity(other)
        except swallow:
            return "all is well"

    def last_words(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(other)
        finally:
            yield from ctx.call_activity(work)

    story = live(was)
    for flow in (generator, coroutine, plain, last_words):
        error = disagreement(story, flow)
        over.append(True)  # else Python would complain, rightly, when it collects the generator
        assert (error.recorded, error.asked) == ("activity 'work' []", "activity 'other' []")
        assert re.fullmatch(HERE + r":\d+", error.location)


def test_code_that_swallows_everything_for_ever_is_left_at_its_next_wait(live: Live) -> None:
    def was(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    calls: list[int] = []

    def stubborn(ctx: Context) -> Any:
        while len(calls) < 100_000:
            calls.append(1)
            with suppress(BaseException):
                yield from ctx.call_activity(other)

    disagreement(live(was), stubborn)
    assert len(calls) < 100_000
    calls += [1] * 100_000


def test_the_mended_code_goes_on_where_the_changed_one_stood(story: Story) -> None:
    cut = story.rows[:3]
    with pytest.raises(NondeterminismError):
        story.replayed(changed_from('"answer"', '"question"'), cut)
    again = story.replayed(recorded, cut)
    turn = again.advance([ev.EventReceived("answer", b"1")], now_us=story.now_us)
    assert isinstance(turn.events[0], ev.EventReceived)
    again.put_away()


def test_changes_that_replay_the_same_are_free(story: Story) -> None:
    """Options, names of local things, more computing: nothing that the history records."""
    renamed = changed_from("call_activity(work, [1])", "call_activity(work.options(retry=9), [3 - 2])")
    story.replayed(renamed).put_away()


def test_a_recorded_retry_policy_holds_for_calls_that_are_open(live: Live) -> None:
    def was(ctx: Context) -> Any:
        yield from ctx.call_activity(work.options(retry=9))

    def now(ctx: Context) -> Any:
        yield from ctx.call_activity(work.options(retry=2))

    again = live(was).replayed(now)
    options = again.activities[1].options
    assert options is not None
    assert options.retry is not None
    assert options.retry.max_attempts == 9
    again.put_away()


def test_equal_inputs_are_equal_in_whatever_order_a_dict_was_filled(live: Live) -> None:
    def was(ctx: Context) -> Any:
        yield from ctx.call_activity(work, {"b": {"y": 1, "x": 2}, "a": 0})

    def now(ctx: Context) -> Any:
        yield from ctx.call_activity(work, {"a": 0, "b": {"x": 2, "y": 1}})

    live(was).replayed(now).put_away()


def test_a_failure_is_known_by_its_type_because_messages_may_hold_addresses(live: Live) -> None:
    def returns_what_cannot_be_stored(ctx: Context) -> Any:
        return object()

    story = live(returns_what_cannot_be_stored)
    assert "0x" in story.failure.message
    story.replayed().put_away()

    def raises_another(ctx: Context) -> Any:
        raise LookupError

    assert disagreement(story, raises_another).asked == "failure with LookupError: "


def test_dice_and_time_do_not_hide_a_change(live: Live) -> None:
    def was(ctx: Context) -> Any:
        yield from ctx.call_activity(work, ctx.random().random())

    def now(ctx: Context) -> Any:
        ctx.random().random()
        yield from ctx.call_activity(work, ctx.random().random())

    assert disagreement(live(was), now).seq == 2


def test_it_is_a_replay_error_so_that_callers_stall_and_do_not_fail(story: Story) -> None:
    assert isinstance(disagreement(story, changed_from("sleep(5)", "sleep(6)")), ReplayError)


def test_a_difference_in_a_branch_is_found_too(live: Live) -> None:
    def branch(ctx: Context, activity: Any) -> Any:
        yield from ctx.call_activity(work)
        yield from ctx.call_activity(activity)

    def was(ctx: Context) -> Any:
        yield from ctx.spawn(branch(ctx, work))

    def now(ctx: Context) -> Any:
        yield from ctx.spawn(branch(ctx, other))

    story = live(was)
    story.complete(1)
    error = disagreement(story, now)
    assert error.location == f"{__file__}:{branch.__code__.co_firstlineno + 2}"

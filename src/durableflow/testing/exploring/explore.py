"""`explore`: what a test calls, and what it gets or is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, overload

import msgspec

from durableflow.authoring.workflow import Workflow
from durableflow.errors import ReplayError, UsageError
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import from_datetime
from durableflow.model.ids import check_name
from durableflow.testing.clock import START
from durableflow.testing.exploring.casting import Cast
from durableflow.testing.exploring.outcome import Outcome
from durableflow.testing.exploring.search import Check, Choose, Problem, Search, Turnings
from durableflow.testing.exploring.silence import silence
from durableflow.testing.exploring.story import Plot, Story
from durableflow.testing.exploring.timeline import TracedStory
from durableflow.testing.histories import History

R = TypeVar("R")
W = TypeVar("W")

Arrival: TypeAlias = str | tuple[str, Any] | ev.Observation
"""An external event: its name, its name and payload, or one of the words of `durableflow.testing.histories`."""

_TURNING: Final = re.compile(r"(?P<position>\d+): (?P<name>.*?)(?=; \d+: |$)", re.DOTALL)


class Exploration(msgspec.Struct, frozen=True):
    """What was explored, and nothing was found wrong.

    Attributes:
        workflow: its name.
        stories: how many were told.
        orders: how many stories those stand for: two in which the same has happened, in an order that nobody can
            notice, are told once from there on.
        crashes: how many crashes there were in those that were told.
        states: how many different states they went through.
        exhaustive: whether these are all stories that there are, with as many crashes and failures as were allowed.
        total: how many stories there are: `orders` of an exhaustive exploration, else an estimate by the sample.
        depth: all stories that leave the usual way at most so often were told.
        sampled: how many were drawn beyond that.
        seed: of the dice that they were drawn with.
    """

    workflow: str
    stories: int
    orders: int
    crashes: int
    states: int
    exhaustive: bool
    total: int
    depth: int
    sampled: int
    seed: int

    def __str__(self) -> str:
        told = f"{self.workflow}: {self.stories:,} stories with {self.crashes:,} crashes"
        if self.exhaustive:
            return f"{told}, which stand for all {self.orders:,} that there are"
        return (
            f"{told}, of about {self.total:.2g}: all with at most {self.depth} star{'s' * (self.depth != 1)}, "
            f"and {self.sampled:,} drawn with seed {self.seed}"
        )


class StoryFailed(AssertionError):
    """A story breaks what must hold; the message is its timeline.

    Attributes:
        story: names it, for `explore(..., story=...)`.
        reason: what is wrong.
        timeline: what happened, move by move.
        stories: how many were told before it was found.
        outcome: what came of it.
        world: as the story left it.
    """

    def __init__(
        self, story: str, reason: str, timeline: str, stories: int, outcome: Outcome[Any] | None, world: Any
    ) -> None:
        self.story = story
        self.reason = reason
        self.timeline = timeline
        self.stories = stories
        self.outcome = outcome
        self.world = world
        found = f"(the smallest of {stories:,} stories)" if stories else "(this story alone)"
        again = f"to tell this story alone: explore(..., story={story!r})"
        super().__init__(f"{reason}\n\n{timeline}\n\n{found} {again}")


@overload
def explore(
    workflow: Workflow[..., R],
    /,
    *args: object,
    world: Callable[[], AbstractContextManager[W]],
    check: Callable[[W, Outcome[R]], object] | None = ...,
    always: Callable[[W], object] | None = ...,
    activities: Mapping[Any, Callable[..., Any]] = ...,
    events: Sequence[Arrival] = ...,
    crashes: int = ...,
    failures: int = ...,
    late: bool = ...,
    must_end: bool = ...,
    fingerprint: Callable[[W], Hashable] | None = ...,
    kwargs: Mapping[str, object] = ...,
    stories: int = ...,
    moves: int = ...,
    seed: int = ...,
    start: datetime = ...,
    story: str | None = ...,
) -> Exploration: ...
@overload
def explore(
    workflow: Workflow[..., R],
    /,
    *args: object,
    world: Callable[[], W],
    check: Callable[[W, Outcome[R]], object] | None = ...,
    always: Callable[[W], object] | None = ...,
    activities: Mapping[Any, Callable[..., Any]] = ...,
    events: Sequence[Arrival] = ...,
    crashes: int = ...,
    failures: int = ...,
    late: bool = ...,
    must_end: bool = ...,
    fingerprint: Callable[[W], Hashable] | None = ...,
    kwargs: Mapping[str, object] = ...,
    stories: int = ...,
    moves: int = ...,
    seed: int = ...,
    start: datetime = ...,
    story: str | None = ...,
) -> Exploration: ...
@overload
def explore(
    workflow: Workflow[..., R],
    /,
    *args: object,
    world: None = ...,
    check: Callable[[Outcome[R]], object] | None = ...,
    activities: Mapping[Any, Callable[..., Any]] = ...,
    events: Sequence[Arrival] = ...,
    crashes: int = ...,
    failures: int = ...,
    late: bool = ...,
    must_end: bool = ...,
    kwargs: Mapping[str, object] = ...,
    stories: int = ...,
    moves: int = ...,
    seed: int = ...,
    start: datetime = ...,
    story: str | None = ...,
) -> Exploration: ...
def explore(
    workflow: Workflow[..., Any],
    /,
    *args: object,
    world: Callable[[], Any] | None = None,
    check: Callable[..., object] | None = None,
    always: Callable[[Any], object] | None = None,
    activities: Mapping[Any, Callable[..., Any]] | None = None,
    events: Sequence[Arrival] = (),
    crashes: int = 1,
    failures: int = 0,
    late: bool = True,
    must_end: bool = True,
    fingerprint: Callable[[Any], Hashable] | None = None,
    kwargs: Mapping[str, object] | None = None,
    stories: int = 10_000,
    moves: int = 1_000,
    seed: int = 0,
    start: datetime = START,
    story: str | None = None,
) -> Exploration:
    """Have a workflow live through every crash and every order of what comes back, each time in a fresh world.

    A story is one life of an instance. Where several things can come next (activities that run side by side and end, a
    time-out, a timer, an external event, a crash), there is a story for each. Those that leave the usual way least
    often come first, so that what is found is found in its simplest form. Activities are called for real: those of
    the workflow, or what is given instead.

    Args:
        workflow: with its options, if it has any.
        args: its arguments.
        world: makes what the activities act on, afresh for each story; a context manager is entered and left.
        check: called at the end of each story with the world and the `Outcome` (with the outcome alone if there is no
            world). What it raises, or False, fails the story.
        always: the same for the world alone, after each move.
        activities: functions that are called instead of activities, which are given as themselves or by name; with the
            world first, if there is one, and then the arguments: `{charge: FakeBank.charge}`.
        events: what is sent to the instance, each at every moment. Those of one name come in this order.
        crashes: how many crashes a story may have.
        failures: how many attempts a story may let fail, before or after they have worked.
        late: whether an attempt that timed out, or that the workflow gave up, may still work later.
        must_end: whether it is a failure when nothing more can happen and the instance is not over.
        fingerprint: something hashable that is equal for worlds in which everything goes on alike. Without it, worlds
            are taken to differ when activities have worked in another order.
        kwargs: arguments that are given by name.
        stories: how many are told at most; a fifth of them are drawn by lot when that is not enough for all.
        moves: a story that is longer is a failure.
        seed: of the dice.
        start: the moment at which each story begins.
        story: tell this one alone, by the name that `StoryFailed` gave it.

    Raises:
        StoryFailed: with the smallest story that fails, as a timeline.
        UsageError: something cannot be explored: an activity that is not known, that hands itself over or needs the
            store's connection; a story that goes another way when it is told again.
    """
    __tracebackhide__ = True
    telling = Telling(
        workflow,
        args,
        kwargs=kwargs or {},
        world=world,
        check=check,
        always=always,
        activities=activities or {},
        events=events,
        crashes=crashes,
        failures=failures,
        late=late,
        must_end=must_end,
        fingerprint=fingerprint,
        moves=moves,
        start=start,
    )
    search = telling.search
    sampled = 0
    try:
        with silence():
            if story is not None:
                problem = search.tell(_turnings_of(search, story))
            else:
                problem = search.tell_all(stories - stories // 5)
                if problem is None and not search.is_exhausted:
                    sampled = stories // 5
                    problem = search.draw(sampled, seed)
        if problem is not None:
            raise _failure(search, problem, search.stories if story is None else 0) from problem.error
    finally:
        telling.close()
    exhaustive = search.is_exhausted
    orders = search.count() if exhaustive else max(search.count(), search.stories)
    total = orders if exhaustive else max(search.estimate(), orders)
    return Exploration(
        workflow.name,
        search.stories,
        orders,
        search.crashes,
        search.states,
        exhaustive,
        total,
        search.deepest,
        sampled,
        seed,
    )


class Telling:
    """A workflow and all that its stories have in common, ready to be told; arguments as of `explore`."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        args: tuple[object, ...],
        *,
        kwargs: Mapping[str, object] = MappingProxyType({}),
        world: Callable[[], Any] | None = None,
        check: Callable[..., object] | None = None,
        always: Callable[[Any], object] | None = None,
        activities: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
        events: Sequence[Arrival] = (),
        crashes: int = 1,
        failures: int = 0,
        late: bool = True,
        must_end: bool = True,
        fingerprint: Callable[[Any], Hashable] | None = None,
        moves: int = 1_000,
        start: datetime = START,
    ) -> None:
        if world is None and (always is not None or fingerprint is not None):
            raise UsageError("always= and fingerprint= are asked of the world, but there is none: pass world=, too")
        self._cast = Cast(activities, has_world=world is not None)
        self._cast.registry.add_workflow(workflow)
        start_us = from_datetime(start, "start")
        plot = Plot(
            cast=self._cast,
            workflow=workflow,
            instance_id=workflow.start_options.instance_id or f"{workflow.name}-1",
            started=_started(workflow, args, kwargs, start_us),
            lanes=_lanes(events),
            start_us=start_us,
            crashes=crashes,
            failures=failures,
            works_late=late,
            has_world=world is not None,
            fingerprint=fingerprint,
            always=always,
        )
        self.search: Final = Search(plot, Check(world, check, must_end, moves))

    def close(self) -> None:
        """No story follows."""
        self._cast.close()

    def history(self, choose: Choose) -> History:
        """That of one story, whose moves are chosen by the caller."""
        try:
            with silence(), self.search.staged(Story) as story:
                problem = self.search.play(story, choose)
                if problem is not None and problem.error is not None:
                    raise problem.error
                return Outcome[Any](story, story.root).history
        finally:
            self.close()


def _started(
    workflow: Workflow[..., Any], args: tuple[object, ...], kwargs: Mapping[str, object], now_us: int
) -> ev.InstanceStarted:
    """The first event, as a start by a client would make it; a queue lets it in at once."""
    options = workflow.start_options
    data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
    start_at_us = options.start_at_us
    if options.start_delay_us:
        start_at_us = max(start_at_us, now_us + options.start_delay_us)
    deadline_us = max(start_at_us, now_us) + options.timeout_us if options.timeout_us else 0
    return ev.InstanceStarted(workflow.name, workflow.version, data, start_at_us=start_at_us, deadline_us=deadline_us)


def _lanes(events: Sequence[Arrival]) -> list[tuple[str, list[ev.Observation]]]:
    """The events, those of one name in a lane of their own."""
    lanes: dict[str, list[ev.Observation]] = {}
    for arrival in events:
        event = _event(arrival)
        match event:
            case ev.EventReceived(name=name):
                lane = f"event {name.casefold()!r}"
            case ev.RequestReceived(name=name):
                lane = f"request {name!r}"
            case ev.InstanceSuspended() | ev.InstanceResumed():
                lane = "suspending or resuming"
            case _:
                lane = ev.tag_of(event).replace("_", " ")
        lanes.setdefault(lane, []).append(event)
    return list(lanes.items())


_FROM_OUTSIDE: Final = (
    ev.EventReceived,
    ev.RequestReceived,
    ev.CancelRequested,
    ev.InstanceSuspended,
    ev.InstanceResumed,
    ev.InstanceTerminated,
)


def _event(arrival: Arrival) -> ev.Observation:
    if isinstance(arrival, str):
        return ev.EventReceived(check_name(arrival, "the name of an event"), converter.NULL)
    if isinstance(arrival, tuple) and len(arrival) == 2:
        name, payload = arrival
        return ev.EventReceived(check_name(name, "the name of an event"), converter.dump(payload, f"event {name!r}"))
    if isinstance(arrival, _FROM_OUTSIDE):
        return arrival
    raise UsageError(
        f"{arrival!r:.80} is nothing that can be sent to an instance; write a name, (name, payload), or a word of "
        "durableflow.testing.histories: event_received(...), request_received(...), cancel_requested(), suspended(), "
        "resumed(), terminated()"
    )


# -- one story ------------------------------------------------------------------------------------------------------


def _turnings_of(search: Search, name: str) -> Turnings:
    """Find the moves of a story by their names."""
    wanted = {int(turning["position"]): turning["name"] for turning in _TURNING.finditer(name)}
    turnings: list[tuple[int, int]] = []
    with search.staged(TracedStory) as story:
        story.begin()
        position = 0
        wanted.pop(0, None)
        while wanted and (moves := story.moves()):
            position += 1
            names = [story.name_of(move) for move in moves]
            turning = wanted.pop(position, names[0])
            if turning not in names:
                raise UsageError(
                    f"there is no such story any more: move {position} cannot be {turning!r}; it can be "
                    f"{', '.join(map(repr, names))}"
                )
            choice = names.index(turning)
            if choice:
                turnings.append((position - 1, choice))
            story.take(moves[choice])
    if wanted:
        raise UsageError(f"there is no such story any more: it is over before move {min(wanted)}")
    return tuple(turnings)


def _failure(search: Search, problem: Problem, stories: int) -> StoryFailed:
    """Tell the story once more, and write down what happens."""
    wanted = dict(problem.turnings)
    names: list[str] = []
    reason, again = problem.reason, ""
    outcome: Outcome[Any] | None = None
    with search.staged(TracedStory) as story:
        try:
            story.begin()
            for position in range(problem.length):
                moves = story.moves()
                choice = wanted.get(position, 0)
                if choice >= len(moves):
                    break
                if choice:
                    names.append(f"{position + 1}: {story.name_of(moves[choice])}")
                story.take_named(moves[choice], is_usual=not choice)
            else:
                outcome = Outcome(story, story.root)
                again, _ = search.verdict(story) if problem.length < search.check.moves_max else (reason, None)
        except ReplayError as error:
            again = str(error)
        if not again:
            reason = f"{_FLEETING}: {reason}"
        timeline = "\n".join([*story.lines, _last_line(story)])
        return StoryFailed("; ".join(names) or _USUAL, reason, timeline, stories, outcome, story.world)


def _last_line(story: TracedStory) -> str:
    root = story.root
    outcome: Outcome[Any] = Outcome(story, root)
    told = f"{root.id} is {outcome.status}"
    if outcome.error is not None:
        told += f": {outcome.error}"
    elif root.is_over:
        told += f" with {outcome.result!r:.120}"
    return f"{'':>18}{told}"


_USUAL: Final = "0: the usual one"
_FLEETING: Final = (
    "this story failed, but not when it was told again, so something in it depends on more than the story: its world "
    "is not made afresh, or an activity looks at the time, throws dice, or changes what outlives its world. At first"
)

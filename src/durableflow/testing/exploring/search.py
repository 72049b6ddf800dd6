"""Which stories are told: all of them, the simplest first; or, where there are too many, as many as fit and a sample.

A story is known by its *turns off*: at which move it takes another than the usual one. A story that has come to a state
from which everything is explored already goes no further. States and what leads from one to the other are kept, so that
in the end it can be counted how many stories these stand for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from durableflow.core.view import TaskView, fold, numbered
from durableflow.errors import ReplayError, UsageError
from durableflow.testing.exploring.outcome import Outcome
from durableflow.testing.exploring.story import Move, Plot, Story

StoryT = TypeVar("StoryT", bound=Story)

Turnings: TypeAlias = tuple[tuple[int, int], ...]
"""Where a story leaves the usual way: `(position, index of the move)`, in order."""

Choose: TypeAlias = Callable[[Story, int, list[Move]], int | None]
"""Given a story, how many moves it has had and what can come next: which of these; None when it need not go on."""

Verdict: TypeAlias = tuple[str, Exception | None]
"""What is wrong, and what was raised."""

_FINE: Final[Verdict] = ("", None)
_LOOKS_FURTHER: Final = 500
_SHRINKS: Final = 500


class Check(NamedTuple):
    """What must hold.

    Attributes:
        make_world: gives each story a world of its own; None when there is none.
        at_the_end: called with the world (if there is one) and the outcome.
        must_end: whether an instance that is not over in the end is a failure.
        moves_max: a story that is longer is one.
    """

    make_world: Callable[[], Any] | None
    at_the_end: Callable[..., object] | None
    must_end: bool
    moves_max: int


class Problem(NamedTuple):
    """What is wrong with a story.

    Attributes:
        turnings: which one.
        length: how many moves it has.
        error: what was raised; None when something was not as it should be.
    """

    turnings: Turnings
    length: int
    reason: str
    error: Exception | None = None


class Search:
    """Tells the stories of a plot, each in a world of its own.

    Attributes:
        stories: how many were told, to their end or to a known state.
        crashes: how many crashes there were in them.
        states: how many states were found.
        deepest: stories with up to so many turns off were all told.
    """

    def __init__(self, plot: Plot, check: Check) -> None:
        self.plot = plot
        self.check = check
        self.stories = 0
        self.crashes = 0
        self.deepest = -1
        self._states: dict[int, int] = {}
        self._following: list[list[int]] = []
        """For each state, by number, the state that each of its moves leads to; -1 where that is not known."""
        self._waiting: deque[tuple[Turnings, int]] = deque([((), -1)])
        self._estimates: list[int] = []
        self._replayed: set[tuple[str, int]] = set()
        """Histories that were, by what they were told."""

    @property
    def states(self) -> int:
        """How many states were found."""
        return len(self._following)

    @property
    def is_exhausted(self) -> bool:
        """Whether all stories were told, or come to a state from which all were."""
        return not self._waiting

    def staged(self, kind: type[StoryT]) -> AbstractContextManager[StoryT]:
        """A new story in a world of its own."""
        make_world = self.check.make_world
        if make_world is None:
            return closing(kind(self.plot, None))
        made = make_world()
        if isinstance(made, AbstractContextManager):
            return self._entered(kind, cast("AbstractContextManager[Any]", made))
        return closing(kind(self.plot, made))

    @contextmanager
    def _entered(self, kind: type[StoryT], made: AbstractContextManager[Any]) -> Generator[StoryT]:
        with made as world, closing(kind(self.plot, world)) as story:
            yield story

    # -- telling ----------------------------------------------------------------------------------------------------

    def play(self, story: Story, choose: Choose) -> Problem | None:
        """Tell a story to its end, or until `choose` has heard enough or something is wrong."""
        self.stories += 1
        turnings: list[tuple[int, int]] = []
        length = 0
        reason, error = "", None
        try:
            story.begin()
            while True:
                reason, error = self._look(story)
                moves = story.moves()
                choice = choose(story, length, moves)
                if reason or choice is None:
                    break
                if not moves:
                    reason, error = self._judge(story)
                    break
                if length == self.check.moves_max:
                    reason = _endless(story, length)
                    break
                if choice:
                    turnings.append((length, choice))
                length += 1
                story.take(moves[choice])
        except ReplayError as raised:
            reason, error = f"the instance would stall: {raised}", raised
        finally:
            self.crashes += story.crashes
        return Problem(tuple(turnings), length, reason, error) if reason else None

    def tell(self, turnings: Turnings) -> Problem | None:
        """Tell one story."""
        wanted = dict(turnings)

        def choose(_: Story, position: int, __: list[Move]) -> int:
            return wanted.get(position, 0)

        with self.staged(Story) as story:
            return self.play(story, choose)

    def tell_named(self, wanted: Mapping[int, str]) -> tuple[Problem | None, list[tuple[int, str]]]:
        """Tell a story by the names of its turns off, and say which there were; others are passed over."""
        taken: list[tuple[int, str]] = []

        def choose(story: Story, position: int, moves: list[Move]) -> int:
            name = wanted.get(position)
            names = [] if name is None else [story.name_of(move) for move in moves]
            if name is None or name not in names[1:]:
                return 0
            taken.append((position, name))
            return names.index(name)

        with self.staged(Story) as story:
            return self.play(story, choose), taken

    def names_of(self, turnings: Turnings) -> list[tuple[int, str]]:
        """The turns off of a story by their names."""
        wanted = dict(turnings)
        names: list[tuple[int, str]] = []

        def choose(story: Story, position: int, moves: list[Move]) -> int | None:
            choice = wanted.pop(position, 0)
            if choice:
                names.append((position, story.name_of(moves[choice])))
            return choice

        with self.staged(Story) as story:
            self.play(story, choose)
        return names

    # -- all, in order ----------------------------------------------------------------------------------------------

    def tell_all(self, most: int) -> Problem | None:
        """Tell stories in order of the number of their turns off, until one fails, all are told, or `most` are."""
        found: Problem | None = None
        further = 0
        while self._waiting and self.stories < most:
            turnings, parent = self._waiting[0]
            self.deepest = len(turnings) - 1
            if found is not None:
                further += 1
                if len(turnings) > len(found.turnings) or further > _LOOKS_FURTHER:
                    break  # others with as many turns off may be shorter; these are not
            self._waiting.popleft()
            with self.staged(Story) as story:
                problem = self.play(story, self._on_from(turnings, parent))
            if problem is not None and (found is None or problem.length < found.length):
                found = problem
        return found

    def _on_from(self, turnings: Turnings, parent: int) -> Choose:
        """The way to a state that may be new, and from there the usual one to the end."""
        wanted = dict(turnings)
        last, came_by = turnings[-1] if turnings else (-1, 0)

        def choose(story: Story, position: int, moves: list[Move]) -> int | None:
            nonlocal parent, came_by
            if position <= last:
                choice = wanted.get(position, 0)
                if choice >= len(moves) or (position == last and len(moves) != len(self._following[parent])):
                    raise UsageError(_DIVERGES)
                return choice
            mark = story.mark()
            state = self._states.get(mark, -1)
            is_new = state < 0
            if is_new:
                state = self._states[mark] = len(self._following)
                self._following.append([-1] * len(moves))
                self._waiting.extend(((*turnings, (position, other)), state) for other in range(1, len(moves)))
            if parent >= 0:
                self._following[parent][came_by] = state
            parent, came_by = state, 0
            return 0 if is_new else None

        return choose

    # -- a sample ---------------------------------------------------------------------------------------------------

    def draw(self, count: int, seed: int) -> Problem | None:
        """Tell `count` stories whose moves are drawn, until one fails; that is made smaller."""
        dice = Random(f"durableflow explore {seed}")  # noqa: S311  # repeatable on purpose
        for _ in range(count):
            ways = 1

            def choose(_: Story, __: int, moves: list[Move]) -> int:
                nonlocal ways
                ways *= max(1, len(moves))
                return dice.randrange(len(moves)) if moves else 0

            with self.staged(Story) as story:
                problem = self.play(story, choose)
            self._estimates.append(ways)
            if problem is not None:
                return self._shrink(problem)
        return None

    def _shrink(self, problem: Problem) -> Problem:
        """A story that fails too, with as few turns off as can be had by leaving some out."""
        names = self.names_of(problem.turnings)
        tries = 0
        is_smaller = True
        while is_smaller and tries < _SHRINKS:
            is_smaller = False
            for index in reversed(range(len(names))):
                before, after = names[:index], names[index + 1 :]
                # What is left out may have been a move of its own, or have stood in the place of the usual one.
                for shift in (0, 1):
                    tries += 1
                    wanted = dict([*before, *((position - shift, name) for position, name in after)])
                    found, taken = self.tell_named(wanted)
                    if found is not None and len(taken) < len(names):
                        problem, names, is_smaller = found, taken, True
                        break
                if is_smaller:
                    break
        return problem

    # -- judging ----------------------------------------------------------------------------------------------------

    def verdict(self, story: Story) -> Verdict:
        """What is wrong with a story as it stands: empty for nothing. Raises what a replay does."""
        reason, error = self._look(story)
        return (reason, error) if reason or story.moves() else self._judge(story)

    def _look(self, story: Story) -> Verdict:
        """Whether what must always hold does."""
        always = self.plot.always
        return _FINE if always is None else _ask("always", always, story.world)

    def _judge(self, story: Story) -> Verdict:
        """Whether all is well with a story that is over."""
        for actor in story.actors.values():
            if actor.is_born and (actor.id, actor.told) not in self._replayed:
                actor.check_replay()
                self._replayed.add((actor.id, actor.told))
        root = story.root
        if self.check.must_end and not root.is_over:
            return _open(story), None
        check = self.check.at_the_end
        if check is None:
            return _FINE
        outcome: Outcome[Any] = Outcome(story, root)
        return (
            _ask("check", check, outcome)
            if self.check.make_world is None
            else _ask("check", check, story.world, outcome)
        )

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """How many stories there are, as far as the states and what leads from one to the other are known."""
        ways: list[int] = [0] * len(self._following)
        done = [False] * len(self._following)
        stack = [0] if self._following else []
        while stack:
            state = stack[-1]
            following = self._following[state]
            open_ = [each for each in following if each >= 0 and not done[each]]
            if open_:
                stack += open_
                continue
            stack.pop()
            if not done[state]:
                ways[state] = sum(ways[each] for each in following if each >= 0) if following else 1
                done[state] = True
        return ways[0] if ways else 0

    def estimate(self) -> int:
        """About how many there are, by the sample (D. E. Knuth, "Estimating the efficiency of backtrack programs")."""
        return sum(self._estimates) // len(self._estimates) if self._estimates else 0


_DIVERGES: Final = (
    "a story went another way when it was told again, so something in it depends on more than the story: its world is "
    "not made afresh, or an activity looks at the time, throws dice, or changes what outlives its world"
)


def _ask(name: str, function: Callable[..., object], *args: object) -> Verdict:
    """What a function of the test's own says."""
    __tracebackhide__ = True
    try:
        verdict = function(*args)
    except AssertionError as error:
        return str(error) or f"{name}(...) raised AssertionError", error
    except Exception as error:
        return f"{name}(...) raised {type(error).__name__}: {error}", error
    return (f"{name}(...) returned False", None) if verdict is False else _FINE


def _endless(story: Story, length: int) -> str:
    root = story.root
    return (
        f"instance {root.id!r} is {root.execution.status} after {length:,} moves, and there is no end in sight; let "
        "the workflow end, or allow more: explore(..., moves=...)"
    )


def _open(story: Story) -> str:
    root = story.root
    waits = [_wait(task) for task in fold(numbered(root.rows)).tasks if task.state in {"waiting", "running"}]
    return (
        f"nothing more can happen, and instance {root.id!r} is {root.execution.status}"
        + (f": it waits for {', '.join(waits)}" if waits else "")
        + "; give it what it waits for with explore(..., events=[...]), or write must_end=False"
    )


def _wait(task: TaskView) -> str:
    return f"{task.kind} {task.name!r}"

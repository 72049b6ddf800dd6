"""One story: what has happened, what can come next, and what comes of it.

What can come next is a list of moves in a fixed order; the first is the usual one: what is under way ends in the order
in which it began, events come when nothing else is under way, and only then does time pass.

Three rules keep stories apart that differ in what somebody could notice, and no others:

1. An attempt that works and whose answer comes later is told of as late as possible: before another attempt works,
   before a crash, or (when nobody waits for it any more) at the end. In between nobody could know.
2. An attempt that is given up may have worked just before, may work later, or never.
3. A crash is a move only while attempts are under way. Any other loses nothing, and has the history replayed; that is
   done with every story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from durableflow.authoring.registry import AnyWorkflow
from durableflow.core.execution import WORKER_LOST
from durableflow.core.turn import PendingActivity, Send, Turn
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.runtime.attempt import failed_attempt
from durableflow.testing.exploring.actor import Actor
from durableflow.testing.exploring.casting import Cast
from durableflow.testing.exploring.flight import Flight

# What a move is. Small numbers, because millions of them are made.
ENDS: Final = 0
TAKES: Final = 1
COMES: Final = 2
PASSES: Final = 3
BEGINS: Final = 4
TIMES_OUT: Final = 5
WORKS: Final = 6
SPOILS: Final = 7
FAILS: Final = 8
WORKS_LATE: Final = 9
CRASHES: Final = 10
CLOSES: Final = 11

_WORDS: Final = {
    ENDS: "ends",
    BEGINS: "begins again",
    TIMES_OUT: "times out",
    WORKS: "works, unheard",
    SPOILS: "works, and fails",
    FAILS: "fails",
    WORKS_LATE: "works, unwanted",
}
"""What moves are called that are about an attempt, behind its name."""

Move: TypeAlias = tuple[int, Any]
"""Its kind, and what it is about: a flight, an actor, a lane of events, or None."""

_LOST: Final = Failure(WORKER_LOST, "the worker's process ended while this attempt was running")


class Plot(NamedTuple):
    """What all stories of an exploration have in common.

    Attributes:
        lanes: external events; those of one lane come in order.
        crashes, failures: how many of each a story may have.
        works_late: whether attempts that are given up may still work.
        fingerprint: tells states of the world apart; None: by the order in which attempts have worked.
    """

    cast: Cast
    workflow: AnyWorkflow
    instance_id: str
    started: ev.InstanceStarted
    lanes: Sequence[tuple[str, Sequence[ev.Observation]]]
    start_us: int
    crashes: int
    failures: int
    works_late: bool
    has_world: bool
    fingerprint: Callable[[Any], Hashable] | None
    always: Callable[[Any], object] | None


class StoryClock:
    """The time of one story."""

    __slots__ = ("at_us",)

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us

    def now_us(self) -> int:
        """See `Moment.now_us`."""
        return self.at_us

    def draw(self) -> float:
        """See `Moment.draw`; no jitter: each wait is as long as it can be."""
        return 0.0


class Story:
    """All that has happened since the start of an instance; to be closed when it has been told.

    Attributes:
        actors: the instances, by id; the first is the one that the story is about.
        flights: attempts that are under way, in the order in which they began.
        late: attempts that were given up before they had worked.
        worked: what has worked so far, in order, and when.
        crashes, failures: how many there were.
        posts: messages on the way, by receiver.
        sent: how many events of each lane have come.
    """

    def __init__(self, plot: Plot, world: Any) -> None:
        self.plot = plot
        self.world = world
        self.clock = StoryClock(plot.start_us)
        self.actors: dict[str, Actor] = {}
        self.flights: list[Flight] = []
        self.late: list[Flight] = []
        self.worked: list[Flight] = []
        self.worked_us: list[int] = []
        self.crashes = 0
        self.failures = 0
        self.posts: dict[str, deque[ev.Observation]] = {}
        self.sent: list[int] = [0] * len(plot.lanes)
        self._works_on = False
        """The move before was work whose answer is on the way, or not wanted: more work, a crash or the end follows."""
        self._is_closed = False
        self._effects = 0

    def close(self) -> None:
        """Put away what still waits, as an engine does: its `finally` blocks run, and have no effect."""
        for actor in self.actors.values():
            actor.execution.put_away()

    def begin(self) -> None:
        """The instance is started."""
        plot = self.plot
        self.root = Actor(plot.instance_id, plot.workflow, plot.cast, self._apply)
        self.actors[self.root.id] = self.root
        self._tell(self.root, plot.started)

    # -- what can come next -----------------------------------------------------------------------------------------

    def moves(self) -> list[Move]:
        """What can come next, the usual first; empty when the story is over."""
        if self._works_on and self.flights:
            found = self._moves_after_work()
            if found:
                return found
        return [] if self._is_closed else self._all_moves()

    def _moves_after_work(self) -> list[Move]:
        """What somebody could tell from its happening before that work; see rule 1."""
        idle, can_crash = self._idle_flights()
        found: list[Move] = []
        if self.plot.has_world:
            found += [(ENDS, flight) for flight in idle]
        if can_crash or (self.plot.has_world and (len(idle) > 1 or self.late)):
            found += [(WORKS, flight) for flight in idle if not flight.part.is_transactional]
        if self.failures < self.plot.failures and self.plot.has_world:
            found += [(SPOILS, flight) for flight in idle if not flight.part.is_transactional]
        found += [(WORKS_LATE, flight) for flight in self.late]
        if can_crash:
            found.append((CRASHES, None))
        return found

    def _all_moves(self) -> list[Move]:
        found: list[Move] = [(ENDS, flight) for flight in self.flights if not flight.begins_us]
        self._add_news(found)
        if self.flights:
            idle, can_crash = self._idle_flights()
            if can_crash or (self.plot.has_world and (len(idle) > 1 or self.late)):
                found += [(WORKS, flight) for flight in idle if not flight.part.is_transactional]
            if self.failures < self.plot.failures:
                found += [(FAILS, flight) for flight in idle]
                found += [(SPOILS, flight) for flight in idle if not flight.part.is_transactional]
            if self.late:
                in_between = can_crash or (self.plot.has_world and idle)
                found += [(WORKS_LATE, flight) for flight in self.late if flight.is_fresh or in_between]
            if can_crash:
                found.append((CRASHES, None))
        elif self.late:
            if not found:
                found.append((CLOSES, None))
                found += [(WORKS_LATE, flight) for flight in self.late]
            else:
                found += [(WORKS_LATE, flight) for flight in self.late if flight.is_fresh]
        return found

    def _idle_flights(self) -> tuple[list[Flight], bool]:
        """Those that have not worked, and whether a crash may come."""
        idle = [flight for flight in self.flights if not flight.has_worked and not flight.begins_us]
        can_crash = self.crashes < self.plot.crashes and any(not flight.begins_us for flight in self.flights)
        return idle, can_crash

    def _add_news(self, found: list[Move]) -> None:
        """Messages, external events, and what the clock brings next."""
        if self.posts:
            found += [(TAKES, self.actors[name]) for name in self.posts]
        if not self.root.is_over:
            for lane, (_, events) in enumerate(self.plot.lanes):
                if self.sent[lane] < len(events):
                    found.append((COMES, lane))
        due: list[tuple[int, Move]] = []
        for actor in self.actors.values():
            if actor.execution.may_be_due and actor.is_born and not actor.is_over:
                due_us = actor.execution.next_due_us(-1)
                if due_us is not None:
                    due.append((due_us, (PASSES, actor)))
        for flight in self.flights:
            if flight.begins_us:
                due.append((flight.begins_us, (BEGINS, flight)))
            elif flight.due_us:
                due.append((flight.due_us, (TIMES_OUT, flight)))
        if due:
            first_us = min(each[0] for each in due)
            found += [move for due_us, move in due if due_us == first_us]

    def name_of(self, move: Move) -> str:
        """What a move is called; no two that can come next have the same name."""
        kind, subject = move
        if kind in _WORDS:
            return f"{subject.name} {_WORDS[kind]}"
        if kind == TAKES:
            return f"{subject.id} takes a message"
        if kind == COMES:
            return f"{self.plot.lanes[subject][0]} comes"
        if kind == PASSES:
            return f"time passes for {subject.id}"
        return "crash" if kind == CRASHES else "nothing more"

    def mark(self) -> int:
        """A number that is the same for states from which the same can follow."""
        plot = self.plot
        world: Hashable = self._effects if plot.fingerprint is None else plot.fingerprint(self.world)
        return hash(
            (
                world,
                self.clock.at_us,
                self.crashes,
                self.failures,
                self._works_on,
                self._is_closed,
                frozenset([actor.mark for actor in self.actors.values()]),
                frozenset([flight.mark for flight in self.flights]),
                frozenset([flight.mark for flight in self.late]),
                frozenset([(name, tuple(posts)) for name, posts in self.posts.items()]) if self.posts else 0,
            )
        )

    # -- moves ------------------------------------------------------------------------------------------------------

    def take(self, move: Move) -> None:
        """Let it happen."""
        kind, subject = move
        stale = [flight for flight in self.late if flight.is_fresh] if self.late else ()
        self._works_on = False
        if kind == ENDS:
            if not subject.has_worked:
                self._work(subject)
            self._answer(subject, subject.answer(self.clock))
        elif kind == COMES:
            self._send_next(subject)
        elif kind == WORKS:
            self._work(subject)
            self._works_on = True
        elif kind == WORKS_LATE:
            self.late.remove(subject)
            self._work(subject)
            if subject.is_fresh:
                stale = ()  # others that were given up with it may have worked, too
            else:
                self._works_on = True
        else:
            self._take_rarer(kind, subject)
        for flight in stale:
            flight.is_fresh = False

    def _take_rarer(self, kind: int, subject: Any) -> None:
        if kind == TAKES:
            self._deliver(subject)
        elif kind == PASSES:
            self._pass_time(subject)
        elif kind == BEGINS:
            self.clock.at_us = max(self.clock.at_us, subject.begins_us)
            subject.begin(self.clock.at_us)
        elif kind == TIMES_OUT:
            self.clock.at_us = max(self.clock.at_us, subject.due_us)
            self._give_up(subject)
            self._answer(subject, subject.timed_out(self.clock))
        elif kind == FAILS:
            self.failures += 1
            self._answer(subject, subject.injected(self.clock, "the story lets it fail before it works"))
        elif kind == SPOILS:
            self.failures += 1
            self._work(subject)
            self._answer(subject, subject.injected(self.clock, "the story lets it fail after it has worked"))
        elif kind == CRASHES:
            self._crash()
        else:
            assert kind == CLOSES
            self._is_closed = True

    def _work(self, flight: Flight) -> None:
        self.worked.append(flight)
        self.worked_us.append(self.clock.at_us)
        flight.work(self.plot.cast, self.world)
        told_to_stop = flight.looked and not flight.is_wanted and not flight.is_fresh
        work = hash((flight.actor.id, flight.task, flight.attempt, flight.activity.input, told_to_stop))
        # Without a world nobody can tell in which order it was done.
        self._effects = hash((self._effects, work)) if self.plot.has_world else self._effects ^ work

    def _answer(self, flight: Flight, event: ev.Observation) -> None:
        """`flight` is over for its instance, with `event`."""
        self.flights.remove(flight)
        self._tell(flight.actor, event)
        if type(event) is ev.AttemptFailed:
            self._queue_again(flight.actor, event)

    def _queue_again(self, actor: Actor, event: ev.AttemptFailed) -> None:
        """Of an activity in a queue, no history says when the next attempt begins."""
        activity = actor.execution.activities.get(event.task)
        if activity is not None and activity.options is not None and activity.options.queue:
            begins_us = event.retry_at_us if event.retry_at_us > self.clock.at_us else 0
            self._fly(actor, activity, begins_us)

    def _send_next(self, lane: int) -> None:
        event = self.plot.lanes[lane][1][self.sent[lane]]
        self.sent[lane] += 1
        self._tell(self.root, event)

    def _deliver(self, actor: Actor) -> None:
        posts = self.posts[actor.id]
        event = posts.popleft()
        if not posts:
            del self.posts[actor.id]
        self._tell(actor, event)

    def _pass_time(self, actor: Actor) -> None:
        """Go on to the moment at which something is due for `actor`."""
        due_us = actor.execution.next_due_us(-1)
        assert due_us is not None
        self.clock.at_us = now_us = max(self.clock.at_us, due_us)
        observed = actor.execution.due_observations(now_us)
        if len(observed) == 1:
            actor.tell(observed[0], now_us)
        elif observed:
            actor.tell_together(observed, now_us)
        self._start_retries(actor)

    def _crash(self) -> None:
        """All that is in memory is gone; what was under way is lost, whether it had worked or not."""
        self.crashes += 1
        self.late.clear()
        lost = [flight for flight in self.flights if not flight.begins_us]
        self.flights = [flight for flight in self.flights if flight.begins_us]
        actors = [actor for actor in self.actors.values() if actor.is_born and not actor.is_over]
        for actor in actors:
            actor.replay()
        for flight in self.flights:
            flight.activity = flight.actor.execution.activities[flight.task]
        for actor in actors:
            events = [self._lost(flight) for flight in lost if flight.actor is actor]
            if events:
                actor.tell_together(events, self.clock.at_us)
                self._start_retries(actor)
            for event in events:
                if type(event) is ev.AttemptFailed:
                    self._queue_again(actor, event)

    def _lost(self, flight: Flight) -> ev.AttemptFailed | ev.ActivityFailed:
        activity = flight.actor.execution.activities[flight.task]
        assert activity.started, f"replay of {flight.actor.id!r} forgot that {flight.name} was under way"
        assert activity.attempt == flight.attempt, f"replay of {flight.actor.id!r} miscounted {flight.name}"
        activity.details = flight.activity.details
        return failed_attempt(activity, _LOST, (WORKER_LOST,), self.clock)

    # -- what follows a turn ----------------------------------------------------------------------------------------

    def _tell(self, actor: Actor, event: ev.Observation) -> None:
        actor.tell(event, self.clock.at_us)
        if actor.execution.unstarted:
            self._start_retries(actor)

    def _start_retries(self, actor: Actor) -> None:
        for activity in actor.execution.due_retries(self.clock.at_us):
            actor.tell(ev.ActivityStarted(activity.task, activity.attempt), self.clock.at_us)

    def _apply(self, actor: Actor, turn: Turn) -> None:
        """Make a turn so."""
        for number in turn.cancelled:
            for flight in self.flights:
                if flight.task == number and flight.actor is actor:
                    self.flights.remove(flight)
                    self._give_up(flight)
                    break
        wanted = actor.execution.activities
        for activity in turn.scheduled:
            if activity.task in wanted:
                self._fly(actor, activity, 0)
        for activity in turn.started:
            if activity.task in wanted:
                self._fly(actor, activity, 0)
        for send in turn.sends:
            self._send(actor, send)
        if actor.is_over:
            self.posts.pop(actor.id, None)

    def _fly(self, actor: Actor, activity: PendingActivity, begins_us: int) -> None:
        part = self.plot.cast.part(activity.name)
        self.flights.append(Flight(actor, activity, part, self.clock.at_us, begins_us))

    def _give_up(self, flight: Flight) -> None:
        """Nobody waits for it any more; see rule 2."""
        flight.is_wanted = False
        if self.plot.works_late and not (flight.has_worked or flight.begins_us or flight.part.is_transactional):
            flight.is_fresh = True
            self.late.append(flight)

    def _send(self, sender: Actor, send: Send) -> None:
        """Put it into the other's inbox, and what became of that into the sender's."""
        receiver = self.actors.get(send.instance_id)
        if send.birth is not None:
            options = send.birth.options or ev.ChildOptions()
            if receiver is not None and not (options.replace and receiver.is_over):
                taken = f"instance {send.instance_id!r} exists already; give the child another id, or none"
                self._post(sender, ev.ChildFailed(send.task, Failure("InstanceExists", taken)))
                return
            program = self.plot.cast.workflow(send.birth.workflow, send.birth.version)
            child = Actor(send.instance_id, program, self.plot.cast, self._apply, f"{send.instance_id}: ")
            self.actors[child.id] = child
            self._post(child, send.message)
            return
        outcome = "missing" if receiver is None else "over" if receiver.is_over else "delivered"
        if receiver is not None and not receiver.is_over:
            self._post(receiver, send.message)
        if send.task:
            self._post(sender, ev.MessageAnswered(send.task, outcome))

    def _post(self, receiver: Actor, event: ev.Observation) -> None:
        if not receiver.is_over:
            self.posts.setdefault(receiver.id, deque()).append(event)

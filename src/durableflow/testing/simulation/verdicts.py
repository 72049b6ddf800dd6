"""The judgement of a universe that is over. Here: what the store holds, and what a replay makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from durableflow.backends.base import HistoryRow
from durableflow.core.execution import Execution, replay_rows
from durableflow.model import events as ev
from durableflow.testing.simulation.interpreter import PROGRAM, VERSIONS
from durableflow.testing.simulation.invariants import Invariant, Violation
from durableflow.testing.simulation.judging import entering
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.outside import OUTSIDE
from durableflow.testing.simulation.relations import RELATIONS
from durableflow.testing.simulation.shadow_instance import ShadowInstance
from durableflow.testing.simulation.testimony import TESTIMONY

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

Row: TypeAlias = tuple[int, int, list[ev.Event]]

_STORE: Final[list[Invariant]] = []
verdict = entering(_STORE)
_HISTORY_MAX: Final = 1_000_000


def judge(universe: Universe) -> None:
    """Check all that can be checked only now.

    Raises:
        Violation: something does not hold.
    """
    for each in VERDICTS:
        universe.made[each.name] += 1
        objection = each.check(universe)
        if objection is not None:
            raise Violation(each.name, objection)


# -- the store ----------------------------------------------------------------------------------------------------


@verdict("I1")
def what_was_committed_is_there_unchanged(universe: Universe) -> Iterator[str]:
    """Every row, byte by byte, and no other; and all instances, and no other."""
    records = {record.id: record for record in universe.records()}
    yield from (f"{name} was made, and is not there" for name in universe.shadow.instances if name not in records)
    yield from (f"{name} is there, but nobody made it" for name in records if name not in universe.shadow.instances)
    for name, instance in universe.shadow.instances.items():
        twin = ShadowInstance(instance.birth)
        for row in rows_of(universe, name):
            twin.take_row(row, ev.load_events(row.events))
        if twin.digest.digest() != instance.digest.digest():
            yield f"{name} has {len(twin.rows)} rows, {len(instance.rows)} were committed, or others"


def rows_of(universe: Universe, instance_id: str) -> list[HistoryRow]:
    """All rows of an instance."""
    return finish(universe.store.history(instance_id, 1, _HISTORY_MAX))


@verdict("I12")
def a_replay_of_each_history_asks_for_the_same(universe: Universe) -> Iterator[str]:
    """Each decision is asked for again, and the end is the recorded one."""
    for name, instance in _programs(universe):
        for rows in _rounds(instance):
            twin = _twin(name, rows)
            try:
                replay_rows(twin, rows)
            except Exception as error:
                yield f"{name}: {error}"
            else:
                is_last = rows[-1] is instance.rows[-1]
                if is_last and twin.status is not instance.status:
                    yield f"{name} is {instance.status}, but a replay ends {twin.status}"
            finally:
                twin.put_away()


def _programs(universe: Universe) -> Iterator[tuple[str, ShadowInstance]]:
    return ((name, each) for name, each in universe.shadow.instances.items() if each.birth.workflow == PROGRAM.name)


def _twin(name: str, rows: list[Row]) -> Execution:
    """What has not taken any row of a round yet, with the code of its version."""
    first_seq, _, (started, *_) = rows[0]
    assert isinstance(started, ev.InstanceStarted)
    twin = Execution(name, VERSIONS[started.version])
    twin.next_seq = first_seq
    return twin


@verdict("I14")
def one_by_one_gives_the_same(universe: Universe) -> Iterator[str]:
    """Observations that were taken in one turn lead to the same decisions when each has a turn of its own."""
    for name, instance in _programs(universe):
        rounds = list(_rounds(instance))
        for number, rows in enumerate(rounds):
            # What the last row of a round has not used is told again in the next one.
            whole = rows if number == len(rounds) - 1 else rows[:-1]
            if all(_is_one_by_one(events) for _, _, events in whole):
                continue
            yield from (f"{name}: {objection}" for objection in _apart(name, whole))


def _is_one_by_one(row: list[ev.Event]) -> bool:
    return sum(type(event) not in ev.DECISIONS | ev.NOTES for event in row) < 2


def _apart(name: str, rows: list[Row]) -> Iterator[str]:
    twin = _twin(name, rows)
    try:
        for seq, at_us, events in rows:
            asked: list[ev.Event] = []
            for event in events:
                if type(event) not in ev.DECISIONS | ev.NOTES:
                    turn = twin.advance([cast("ev.Observation", event)], now_us=at_us)
                    asked += [each for each in turn.events if type(each) in ev.DECISIONS]
            for event in events:
                if type(event) is ev.ActivityQueued and event.task in twin.activities:
                    twin.set_unstarted(twin.activities[event.task])
            recorded = [event for event in events if type(event) in ev.DECISIONS]
            if list(map(_bare, asked)) != list(map(_bare, recorded)):
                yield f"in one turn at #{seq} it decided {recorded!r:.300}, one by one it would {asked!r:.300}"
                return
    except Exception as error:
        yield f"one by one: {error!r}"
    finally:
        twin.put_away()


def _bare(event: ev.Event) -> str:
    """As it is stored, but without what a traceback says, which knows where the engine is."""
    if isinstance(event, (ev.InstanceFailed, ev.RequestAnswered)) and event.failure is not None:
        return repr((type(event), event.failure.type_name, event.failure.message))
    return repr(ev.load_event(ev.dump_event(event)))


def _rounds(instance: ShadowInstance) -> Iterator[list[Row]]:
    begun: list[Row] = []
    for row in instance.rows:
        if type(row[2][0]) is ev.InstanceRewound:
            continue
        if type(row[2][0]) is ev.InstanceStarted and begun:
            yield begun
            begun = []
        begun.append(row)
    if begun:
        yield begun


@verdict("I8")
def the_store_says_the_same_status(universe: Universe) -> Iterator[str]:
    """As was last written, which every commit was checked for."""
    for record in universe.records():
        instance = universe.shadow.instances[record.id]
        if (record.status, record.finished_us is not None) != (instance.status, instance.end is not None):
            yield f"{record.id} is {record.status}, but {instance.status} was written, end {instance.end!r:.80}"


@verdict("I37")
def nothing_is_left_behind(universe: Universe) -> Iterator[str]:
    """When all is over, the inbox and the queues are empty."""
    for message in finish(universe.store.inbox(0, 10)):
        yield f"a message is left: {message!r:.200}"
    for queue in finish(universe.store.queues()):
        if queue.waiting or queue.delayed or queue.claimed or queue.handed_over:
            yield f"tasks are left: {queue!r}"


VERDICTS: Final = (*_STORE, *TESTIMONY, *RELATIONS, *OUTSIDE)

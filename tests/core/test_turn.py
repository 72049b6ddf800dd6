"""What a turn gives back is made when something is put into it."""

from durableflow.core.turn import PendingActivity, Turn
from durableflow.model import events as ev


def test_what_nothing_was_put_into_is_empty_and_nobodys() -> None:
    one, two = Turn(1, 5), Turn(2, 6)
    assert (one.scheduled, one.started, one.cancelled, one.refused, one.unseen_failures) == ((), (), (), (), ())
    one.events.append(ev.InstanceBegan())
    assert two.events == []


def test_things_are_kept_in_the_order_in_which_they_were_put() -> None:
    turn = Turn(1, 5)
    activities = [PendingActivity(n, "a", b"[]", None, 5) for n in (1, 2)]
    for activity in activities:
        turn.schedule(activity)
        turn.start(activity)
        turn.refuse(ev.TimerFired(activity.task))
    turn.cancel([1])
    turn.cancel({2: None, 3: None})
    assert (turn.scheduled, turn.started) == (activities, activities)
    assert (turn.cancelled, turn.refused) == ([1, 2, 3], [ev.TimerFired(1), ev.TimerFired(2)])


def test_two_activities_that_look_alike_are_two() -> None:
    one, two = (PendingActivity(1, "a", b"[]", None, 5) for _ in range(2))
    assert one != two
    assert len({one, two}) == 2
    assert (one.attempt, one.started, one.retry_at_us, one.details) == (1, True, 0, None)

"""The two lines of an event's name: those that wait for a waiter, and waiters."""

from durableflow.core.mailbox import Mailbox


def test_kept_events_are_taken_first_in_first_out_for_each_name() -> None:
    mailbox = Mailbox()
    for name, payload in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        mailbox.keep(name, payload)
    assert [mailbox.take("a"), mailbox.take("a"), mailbox.take("a")] == [b"1", b"3", None]
    assert mailbox.take("b") == b"2"
    assert mailbox.take("c") is None


def test_waiters_are_told_first_in_first_out_for_each_name() -> None:
    mailbox = Mailbox()
    for name, number in (("a", 1), ("b", 2), ("a", 3)):
        mailbox.wait(name, number, {1, 2, 3})
    assert [mailbox.next_waiter("a"), mailbox.next_waiter("a"), mailbox.next_waiter("a")] == [1, 3, None]
    assert mailbox.next_waiter("c") is None


def test_a_waiter_leaves_its_own_line_only_and_once() -> None:
    mailbox = Mailbox()
    mailbox.wait("a", 1, {1, 2})
    mailbox.wait("a", 2, {1, 2})
    assert not mailbox.leave("b", 1)
    assert mailbox.leave("a", 1)
    assert not mailbox.leave("a", 1)
    assert mailbox.next_waiter("a") == 2


def test_those_at_the_head_that_gave_up_are_forgotten() -> None:
    mailbox = Mailbox()
    for number in range(1, 5):
        mailbox.wait("a", number, {2, 4})
    assert [mailbox.next_waiter("a") for _ in range(4)] == [2, 3, 4, None], "who gave up behind others stays"


def test_an_event_id_is_new_once() -> None:
    mailbox = Mailbox()
    assert [mailbox.is_new("x"), mailbox.is_new("y"), mailbox.is_new("x")] == [True, True, False]

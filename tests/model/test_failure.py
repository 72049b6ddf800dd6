"""The record of an exception, and the exception made from it again."""

import pickle
from typing import Any

import pytest

from durableflow.errors import RemoteError
from durableflow.model.failure import Failure, activity_failed, record, side_effect_failed, workflow_failed


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is not None:
            raise error from cause
        raise error
    except BaseException as caught:
        return caught


class Sold(Exception):
    pass


def test_a_record_has_type_message_lines_and_causes() -> None:
    failure = record(raised(Sold("lamp"), raised(OSError("disk"))))
    assert (failure.type_name, failure.message) == (f"{__name__}.Sold", "lamp")
    assert "raise error from cause" in failure.traceback_text
    assert failure.cause is not None
    assert (failure.cause.type_name, failure.cause.message, failure.cause.cause) == ("OSError", "disk", None)


def test_the_context_is_a_cause_unless_it_was_hidden() -> None:
    def chained(*, hide: bool) -> BaseException:
        try:
            try:
                raise OSError("first")
            except OSError as error:
                if hide:
                    raise Sold from None
                raise Sold from (error if error.errno else None) or error.__cause__ or error
        except Sold as caught:
            return caught

    assert record(chained(hide=True)).cause is None
    try:
        try:
            raise OSError("first")
        finally:
            raise Sold
    except Sold as implicit:
        cause = record(implicit).cause
    assert cause is not None
    assert cause.message == "first"


def test_long_texts_and_chains_are_cut() -> None:
    error: BaseException | None = None
    for n in range(30):
        error = raised(Sold("x" * 10_000 + str(n)), error)
    assert error is not None
    failure: Failure | None = record(error)
    depth = 0
    while failure is not None:
        depth += 1
        assert len(failure.message) <= 4_000
        assert len(failure.traceback_text) <= 8_000
        failure = failure.cause
    assert depth == 8


def test_a_circle_of_causes_ends() -> None:
    one, two = Sold("one"), Sold("two")
    one.__cause__, two.__cause__ = two, one
    failure = record(one)
    assert failure.cause is not None
    assert (failure.cause.message, failure.cause.cause) == ("two", None)


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = Exception.__hash__


def test_hostile_exceptions_are_recorded_all_the_same() -> None:
    failure = record(raised(Hostile(), raised(Hostile())))
    assert failure.message == "<its text could not be made: RuntimeError>"
    assert failure.cause is not None


@pytest.mark.parametrize("text", ["\0", "\ud800", "\U0001f600"])
def test_texts_that_a_store_could_not_hold_are_escaped(text: str) -> None:
    message = record(Sold(text)).message
    message.encode()
    assert "\0" not in message


def test_what_was_remote_is_recorded_as_what_it_stood_for() -> None:
    remote = RemoteError("shop.Sold", "lamp", "in shop")
    assert record(remote) == Failure("shop.Sold", "lamp", "in shop")
    failed = activity_failed("charge", Failure("shop.Sold", "lamp", "in shop", Failure("OSError")), 3)
    again = record(failed)
    assert again.type_name == "durableflow.errors.ActivityFailed"
    assert again.cause == Failure("shop.Sold", "lamp", "in shop", Failure("OSError"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (activity_failed("charge", Failure("E", "m"), 1), "activity 'charge' failed after 1 attempt: E: m"),
        (activity_failed("charge", Failure("E", "m"), 3), "activity 'charge' failed after 3 attempts: E: m"),
        (side_effect_failed(Failure("E", "m")), "a side effect failed: E: m"),
        (workflow_failed("i", Failure("E", "m")), "instance 'i' failed: E: m"),
    ],
)
def test_exceptions_made_from_records_tell_the_story(error: Any, text: str) -> None:
    assert str(error) == text
    assert (error.type_name, error.message, error.traceback_text) == ("E", "m", "")
    assert error.is_type("E", "F")
    assert not error.is_type("F")
    assert str(error.__cause__) == "E: m"


def test_a_record_is_no_pickle() -> None:
    """Nothing stored is ever unpickled: what a record holds are texts."""
    failure = record(raised(Sold(pickle.dumps(5))))
    assert all(isinstance(item, str) for item in (failure.type_name, failure.message, failure.traceback_text))

"""`@activity(transactional=True)`: what it may be made of, and how it is called."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from durableflow import Activity, TransactionalActivity, UsageError, activity
from durableflow.errors import RegistrationError


@activity(transactional=True, retry=4)
def book(db: sqlite3.Connection, who: str, *, nights: int = 1) -> int:
    db.execute("create table if not exists bookings (who text, nights integer)")
    db.execute("insert into bookings values (?, ?)", (who, nights))
    count: int = db.execute("select count(*) from bookings").fetchone()[0]
    return count


def test_its_arguments_are_those_behind_the_connection() -> None:
    assert book.arguments.dump(("Ada",), {}, "the arguments") == b'["Ada"]'
    args, kwargs = book.arguments.load(b'["Ada"]')
    assert ([*args], kwargs) == (["Ada"], {})
    with pytest.raises(UsageError, match="missing"):
        book.arguments.dump((), {}, "the arguments")


def test_it_is_an_activity_of_its_own_kind_also_with_other_options() -> None:
    changed = book.options(retry=2, timeout=3)
    assert isinstance(changed, TransactionalActivity)
    assert (changed.is_transactional, changed.is_async, changed.place) == (True, False, "store")
    assert changed.stored_options is not None
    assert changed.stored_options.retry is not None
    assert changed.stored_options.retry.max_attempts == 2


def test_a_unit_test_calls_it_on_a_connection_of_its_own() -> None:
    db = sqlite3.connect(":memory:")
    assert [book.call_on(db, "Ada"), book.call_on(db, "Ben", nights=3)] == [1, 2]
    assert db.execute("select * from bookings").fetchall() == [("Ada", 1), ("Ben", 3)]
    db.close()


def test_a_call_without_a_connection_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"book\.call_on\(connection"):
        book("Ada")


def test_a_coroutine_function_is_refused() -> None:
    async def wait(db: sqlite3.Connection) -> None: ...

    with pytest.raises(RegistrationError, match="plain def"):
        activity(transactional=True)(wait)


def test_a_generator_is_refused() -> None:
    def count(db: sqlite3.Connection) -> Iterator[int]:
        yield 1

    with pytest.raises(RegistrationError, match="generator"):
        activity(transactional=True)(count)


@pytest.mark.parametrize(
    "function", [lambda: None, lambda *args: None, lambda *, db: None], ids=["none", "rest", "named"]
)
def test_a_function_that_takes_no_connection_is_refused(function: Any) -> None:
    with pytest.raises(RegistrationError, match="first parameter must be the connection"):
        activity(transactional=True)(function)


def test_other_activities_are_not_transactional() -> None:
    @activity
    def plain(x: int) -> int:
        return x

    assert isinstance(plain, Activity)
    assert (plain.is_transactional, plain.place) == (False, "thread")

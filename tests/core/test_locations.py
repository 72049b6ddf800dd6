"""Where the user's code stands: the innermost of its lines, never one of the engine's."""

from collections.abc import Generator
from typing import Any

import pytest

from durableflow.core.locations import definition_location, raising_location, suspended_location, user_location


def line_of(function: Any, offset: int) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno + offset}"


def test_the_asking_line_is_the_callers() -> None:
    def asks() -> str:
        return user_location()

    assert asks() == line_of(asks, 1)


def test_frames_of_the_engine_are_passed_by() -> None:
    names = {"__name__": "durableflow.core.made_up", "user_location": user_location}
    exec("def inner():\n    return user_location()", names)

    def asks() -> Any:
        return names["inner"]()  # type: ignore[operator]

    assert asks() == line_of(asks, 1)


def test_a_definition_stands_where_its_function_begins() -> None:
    class Program:
        def function(self) -> None: ...

    assert definition_location(Program()) == line_of(Program.function, 0)
    assert definition_location(object()) == "", "a stand-in may have no function"


def test_an_error_was_raised_on_its_innermost_line_of_the_users() -> None:
    def inner() -> None:
        raise LookupError

    def outer() -> None:
        inner()

    with pytest.raises(LookupError) as caught:
        outer()
    assert raising_location(caught.value) == line_of(inner, 1)
    assert raising_location(LookupError()) == "", "one that was never raised comes from nowhere"


def test_suspended_code_stands_in_what_it_delegates_to() -> None:
    def inner() -> Generator[int, None, None]:
        yield 1

    def outer() -> Generator[int, None, None]:
        yield from inner()

    steps = outer()
    next(steps)
    assert suspended_location(steps) == line_of(inner, 1)
    steps.close()
    assert suspended_location(steps) == ""

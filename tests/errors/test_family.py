"""The files of the package hold one family, which histories and users know by one name."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

from durableflow import errors

FILES = [import_module(f"{errors.__name__}.{each.name}") for each in iter_modules(errors.__path__)]
KINDS = {
    kind
    for file in FILES
    for kind in vars(file).values()
    if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__.startswith("durableflow.")
}


def test_the_family_is_found() -> None:
    assert {errors.DurableflowError, errors.Cancelled, errors.CorruptSchedule} < KINDS


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__))
def test_an_exception_is_recorded_under_the_name_of_the_package(kind: type[BaseException]) -> None:
    assert errors.qualified_name(kind) == f"durableflow.errors.{kind.__name__}"
    assert getattr(errors, kind.__name__) is kind
    assert kind.__name__ in errors.__all__

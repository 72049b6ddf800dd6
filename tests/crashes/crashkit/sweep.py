"""How much of a sweep is made: a seeded sample each time, all of it when it is asked for."""

import os
import random
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

ALL: Final = bool(os.environ.get("DURABLEFLOW_CRASHES"))
"""`nox -s crashes` says so."""


def some(whole: Sequence[T], count: int, seed: str) -> list[T]:
    """So many of them, or all in a whole sweep, in their order."""
    if ALL or count >= len(whole):
        return list(whole)
    return [whole[index] for index in sorted(random.Random(seed).sample(range(len(whole)), count))]

"""How much of a sweep is made: a seeded sample each time, all of it when it is asked for."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from crashkit.jobs import Outcome

T = TypeVar("T")

ALL: Final = bool(os.environ.get("DURABLEFLOW_CRASHES"))
"""`nox -s crashes` says so."""


def some(whole: Sequence[T], count: int, seed: str) -> list[T]:
    """So many of them, or all in a whole sweep, in their order."""
    if ALL or count >= len(whole):
        return list(whole)
    return [whole[index] for index in sorted(random.Random(seed).sample(range(len(whole)), count))]


def moments_of(calm: Sequence[Outcome]) -> list[tuple[str, str, int]]:
    """The moments to which undisturbed runs came, each as program, name and which time."""
    return [
        (Path(each.job.program).stem, moment, at)
        for each in calm
        for moment, times in sorted(each.moments.items())
        for at in range(1, times + 1)
    ]

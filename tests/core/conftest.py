"""Stories are checked when their test is over: whatever it tells, replay must tell the same."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages; this one has a helper of its own

from stories import Story


@pytest.fixture
def live() -> Iterator[Callable[..., Story]]:
    """Starts instances; at the end each is replayed and compared, then put away."""
    yield from _stories(crashing=False)


@pytest.fixture(params=[False, True], ids=["at one go", "crashing after every turn"])
def told(request: pytest.FixtureRequest) -> Iterator[Callable[..., Story]]:
    """The same, and once more with a memory that is lost after every turn."""
    yield from _stories(crashing=request.param)


def _stories(*, crashing: bool) -> Iterator[Callable[..., Story]]:
    told: list[Story] = []

    def start(*args: object, **options: object) -> Story:
        story = Story(*args, crashing=crashing, **options)
        told.append(story)
        return story

    yield start
    for story in told:
        story.check()
        story.execution.put_away()

"""A control plane for these tests, and namespaces in it."""

import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test folders are no packages; these have helpers of their own.
sys.path.insert(0, str(Path(__file__).parent))

from planekit.binaries import is_cached
from planekit.plane import ControlPlane


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A real control plane without nodes, for the whole session; where none can be had the tests fail."""
    if not is_cached():
        # A build takes minutes, and a test that waits for it does not hang: `.ci/run` limits the whole.
        faulthandler.cancel_dump_traceback_later()
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    """One of the test's own."""
    return plane.create_namespace()

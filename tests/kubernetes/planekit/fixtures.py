"""Fixtures: a control plane for a session, and namespaces in it. A conftest imports them by name."""

import faulthandler

import pytest

from planekit.binaries import is_cached
from planekit.plane import ControlPlane

_PLANE = pytest.StashKey[ControlPlane]()


@pytest.fixture(scope="session")
def plane(request: pytest.FixtureRequest) -> ControlPlane:
    """A real control plane without nodes, one for the whole session; where none can be had the tests fail."""
    stash = request.config.stash
    if _PLANE not in stash:
        if not is_cached():
            # A build takes minutes, and a test that waits for it does not hang: `.ci/run` limits the whole.
            faulthandler.cancel_dump_traceback_later()
        stash[_PLANE] = ControlPlane().__enter__()
        request.config.add_cleanup(stash[_PLANE].close)
    return stash[_PLANE]


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    """One of the test's own."""
    return plane.create_namespace()

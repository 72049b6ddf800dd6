"""Which object of this process sends the Jobs of a cluster: activities are defined before there is one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from durableflow import ActivityContext, UsageError

if TYPE_CHECKING:
    from durableflow.kubernetes.activity import GpuJob

_LOGGER: Final = logging.getLogger("durableflow.kubernetes")
_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.05


class Runner(Protocol):
    """Sends Jobs."""

    async def submit(self, definition: GpuJob[Any], context: ActivityContext, input: bytes) -> None:
        """See to it that the Job of an attempt is there, and that its end will be told."""
        ...


_RUNNERS: Final[dict[str, Runner]] = {}


def register(cluster: str, runner: Runner) -> None:
    """From now on `runner` sends the Jobs of the activities that name this cluster.

    Raises:
        UsageError: another one does.
    """
    if cluster in _RUNNERS:
        raise UsageError(f"KubernetesJobs for cluster {cluster!r} run in this process already; give others a name")
    _RUNNERS[cluster] = runner


def unregister(cluster: str, runner: Runner) -> None:
    """It does so no more."""
    if _RUNNERS.get(cluster) is runner:
        del _RUNNERS[cluster]


async def runner_of(cluster: str) -> Runner:
    """The one that sends the Jobs of a cluster; waits a little, because engines may be opened before.

    Raises:
        UsageError: there is none.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _PATIENCE_S
    while cluster not in _RUNNERS:
        if loop.time() >= until_s:
            raise UsageError(
                f"no KubernetesJobs for cluster {cluster!r} run in this process; write: async with engine, "
                "KubernetesJobs(engine, deployment=...)"
            )
        await asyncio.sleep(_POLL_S)
    return _RUNNERS[cluster]

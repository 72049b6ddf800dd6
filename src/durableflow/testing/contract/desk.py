"""The desk at which tasks are handed out: a worker that writes them for one instance, and a server that takes them."""

from __future__ import annotations

from typing import Any, Final

from durableflow.backends.base import Backend, Commit, Lease
from durableflow.backends.tasks import (
    DELAYED,
    ClaimRequest,
    NewTask,
    NextAttempt,
    QueueRecord,
    StoredTask,
    TaskEnd,
)
from durableflow.testing.contract.store import a_lease, an_instance

TTL_US: Final = 10**12
"""Of servers that no test outlives."""


def the_next_attempt(**changes: Any) -> NextAttempt:
    """A second attempt that may be claimed at once, with what a test does not care about filled in."""
    return NextAttempt(DELAYED, 2, 0, None, None, 0, 0, False)._replace(**changes)


def an_end(task: StoredTask, message: bytes = b"done", following: NextAttempt | None = None) -> TaskEnd:
    """What became of the attempt of a task, as it was seen."""
    return TaskEnd((task.number, task.attempt, task.state, task.claimed_by), message, following)


class Desk:
    """A worker and a server of one store.

    Attributes:
        lease: of the worker.
        server: the number of the server.
        made: how many tasks were written; they are numbered from 1.
    """

    def __init__(self, backend: Backend, lease: Lease, server: int) -> None:
        self.backend = backend
        self.lease = lease
        self.server = server
        self.made = 0

    async def write(self, *keys: str, **changes: Any) -> list[NewTask]:
        """Write a task for each of these keys of fairness, in one commit."""
        tasks: list[NewTask] = []
        for key in keys:
            self.made += 1
            task = NewTask("i", self.made, "q", "mail", b"[%d]" % self.made, b"options", 0, key, 0, None, 5)
            tasks.append(task._replace(**changes))
        await self.backend.commit(self.lease, Commit(tasks=tasks))
        return tasks

    def request(self, most: int = 100, **changes: Any) -> ClaimRequest:
        """What the server asks for: so many tasks of queue `q`."""
        return ClaimRequest(self.server, ("mail",), {"q": most}, 0, True, None)._replace(**changes)

    async def claim(self, most: int = 100, now_us: int = 0, **changes: Any) -> list[StoredTask]:
        """Take so many tasks of queue `q`."""
        claims = await self.backend.claim(self.request(most, **changes), now_us)
        return list(claims.tasks)

    async def finish(self, task: StoredTask) -> bool:
        """Bring the result of a claimed task; False when nobody wants it."""
        (is_written,) = await self.backend.finish_tasks([an_end(task)], self.server)
        return is_written

    async def task(self, number: int) -> StoredTask:
        """The task that was written as the nth."""
        task = await self.backend.task("i", number)
        assert task is not None
        return task

    async def queue(self) -> QueueRecord:
        """How queue `q` stands."""
        (record,) = await self.backend.queues("q")
        return record

    async def messages(self) -> list[bytes]:
        """What instances have been told."""
        return [message.data for message in await self.backend.inbox(0, 1_000)]

    async def everything(self) -> object:
        """All that can be asked of the tasks of a store, to be compared."""
        tasks = [await self.backend.task("i", number) for number in range(1, self.made + 1)]
        return tasks, await self.backend.queues(), await self.backend.inbox(0, 1_000)


async def a_desk(backend: Backend) -> Desk:
    """A desk in a store that nobody works for; all of its tasks are of instance `i`."""
    lease = await a_lease(backend)
    await backend.commit(lease, Commit(new=[an_instance("i")]))
    return Desk(backend, lease, await backend.enlist_server("server", TTL_US, 0))

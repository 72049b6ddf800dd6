"""The part of the store in memory that keeps tasks; see `backends/tasks.py`."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

from durableflow.backends.base import Lease
from durableflow.backends.tasks import (
    ADMITTED,
    ALL_TASKS,
    CLAIMED,
    DELAYED,
    HANDED_OVER,
    START,
    WAITING,
    ClaimRequest,
    Claims,
    NewTask,
    Offer,
    Outlook,
    QueueLimits,
    QueueRecord,
    StoredTask,
    TaskBeat,
    TaskEnd,
    rate_full_us,
    rate_next_us,
    rate_room,
)
from durableflow.errors import LeaseLost

_MOST: int = 1_000


class Queue:
    """A queue: its limits, and its tasks that wait, in order."""

    __slots__ = ("full_us", "is_paused", "lanes", "last_of_key", "limits", "waiting")

    def __init__(self) -> None:
        self.limits = QueueLimits()
        self.is_paused = False
        self.full_us = 0
        self.lanes: dict[int, int] = {}
        self.waiting: list[tuple[int, int, int]] = []
        """`(-priority, vtime, number)` of each."""
        self.last_of_key: dict[tuple[int, str], list[int]] = {}
        """The vtimes of the tasks that are there, of each priority and key, in order."""


class MemoryTasks:
    """What `MemoryBackend` is besides: the store of tasks."""

    _workers: dict[int, Lease]

    def __init__(self) -> None:
        self._tasks: dict[int, StoredTask] = {}
        self._vtimes: dict[int, int] = {}
        self._tasks_of: dict[str, dict[int, int]] = {}
        self._queues: dict[str, Queue] = {}
        self._servers: dict[int, int] = {}
        self._server_names: dict[int, str] = {}
        self._last_server_id = 0
        self._last_task_number = 0

    def _put(self, instance_id: str, data: bytes, event_id: str | None = None) -> None:
        raise NotImplementedError

    def _is_active(self, instance_id: str) -> bool:
        raise NotImplementedError

    def _notify(self) -> None:
        raise NotImplementedError

    def _check(self, lease: Lease) -> None:
        raise NotImplementedError

    def _check_seal(self) -> None:
        raise NotImplementedError

    # -- rows -----------------------------------------------------------------------------------------------

    def _write_tasks(self, new: Iterable[NewTask]) -> None:
        for task in new:
            queue = self._queues.setdefault(task.queue, Queue())
            vtimes = queue.last_of_key.setdefault((task.priority, task.fairness_key), [])
            vtime = max(queue.lanes.get(task.priority, 0), vtimes[-1] + 1 if vtimes else 0)
            insort(vtimes, vtime)
            self._last_task_number = number = self._last_task_number + 1
            self._vtimes[number] = vtime
            self._keep(
                StoredTask(
                    number, task.instance_id, task.task, 1, task.queue, task.name, task.input, task.options,
                    task.priority, task.fairness_key, DELAYED if task.not_before_us > 0 else WAITING,
                    task.not_before_us, task.expires_us, 0, 0, None, None, task.scheduled_at_us, 0, 0, False,
                )
            )  # fmt: skip

    def _keep(self, task: StoredTask) -> None:
        """Put a task, or what has become of it, in its place."""
        old = self._tasks.get(task.number)
        if old is not None and old.state == WAITING:
            self._queues[old.queue].waiting.remove(self._place(old))
        self._tasks[task.number] = task
        self._tasks_of.setdefault(task.instance_id, {})[task.task] = task.number
        if task.state == WAITING:
            insort(self._queues[task.queue].waiting, self._place(task))

    def _place(self, task: StoredTask) -> tuple[int, int, int]:
        return (-task.priority, self._vtimes[task.number], task.number)

    def _drop_task(self, number: int) -> None:
        task = self._tasks[number]
        if task.state == WAITING:
            self._queues[task.queue].waiting.remove(self._place(task))
        del self._tasks[number]
        vtime = self._vtimes.pop(number, None)
        if vtime is not None:
            key = (task.priority, task.fairness_key)
            vtimes = self._queues[task.queue].last_of_key[key]
            vtimes.remove(vtime)
            if not vtimes:
                del self._queues[task.queue].last_of_key[key]
        tasks = self._tasks_of[task.instance_id]
        del tasks[task.task]
        if not tasks:
            del self._tasks_of[task.instance_id]

    def _drop_tasks(self, instance_id: str, task: int) -> None:
        tasks = self._tasks_of.get(instance_id, {})
        for number in list(tasks.values()) if task == ALL_TASKS else [tasks[task]] if task in tasks else []:
            self._drop_task(number)

    def _drop_many(self, dropped: Iterable[tuple[str, int]]) -> None:
        for instance_id, task in dropped:
            self._drop_tasks(instance_id, task)

    # -- the side of those who serve ------------------------------------------------------------------------

    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:
        """See `TaskStore.enlist_server`."""
        self._check_seal()
        self._last_server_id += 1
        self._servers[self._last_server_id] = now_us + ttl_us
        self._server_names[self._last_server_id] = name
        return self._last_server_id

    def _check_server(self, server_id: int) -> None:
        self._check_seal()
        if self._servers.get(server_id, -1) < 0:
            raise LeaseLost(f"server {server_id} of queues was declared dead, and its claims with it")

    async def renew_server(self, server_id: int, ttl_us: int, now_us: int) -> list[tuple[int, int]]:
        """See `TaskStore.renew_server`."""
        self._check_server(server_id)
        self._servers[server_id] = now_us + ttl_us
        return [(task.number, task.attempt) for task in self._claimed_by(server_id)]

    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        """See `TaskStore.retire_server`."""
        await self.finish_tasks(ends, server_id)
        for task in self._claimed_by(server_id):
            self._keep(task._replace(state=WAITING, claimed_by=0, token_digest=None))
        del self._servers[server_id]
        self._server_names.pop(server_id, None)
        self._notify()

    def _claimed_by(self, server_id: int) -> list[StoredTask]:
        return [task for task in self._tasks.values() if task.state == CLAIMED and task.claimed_by == server_id]

    def _may_take(self, request: ClaimRequest, task: StoredTask, room: int, *, takes_suspect: bool) -> bool:
        if task.task == START:
            return request.admission is not None
        return room > 0 and task.name in request.names and (takes_suspect or not task.is_suspect)

    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """See `TaskStore.look_at_tasks`."""
        if not self._tasks:
            return Outlook(False, False, None)
        due = min((task.not_before_us for task in self._tasks.values() if task.state == DELAYED), default=None)
        is_claimable, opening = (True, None) if due is not None and due <= now_us else self._opening(request, now_us)
        expiry = min(
            (t.expires_us for t in self._tasks.values() if t.expires_us is not None and t.state != CLAIMED),
            default=None,
        )
        lease = min((us for each, us in self._servers.items() if each != request.server_id), default=None)
        is_overdue = any(each is not None and each <= now_us for each in (expiry, lease))
        moments = [each for each in (due, opening, expiry, lease) if each is not None and each > now_us]
        return Outlook(is_claimable, is_overdue, min(moments, default=None))

    def _opening(self, request: ClaimRequest, now_us: int) -> tuple[bool, int | None]:
        """Whether there is a task to take now; and if none, when a rate limit lets one go."""
        opening: int | None = None
        for name, queue in self._queues.items():
            room = request.rooms.get(name, request.other_room)
            if queue.is_paused or not any(
                self._may_take(request, self._tasks[number], room, takes_suspect=request.takes_suspect)
                for _, _, number in queue.waiting
            ):
                continue
            if self._most(name, now_us):
                return True, None
            if queue.limits.rate_count and rate_room(queue.limits, queue.full_us, now_us) == 0:
                next_us = rate_next_us(queue.limits, queue.full_us)
                opening = next_us if opening is None else min(opening, next_us)
        return False, opening

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        """See `TaskStore.claim`."""
        self._check_server(request.server_id)
        for task in [t for t in self._tasks.values() if t.state == DELAYED and t.not_before_us <= now_us]:
            self._keep(task._replace(state=WAITING))
        claimed: list[StoredTask] = []
        admitted = 0
        next_us: int | None = None
        takes_suspect = request.takes_suspect
        for name in sorted(self._queues):
            queue = self._queues[name]
            limits = queue.limits
            if queue.is_paused or not queue.waiting:
                continue
            room = request.rooms.get(name, request.other_room)
            most = self._most(name, now_us)
            taken: list[StoredTask] = []
            has_more = False
            for _, _, number in queue.waiting:
                task = self._tasks[number]
                if not self._may_take(request, task, room, takes_suspect=takes_suspect):
                    continue
                if len(taken) == most:
                    has_more = True
                    break
                taken.append(task)
                room -= task.task != START
                takes_suspect = takes_suspect and not task.is_suspect
            for task in taken:
                owner = ADMITTED if task.task == START else request.server_id
                made = task._replace(state=CLAIMED, claimed_by=owner, started_us=now_us)
                self._keep(made)
                queue.lanes[task.priority] = max(queue.lanes.get(task.priority, 0), self._vtimes[task.number] + 1)
                if task.task == START:
                    assert request.admission is not None
                    self._put(task.instance_id, request.admission)
                    admitted += 1
                else:
                    claimed.append(made)
            if limits.rate_count:
                if taken:
                    queue.full_us = rate_full_us(limits, queue.full_us, now_us, len(taken))
                if has_more and rate_room(limits, queue.full_us, now_us) == 0:
                    more_us = rate_next_us(limits, queue.full_us)
                    next_us = more_us if next_us is None else min(next_us, more_us)
        if claimed or admitted:
            self._notify()
        return Claims(claimed, admitted, next_us)

    def _most(self, name: str, now_us: int) -> int:
        queue = self._queues[name]
        limits, most = queue.limits, _MOST
        if limits.concurrency is not None:
            running = sum(task.state == CLAIMED and task.queue == name for task in self._tasks.values())
            most = min(most, limits.concurrency - running)
        if limits.rate_count:
            most = min(most, rate_room(limits, queue.full_us, now_us))
        return max(0, most)

    async def claimed_tasks(self, server_id: int) -> list[StoredTask]:
        """See `TaskStore.claimed_tasks`."""
        return self._claimed_by(server_id)

    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        """See `TaskStore.overdue_tasks`."""
        self._check_seal()
        for each, expires_us in list(self._servers.items()):
            if each != server_id and expires_us <= now_us:
                if self._claimed_by(each):
                    self._servers[each] = -1
                else:
                    del self._servers[each]
                    self._server_names.pop(each, None)
        dead = {each for each, expires_us in self._servers.items() if expires_us < 0}
        return [
            task
            for _, task in sorted(self._tasks.items())
            if (task.expires_us is not None and task.expires_us <= now_us and task.state != CLAIMED)
            or (task.state == CLAIMED and task.claimed_by in dead)
        ][:limit]

    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        """See `TaskStore.finish_tasks`."""
        self._check_seal()
        if server_id is not None:
            self._check_server(server_id)
        written = [self._finish_one(end) for end in ends]
        self._notify()
        return written

    def _finish_one(self, end: TaskEnd) -> bool:
        task = self._tasks.get(end.seen[0])
        if task is None or (task.number, task.attempt, task.state, task.claimed_by) != end.seen:
            return False
        to = end.following
        if to is None:
            self._drop_task(task.number)
        else:
            self._keep(
                task._replace(
                    state=to.state,
                    attempt=to.attempt,
                    not_before_us=to.not_before_us,
                    expires_us=to.expires_us,
                    details=task.details if to.details is None else to.details,
                    uncounted=to.uncounted,
                    losses=to.losses,
                    is_suspect=to.is_suspect,
                    claimed_by=0,
                    token_digest=task.token_digest if to.state == HANDED_OVER else None,
                )
            )
        self._put(task.instance_id, end.message)
        return True

    async def beat_tasks(self, beats: Sequence[TaskBeat]) -> list[bool]:
        """See `TaskStore.beat_tasks`."""
        self._check_seal()
        return [self._beat_one(beat) for beat in beats]

    def _beat_one(self, beat: TaskBeat) -> bool:
        task = self._tasks.get(beat.number)
        if task is None or task.attempt != beat.attempt or task.state not in (CLAIMED, HANDED_OVER):
            return False
        expires_us = task.expires_us if beat.expires_us is None else beat.expires_us
        self._keep(task._replace(details=beat.details, expires_us=expires_us))
        return True

    # -- tokens ---------------------------------------------------------------------------------------------

    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        """See `TaskStore.offer_task`."""
        self._check(lease)
        if not self._is_active(offer.instance_id):
            return False
        known = await self.task(offer.instance_id, offer.task)
        if known is not None and known.attempt > offer.attempt:
            return False
        self._drop_tasks(offer.instance_id, offer.task)
        self._last_task_number = number = self._last_task_number + 1
        self._keep(
            StoredTask(
                number, offer.instance_id, offer.task, offer.attempt, "", offer.name, b"", offer.options, 0, "",
                HANDED_OVER, 0, offer.expires_us, 0, offer.started_us, offer.token_digest, None,
                offer.scheduled_at_us, offer.uncounted, 0, False,
            )
        )  # fmt: skip
        self._notify()
        return True

    async def offer_claimed(self, number: int, attempt: int, server_id: int, token_digest: bytes) -> bool:
        """See `TaskStore.offer_claimed`."""
        self._check_seal()
        task = self._tasks.get(number)
        if task is None or (task.attempt, task.state, task.claimed_by) != (attempt, CLAIMED, server_id):
            return False
        self._keep(task._replace(token_digest=token_digest))
        return True

    async def offered_tasks(self) -> list[tuple[str, int]]:
        """See `TaskStore.offered_tasks`."""
        return [(task.instance_id, task.task) for _, task in sorted(self._tasks.items()) if not task.queue]

    async def task(self, instance_id: str, task: int) -> StoredTask | None:
        """See `TaskStore.task`."""
        number = self._tasks_of.get(instance_id, {}).get(task)
        return None if number is None else self._tasks[number]

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self, name: str | None = None) -> list[QueueRecord]:
        """See `TaskStore.queues`."""
        return [self._queue_record(each) for each in sorted(self._queues) if name in (None, each)]

    def _queue_record(self, name: str) -> QueueRecord:
        queue = self._queues[name]
        tasks = [task for task in self._tasks.values() if task.queue == name]
        states = [task.state for task in tasks]
        oldest_us = min((task.scheduled_at_us for task in tasks if task.state == WAITING), default=None)
        counts = [states.count(state) for state in (WAITING, DELAYED, CLAIMED, HANDED_OVER)]
        waiting, delayed, claimed, handed_over = counts
        return QueueRecord(name, queue.limits, queue.is_paused, waiting, delayed, claimed, handed_over, oldest_us)

    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        """See `TaskStore.limit_queue`."""
        self._check_seal()
        queue = self._queues.setdefault(name, Queue())
        old = queue.limits
        if (old.rate_count, old.rate_period_us, old.rate_burst) != (
            limits.rate_count, limits.rate_period_us, limits.rate_burst,
        ):  # fmt: skip
            queue.full_us = 0
        queue.limits = limits
        self._notify()

    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        """See `TaskStore.pause_queue`."""
        self._check_seal()
        self._queues.setdefault(name, Queue()).is_paused = is_paused
        self._notify()

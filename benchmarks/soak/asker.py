"""The client: starts instances at a steady pace, whatever becomes of those before, and sees to the end of each.

A start that had to wait is counted from the moment at which it was due, so that a standstill of the workers is a
standstill in the figures.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import flows
from member import Acks, insist, say

from benchmarks.load import quantile
from benchmarks.soak import kinds
from durableflow import (
    Client,
    Handle,
    InstanceNotActive,
    Interval,
    Schedule,
    Workflow,
    WorkflowCancelled,
    WorkflowTerminated,
)

OPEN_MAX: Final = 20_000
"""So many at once are more than all faults together can hold up."""
CONTROL_AFTER_S: Final = 0.05
SCHEDULE: Final = "tick"
TICK_S: Final = 1.0
ASKED: Final = "asked for "
"""What it says in the end, with the number of starts."""
STEADY_KIND: Final = flows.sequence.name
"""Five activities, one after the other, and nothing to wait for: what its instances take is the engine's time."""


class Asker:
    """Asks until it is told to end, then waits for what is open."""

    def __init__(self, client: Client, acks: Acks, rate: float, asked_for: Sequence[Workflow[[int], Any]]) -> None:
        self._client = client
        self._acks = acks
        self._rate = rate
        self._kinds = asked_for
        self._began = self._done = 0
        self._took_ms: dict[str, list[float]] = {}
        self._acked_ms: list[float] = []
        self.told_to_end = asyncio.Event()

    async def run(self) -> None:
        await insist(self._make_schedule)
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not self.told_to_end.is_set():
                due_s = began_s + self._began / self._rate
                if (early_s := due_s - time.monotonic()) > 0 or self._began - self._done >= OPEN_MAX:
                    await asyncio.sleep(max(early_s, 0.001))
                    continue
                group.create_task(self._one(self._began, due_s))
                self._began += 1
            await insist(lambda: self._client.schedules.pause(SCHEDULE))
        say(f"{ASKED}{self._began}")

    async def _make_schedule(self) -> None:
        await self._client.schedules.put(SCHEDULE, Schedule(Interval(TICK_S), overlap="allow"), kinds.tick, 1)

    def figures(self) -> dict[str, float]:
        """Counts since the beginning, and times since the last call."""
        took_ms, self._took_ms = self._took_ms, {}
        acked_ms, self._acked_ms = self._acked_ms, []
        steady = took_ms.get(STEADY_KIND, [])
        told: dict[str, float] = {"began": self._began, "done": self._done, "open": self._began - self._done}
        told["own_tasks"] = told["open"]
        for name, values in (
            ("all", [each for kind in took_ms.values() for each in kind]),
            ("steady", steady),
            ("start", acked_ms),
        ):
            if values:
                told |= {f"{name}_p50_ms": round(quantile(values, 0.5), 2)}
                told |= {f"{name}_p99_ms": round(quantile(values, 0.99), 2)}
        return told

    # -- one instance -------------------------------------------------------------------------------------------------

    async def _one(self, number: int, due_s: float) -> None:
        kind = self._kinds[number % len(self._kinds)]
        handle = await insist(
            lambda: self._client.start(kind.options(instance_id=f"soak-{kind.name}-{number}"), number)
        )
        self._acks.add("start", handle.id, value=number)
        self._acked_ms.append((time.monotonic() - due_s) * 1000)
        await self._act(kind.name, handle, number)
        await self._end(kind.name, handle, number)
        self._took_ms.setdefault(kind.name, []).append((time.monotonic() - due_s) * 1000)
        self._done += 1

    async def _act(self, kind: str, handle: Handle[Any], number: int) -> None:
        match kind:
            case "cancelled":
                await self._control(handle.cancel)
            case "terminated":
                await self._control(handle.terminate)
            case "paused":
                await self._control(handle.suspend)
                await self._send(kind, handle, number)
                await self._control(handle.resume)
            case "asked":
                doubled = await insist(lambda: handle.request("double", number, request_id="double"))
                if doubled != number * 2:
                    say(f"wrong: {handle.id} answered {doubled!r}")
                await self._send(kind, handle, number)
            case _:
                await self._send(kind, handle, number)

    async def _control(self, control: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(CONTROL_AFTER_S)
        try:
            await insist(control)
        except InstanceNotActive as error:  # it had come, though that was not known
            if error.status.value not in ("CANCELLED", "TERMINATED"):
                say(f"wrong: {error}")

    async def _send(self, kind: str, handle: Handle[Any], number: int) -> None:
        for value in kinds.event_values(kind, number):
            event_id = f"{number}/{value}"
            try:
                await insist(lambda v=value, e=event_id: handle.raise_event("go", v, event_id=e))
            except InstanceNotActive:  # likewise
                continue
            self._acks.add("event", handle.id, event_id, value=value)

    async def _end(self, kind: str, handle: Handle[Any], number: int) -> None:
        try:
            result = await insist(handle.result)
        except WorkflowCancelled:
            self._told_status(kind, handle, "cancelled")
        except WorkflowTerminated:
            self._told_status(kind, handle, "terminated")
        else:
            self._acks.add("result", handle.id, value=result)
            if result != kinds.expected(kind, number):
                say(f"wrong: {handle.id} gave {result!r}")

    def _told_status(self, kind: str, handle: Handle[Any], status: str) -> None:
        self._acks.add("status", handle.id, value=status.upper())
        if kind != status:
            say(f"wrong: {handle.id} is {status}")

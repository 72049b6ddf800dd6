"""A process of a fleet: `member.py URL [--serve] [--ask NAME] ...`; a worker, a client, or an application that is both.

Who asks keeps a log of what was acknowledged. Killed and started again, it goes on with what it has no result of. Told
to end (SIGTERM), it asks for nothing new, sees to the end of what it has begun, and closes. By SIGUSR1 its clock jumps
an hour ahead; by SIGUSR2 it says what its tasks wait for.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import flows
import ledger

from durableflow import Client, Engine, InstanceNotActive, Settings, StorageError
from durableflow.observe import facts

JUMP_S = 3_600
_read_clock = time.time_ns


def set_clock(ahead_s: int) -> None:
    """Have this process believe that it is so much later; the clock that only counts goes on as it did."""
    time.time_ns = lambda: _read_clock() + ahead_s * 1_000_000_000
    time.time = lambda: time.time_ns() / 1_000_000_000


T = TypeVar("T")


def say(line: str) -> None:
    print(line, flush=True)


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Ask again until the store can answer."""
    while True:
        try:
            return await call()
        except StorageError as error:
            say(f"again: {type(error).__name__}: {error}")
            await asyncio.sleep(0.05)


class Acks:
    """What was asked for, and what was acknowledged, in a file; each is there before anything is built on it."""

    def __init__(self, path: Path) -> None:
        entries = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        self._known = {tuple(entry["ack"]) for entry in entries if "ack" in entry}
        self.asked = [entry["ask"] for entry in entries if "ask" in entry]
        self._paper = ledger.Paper(path)

    def __contains__(self, ack: tuple[object, ...]) -> bool:
        return ack in self._known

    def ask(self, number: int) -> None:
        self._paper.write({"ask": number})

    def add(self, *ack: object, value: object) -> None:
        self._paper.write({"ack": ack, "value": value})


class Asker:
    """Starts instances of all kinds, sends them events, waits for their results, and compares these.

    Whatever the store cannot answer is asked again: all that is asked has an id.
    """

    def __init__(self, talker: Client, name: str, acks: Acks, at_once: int) -> None:
        self._talker = talker
        self._name = name
        self._acks = acks
        self._at_once = at_once
        self._numbers = iter(range(len(acks.asked), sys.maxsize))
        self._open = [number for number in acks.asked if ("result", self._id(number)) not in acks]
        self._dice = random.Random(f"{name} {len(acks.asked)}")
        self.told_to_end = asyncio.Event()

    def _id(self, number: int) -> str:
        return f"{self._name}-{flows.KINDS[number % len(flows.KINDS)].name}-{number}"

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._ask_on())

    async def _ask_on(self) -> None:
        while self._open or not self.told_to_end.is_set():
            if self._open:
                number = self._open.pop()
            else:
                number = next(self._numbers)
                self._acks.ask(number)
            await self._one(number)
            await asyncio.sleep(self._dice.uniform(0, 0.02))

    async def _one(self, number: int) -> None:
        kind, instance, acks = flows.KINDS[number % len(flows.KINDS)], self._id(number), self._acks
        if ("start", instance) not in acks:
            await insist(lambda: self._talker.start(kind.options(instance_id=instance), number))
            acks.add("start", instance, value=number)
        handle = self._talker.handle(instance, kind)
        for value in flows.event_values(number) if kind is flows.events else ():
            event = f"{number}/{value}"
            if ("event", instance, event) not in acks:
                try:
                    for _ in range(1 + number % 2):  # twice with the same id: it counts once
                        await insist(lambda v=value, e=event: handle.raise_event("go", v, event_id=e))
                except InstanceNotActive:  # it had come, though that was not known, and the instance is over
                    continue
                acks.add("event", instance, event, value=value)
        result = await insist(handle.result)
        acks.add("result", instance, value=result)
        if result != flows.expected(kind.name, number):
            raise AssertionError(f"{instance} gave {result!r}, not {flows.expected(kind.name, number)!r}")


def listen(fact: facts.Fact) -> None:
    match fact:
        case facts.WorkerLeads():
            say("leads")
        case facts.WorkerLost():
            say("lost")
        case facts.InstancesClaimed(count=count):
            say(f"claimed {count}")
        case facts.InstancesHandedOver(count=count):
            say(f"handed over {count}")
        case facts.InstanceStalled(instance_id=instance_id, reason=reason):
            say(f"stalled {instance_id}: {reason}")
        case facts.CommitRetried(reason=reason):
            say(f"retried: {reason}")
        case _:
            pass


def say_tasks() -> None:
    """Where each task waits, for whoever looks into a failure."""
    for task in asyncio.all_tasks():
        frames = [f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in waiting_frames(task)]
        say(f"task {task.get_name()} {task.cancelling()}: {' > '.join(frames)}")


def waiting_frames(task: asyncio.Task[Any]) -> list[Any]:
    """From the outermost to where it waits."""
    frames = []
    coroutine: Any = task.get_coro()
    while coroutine is not None and getattr(coroutine, "cr_frame", None) is not None:
        frames.append(coroutine.cr_frame)
        coroutine = coroutine.cr_await
    return frames


async def run(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: (set_clock(arguments.clock + JUMP_S), say("jumped")))
    loop.add_signal_handler(signal.SIGUSR2, say_tasks)
    talker: Any = Client(arguments.url)
    if arguments.serve:
        settings = Settings(lease_s=arguments.lease, grace_s=arguments.grace)
        talker = Engine(arguments.url, settings=settings, listeners=[listen], name=arguments.name)
    async with talker:
        say("open")
        if arguments.ask:
            asker = Asker(talker, arguments.ask, Acks(Path(arguments.acks)), arguments.at_once)
            asker.told_to_end = told_to_end
            await asker.run()
            say("asked")
        else:
            await told_to_end.wait()
    say("closed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--ask", default="")
    parser.add_argument("--acks", default="")
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--name", default=None)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--grace", type=float, default=2.0)
    parser.add_argument("--clock", type=int, default=0, help="seconds that this process's clock is ahead")
    given = parser.parse_args()
    ledger.open_ledger(given.ledger)
    if given.clock:
        set_clock(given.clock)
    asyncio.run(run(given))

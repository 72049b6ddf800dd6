"""An instance that does something terrible, beside some that do not: `deadly.py HOW`.

Started again after each death, it goes on, and in the end says what became of each.
"""

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, activity, workflow
from durableflow.errors import DurableflowError

SPARE_BYTES = 300_000_000
"""What is left to it of memory, over what it has."""
THRICE = RetryPolicy(max_attempts=3, initial=0.02, backoff=1)
NEIGHBOURS = 3


def devour() -> int:
    """All memory that there is."""
    eaten = []
    while True:
        eaten.append(bytearray(64_000_000))


def dive(depth: int = 0) -> int:
    return dive(depth + 1) + 1


def nest(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def block() -> None:
    """For ever, deaf to whoever asks it to stop."""
    threading.Event().wait()


DEEDS: dict[str, Any] = {
    "os._exit": lambda: os._exit(7),
    "sys.exit": lambda: sys.exit(7),
    "interrupts": lambda: signal.raise_signal(signal.SIGKILL),
    "segfaults": lambda: ctypes.string_at(0),
    "devours memory": devour,
    "recurses": dive,
    "gives 100 MB": lambda: "x" * 100_000_000,
    "gives a nest": lambda: nest(100_000),
    "gives itself": endless,
    "gives a lock": threading.Lock,
    "raises KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "raises GeneratorExit": lambda: (_ for _ in ()).throw(GeneratorExit()),
    "raises CancelledError": lambda: (_ for _ in ()).throw(asyncio.CancelledError()),
    "raises what cannot be shown": lambda: (_ for _ in ()).throw(Unspeakable()),
}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


@activity(retry=THRICE, timeout=20)
async def do(how: str) -> Any:
    note("began")
    await asyncio.sleep(0.05)
    return DEEDS[how]()


@activity(retry=THRICE, timeout=20)
def do_in_thread(how: str) -> Any:
    note("began")
    time.sleep(0.05)
    return DEEDS[how]()


@activity(retry=RetryPolicy(max_attempts=2, initial=0.02), timeout=0.3)
def never_return() -> None:
    note("began")
    block()


@activity(retry=THRICE)
async def work(number: int) -> int:
    await asyncio.sleep(0.1)
    return number * 2


def note(what: str) -> None:
    with Path("began.txt").open("a") as file:
        file.write(f"{what}\n")


@workflow
async def deadly(ctx: Context, how: str, where: str) -> str:
    if where == "workflow":
        return str(DEEDS[how]())
    call = {"activity": do, "thread": do_in_thread}.get(where)
    task = ctx.call_activity(call, how) if call is not None else ctx.call_activity(never_return)
    try:
        await task
    except ActivityFailed as failed:
        return f"{failed.type_name} after {failed.attempts}"
    return "it did"


@workflow
async def returning(ctx: Context, how: str) -> Any:
    return DEEDS[how]()


@workflow
async def good(ctx: Context, number: int) -> int:
    return await ctx.call_activity(work, await ctx.call_activity(work, number))


async def main(how: str, where: str) -> None:
    settings = Settings(lease_s=30.0, grace_s=0.2)  # what blocks the loop is not to cost the lease as well
    async with Engine("sqlite:///store.db", settings=settings) as engine:
        victim = returning if where == "result" else deadly
        args: Any = (how,) if where == "result" else (how, where)
        handle = await engine.start(victim.options(instance_id="deadly"), *args)
        others = [await engine.start(good.options(instance_id=f"good-{n}"), n) for n in range(NEIGHBOURS)]
        print("good:", [await other.result(timeout=30) for other in others])
        try:
            print("deadly:", await handle.result(timeout=30))
        except DurableflowError as error:
            print(f"deadly: {type(error).__name__}: {str(error)[:100]!r}")
        print("status:", (await handle.status()).status.value)


if __name__ == "__main__":
    if sys.argv[1] == "devours memory":
        has_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has_bytes + SPARE_BYTES, -1))
    asyncio.run(main(sys.argv[1], sys.argv[2]))

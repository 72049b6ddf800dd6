"""A fleet: three workers and a client, each a process of its own, on one Postgres. Kill any of them at any time.

    python examples/fleet                         all of it, on a server of its own, which goes with it
    python examples/fleet postgresql://...        all of it, on your server
    python examples/fleet worker postgresql://... one more worker
    python examples/fleet client postgresql://... the client once more: it finds what it had asked for

See README.md beside this file for what one sees.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

from durableflow import Client, Context, Engine, InstanceNotActive, Settings, StorageError, activity, workflow
from durableflow.testing import PostgresServer

ORDERS = 12
WORKERS = 3
# After so long without a sign of life a worker is taken for dead, and others go on with what it had; by default 10 s.
LEASE_S = 2.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")  # at one go: others write to the same terminal
    sys.stdout.flush()


# -- the orders -------------------------------------------------------------------------------------------------------


def worker() -> str:
    return f"process {os.getpid()}"


@activity
async def reserve(order: str, item: str) -> str:
    await asyncio.sleep(0.3)
    say(f"  {worker()}: {order}: {item} is reserved")
    return f"shelf {len(item)}"


@activity
async def ship(order: str, shelf: str) -> str:
    await asyncio.sleep(0.3)
    say(f"  {worker()}: {order}: shipped from {shelf}")
    return f"parcel from {shelf}"


@workflow
async def label(ctx: Context, order: str) -> str:
    # A child is an instance like any other: another worker may run it.
    await ctx.sleep(timedelta(seconds=0.2))
    return f"label of {order}"


@workflow
async def fulfil(ctx: Context, order: str, item: str) -> str:
    shelf = await ctx.call_activity(reserve, order, item)
    printed = ctx.call_workflow(label, order)
    paid = await ctx.wait_for_event("paid", int)
    await ctx.sleep(timedelta(seconds=0.5))
    parcel = await ctx.call_activity(ship, order, shelf)
    return f"{parcel}, {await printed}, {paid} paid"


# -- one of the processes ---------------------------------------------------------------------------------------------


async def work(url: str) -> None:
    """A worker: it runs what it owns until it is told to end, and then hands it over."""
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    async with Engine(url, settings=Settings(lease_s=LEASE_S)):
        await told_to_end.wait()


async def ask(url: str) -> None:
    """The client: it starts orders, pays for them, and waits for the parcels."""
    async with Client(url) as client:

        async def one(number: int) -> str:
            item = ["lamp", "chair", "sofa"][number % 3]
            # Started again under the same id, after a crash of this process, it is the instance that is there.
            handle = await client.start(fulfil.options(instance_id=f"order-{number}"), f"order-{number}", item)
            await asyncio.sleep(0.2 * number)
            with suppress(InstanceNotActive):  # it was paid for in an earlier life
                await handle.raise_event("paid", 100 + number, event_id="payment")
            return f"{handle.id}: {await handle.result()}"

        for line in await asyncio.gather(*[one(number) for number in range(1, ORDERS + 1)]):
            say(line)


# -- all of them ------------------------------------------------------------------------------------------------------


@contextmanager
def database(url: str | None) -> Generator[str]:
    """Yours, or one on a server that is started for this, and gone with it."""
    if url is not None:
        yield url
        return
    with PostgresServer() as server:
        url = server.create_database("fleet")
        say(f"  Postgres {server.version} listens: {url}")
        yield url


def begin(role: str, url: str) -> subprocess.Popen[bytes]:
    # Not from the environment's `python`: the one that runs this.
    process = subprocess.Popen([sys.executable, __file__, role, url])  # noqa: S603  # ourselves
    say(f"  {role} begins: process {process.pid}")
    return process


def run_all(url: str) -> None:
    """Begin whoever dies again, as a service manager does, until the client has all its parcels."""
    processes = [("worker", begin("worker", url)) for _ in range(WORKERS)]
    processes.append(("client", begin("client", url)))
    try:
        while processes[-1][1].poll() != 0:
            for index, (role, process) in enumerate(processes):
                if process.poll() not in (None, 0):  # a worker that was told to end has ended well, and stays away
                    say(f"  {role} has died: process {process.pid}")
                    processes[index] = (role, begin(role, url))
            time.sleep(0.05)
    finally:
        for _, process in processes:
            process.terminate()
        for _, process in processes:
            process.wait()


def end_with_parent() -> None:
    """Killed, it cannot tell anybody to end."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(arguments: list[str]) -> None:
    if arguments[:1] in (["worker"], ["client"]):
        threading.Thread(target=end_with_parent, daemon=True).start()
        asyncio.run({"worker": work, "client": ask}[arguments[0]](arguments[1]))
    else:
        with ExitStack() as stack:
            run_all(stack.enter_context(database(arguments[0] if arguments else None)))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main(sys.argv[1:])
        except StorageError as error:
            sys.exit(f"the store cannot be had: {error}")

"""`python -m benchmarks.soak.member URL --ledger FILE ...`: a worker's process, or with `--ask` the client's."""

import argparse
import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import ledger
from member import Acks, listen, say, say_tasks

from benchmarks.soak import kinds
from benchmarks.soak.asker import Asker
from benchmarks.soak.pulses import pulse
from durableflow import Client, Engine, EngineClosed, Settings


async def run(arguments: argparse.Namespace) -> None:
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
    loop.add_signal_handler(signal.SIGUSR2, say_tasks)
    await (ask(arguments, told_to_end) if arguments.ask else serve(arguments, told_to_end))
    say("closed")


async def serve(arguments: argparse.Namespace, told_to_end: asyncio.Event) -> None:
    engine = Engine(arguments.url, settings=Settings(lease_s=arguments.lease), listeners=[listen], name=arguments.name)

    def counts() -> Mapping[str, float]:
        try:
            now = engine.statistics()
        except EngineClosed:  # between two leases
            return {}
        return {
            "own_tasks": now.running_attempts,
            "live": now.live_instances,
            "attempts": now.running_attempts,
            "turns": now.turns,
            "commits": now.commits,
            "loads": now.loads,
            "evictions": now.evictions,
        }

    async with engine:
        say("open")
        pulses = asyncio.create_task(pulse(arguments.pulses, arguments.every, counts), name="soak pulses")
        await told_to_end.wait()
        pulses.cancel()


async def ask(arguments: argparse.Namespace, told_to_end: asyncio.Event) -> None:
    wanted = [*kinds.SHORT, *(kinds.LONG if arguments.long else ())]
    async with Client(arguments.url) as client:
        asker = Asker(client, Acks(arguments.acks), arguments.ask, wanted)
        asker.told_to_end = told_to_end
        say("open")
        pulses = asyncio.create_task(pulse(arguments.pulses, arguments.every, asker.figures), name="soak pulses")
        await asker.run()
        pulses.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.member", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--pulses", type=Path, required=True)
    parser.add_argument("--every", type=float, required=True, help="seconds between two pulses")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--ask", type=float, default=0.0, help="starts in a second; a worker asks for nothing")
    parser.add_argument("--acks", type=Path)
    parser.add_argument("--long", action="store_true", help="also instances that nap")
    arguments = parser.parse_args()
    ledger.open_ledger(str(arguments.ledger))
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()

"""A worker's process: `worker.py STORE LEDGER [--lease S] [--grace S] [--slow-disk] MODULE...`.

It says on its standard output what happens to it, and closes its engine when it is told to
end, as an application does.
"""

import argparse
import asyncio
import importlib
import signal

import ledger

from durableflow import Engine, Settings
from durableflow.backends.sqlite import SqliteBackend
from durableflow.observe import facts


def listen(fact: facts.Fact) -> None:
    match fact:
        case facts.WorkerLeads():
            print("leads", flush=True)
        case facts.WorkerLost():
            print("lost", flush=True)
        case facts.InstanceStalled(instance_id=instance_id, reason=reason):
            print(f"stalled {instance_id}: {reason}", flush=True)
        case facts.CommitRetried(reason=reason):
            print(f"retried: {reason}", flush=True)
        case _:
            pass


async def work(arguments: argparse.Namespace) -> None:
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    settings = Settings(lease_s=arguments.lease, grace_s=arguments.grace)
    backend = SqliteBackend(arguments.store)
    if arguments.slow_disk:
        backend.hook = ledger.slow_disk
    async with Engine(backend, settings=settings, listeners=[listen]):
        print("open", flush=True)
        await told_to_end.wait()
    print("closed", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("ledger")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--slow-disk", action="store_true")
    given = parser.parse_args()
    ledger.open_ledger(given.ledger)
    for module in given.modules:
        importlib.import_module(module)
    asyncio.run(work(given))

"""An application on one store, which asks for instances of many kinds and writes down what it was promised.

    asking.py COUNT [--unsafe] [--on]

It keeps `store.db`, the ledger of its activities and its acknowledgements in the current folder. Killed and started
again, it goes on. Each promise is written down before anything is built on it, and each activity when it begins, so
what is in these files has been seen by somebody.
"""

import argparse
import asyncio
import itertools
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path

# The load, and who asks for it, are those of the fleet.
sys.path.insert(0, str(Path(__file__).parents[2] / "fleet" / "apps"))

import flows
import ledger
import member

from durableflow import Context, Engine, EngineClosed, Settings, StorageError, activity, workflow
from durableflow.backends.sqlite import SqliteBackend


@activity(transactional=True, retry=flows.PATIENT)
def note(db: sqlite3.Connection, instance: str, number: int) -> int:
    """Exactly once: what it writes is committed with its result."""
    with ledger.noted(instance, number):
        db.execute("create table if not exists noted (instance text, number integer)")
        db.execute("insert into noted values (?, ?)", (instance, number))
    return number


@workflow
async def notes(ctx: Context, number: int) -> int:
    first = await ctx.call_activity(note, ctx.instance_id, number)
    return first + await ctx.call_activity(note, ctx.instance_id, number + 1)


@workflow
async def rounds(ctx: Context, number: int) -> int:
    """Each number is a round of its own, and a nap between them."""
    if number % 4:
        await ctx.sleep(timedelta(milliseconds=20))
        ctx.continue_as_new(await ctx.call_activity(flows.add, number, 1))
    return number


KINDS = [flow for flow in flows.KINDS if flow.name != "booking"] + [notes, rounds]
flows.KINDS[:] = KINDS
_expected_of_others = flows.expected


def expected(kind: str, number: int) -> object:
    match kind:
        case "notes":
            return 2 * number + 1
        case "rounds":
            return -(-number // 4) * 4
        case _:
            return _expected_of_others(kind, number)


flows.expected = expected


class Patience(Exception):
    """The store has not answered for too long."""


async def ask(count: int, *, safe: bool, on: bool) -> None:
    backend = SqliteBackend("store.db", power_loss_safe=safe)
    settings = Settings(lease_s=2.0, grace_s=0.5)
    async with Engine(backend, settings=settings, listeners=[member.listen]) as engine:
        acks = member.Acks(Path("acks.jsonl"))
        asker = member.Asker(engine, "a", acks, 0)
        for first in itertools.count(0, count) if on else [0]:
            async with asyncio.TaskGroup() as group:
                for number in range(first, first + count):
                    group.create_task(asker._one(number))
    print("asked")


async def insist(count: int, *, safe: bool, on: bool) -> None:
    """As whoever runs a service: an engine that had to stop is started again."""
    for _ in range(60):  # each start may meet one failing call
        try:
            await ask(count, safe=safe, on=on)
        except* (StorageError, EngineClosed) as errors:
            print(f"stopped: {errors.exceptions[0]!r}", flush=True)
            await asyncio.sleep(0.05)
        else:
            return
    raise Patience


def check_notes() -> None:
    with sqlite3.connect("store.db") as db:
        twice = db.execute("select instance, number from noted group by 1, 2 having count(*) > 1").fetchall()
        assert twice == [], twice


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--unsafe", action="store_true", help="synchronous=NORMAL")
    parser.add_argument("--on", action="store_true", help="ask for as many again, and again, until somebody ends it")
    given = parser.parse_args()
    ledger.open_ledger("ledger.jsonl")
    asyncio.run(insist(given.count, safe=not given.unsafe, on=given.on))
    check_notes()

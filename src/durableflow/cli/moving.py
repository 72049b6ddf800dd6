"""`durableflow move SOURCE TARGET`: what it can be told, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # parsing and help need none of it
    from durableflow.backends.base import Backend
    from durableflow.runtime.moves import Move, MoveReport

DESCRIPTION: Final = (
    "Move a store into another one, which must be empty: all instances, whether they are over or not, with their "
    "messages, tasks and dead letters, and schedules, queues and circuits. Stop the workers of the source first. The "
    "copy is compared with the original, instance by instance, before anybody may open it. The source stays as it was, "
    "but is sealed: whoever opens it is told where it has gone. If it is interrupted, run it again: it goes on where "
    "it was."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it can be told."""
    parser.add_argument("source", metavar="SOURCE", help="the URL of the store that is to be moved")
    parser.add_argument("target", metavar="TARGET", help="the URL of an empty store; its tables are made if need be")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="check whether it can be moved, and read all of it; move nothing"
    )
    what.add_argument(
        "--abort",
        action="store_true",
        help="give up a move that was interrupted: empty the target, and open the source again",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long until nobody works on the stores any more (by default not at all)",
    )
    parser.add_argument(
        "--leave-user-tables",
        action="store_true",
        help="move a store among whose tables are others, which stay behind",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it; 0 when it is done, or can be."""
    from durableflow.errors import DurableflowError

    try:
        return asyncio.run(_run(arguments))
    except DurableflowError as error:
        print(f"durableflow move: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("durableflow move: interrupted; run it again to go on, or with --abort", file=sys.stderr)
        return 130


async def _run(arguments: argparse.Namespace) -> int:
    from durableflow.backends.stores import open_backend
    from durableflow.runtime.clock import SystemClock
    from durableflow.runtime.moves import Move

    source, target = open_backend(arguments.source), open_backend(arguments.target)
    async with AsyncExitStack() as stack:
        for store in (source, target):
            await store.open()
            stack.push_async_callback(store.close)
        move = Move(source, target, SystemClock(), _Voice().tell)
        if arguments.abort:
            await move.abort()
            print(f"aborted: {source.address} is open again, {target.address} is empty")
            return 0
        if not await _may_leave_tables(source, may=arguments.leave_user_tables):
            return 1
        return await _move(move, arguments)


async def _may_leave_tables(source: Backend, *, may: bool) -> bool:
    tables = await source.foreign_tables()
    if tables:
        print(
            f"among the tables of {source.address} are others, which are not moved: {', '.join(tables)}; "
            "transactional activities write them in the store's own database",
            file=sys.stderr,
        )
        if not may:
            print("say --leave-user-tables to move the store without them", file=sys.stderr)
    return may or not tables


async def _move(move: Move, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        report = await move.look()
        _print(f"{report.source} can be moved to {report.target}", report)
        return 0
    report = await move.run(wait_s=arguments.wait)
    did = "had been moved" if report.was_done else "is moved"
    _print(f"{report.source} {did} to {report.target}, which may be opened now", report)
    return 0


def _print(said: str, report: MoveReport) -> None:
    held = ", ".join(f"{count:,} {part}" for part, count in report.counts.items() if count)
    print(f"{said}: {held or 'it is empty'}")
    if report.unreadable:
        print(
            f"of these instances not all can be read by this version; they are moved as they are: "
            f"{', '.join(map(repr, report.unreadable))}",
            file=sys.stderr,
        )


class _Voice:
    """Says how far it is: on a terminal all the time, elsewhere when a part is done."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def tell(self, what: str, done: int, total: int) -> None:
        """Say it."""
        is_done = done >= total
        if self._is_terminal:
            print(f"\r\x1b[K{what}: {done:,} of {total:,}", end="\n" if is_done else "", file=sys.stderr, flush=True)
        elif is_done:
            print(f"{what}: {done:,}", file=sys.stderr, flush=True)

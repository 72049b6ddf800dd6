"""`durableflow migrate URL`: bring the schema of a store up to this version, as whoever may."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Final

DESCRIPTION: Final = (
    "Make the tables of a store, or bring them up to this version, and do nothing else. Any engine does so when it "
    "opens a store; this is for those whose users may not, on Postgres: run it as the schema's owner before workers "
    "are replaced."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it can be told."""
    parser.add_argument("store", metavar="URL", help="the URL of the store")


def run(arguments: argparse.Namespace) -> int:
    """Do it; gives the exit code."""
    from durableflow.errors import DurableflowError

    try:
        asyncio.run(_open_and_close(arguments.store))
    except DurableflowError as error:
        print(error, file=sys.stderr)
        return 1
    print("the store is up to date")
    return 0


async def _open_and_close(url: str) -> None:
    from durableflow.backends.stores import open_backend

    backend = open_backend(url)
    await backend.open()
    await backend.close()

"""The demo: an order workflow whose worker is killed in the middle, shown live and then proved.

A guest of the library, as any program is: it uses what `durableflow` exports and nothing
below. `order` is the program that a user would write, `worker` the process that is killed,
`play` the process that kills it, `proof` the judge, `timeline` the voice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

DESCRIPTION: Final = (
    "Show an order workflow on a SQLite file, live. Its worker process is killed with SIGKILL in the middle and "
    "started again; at the end, a ledger of what ran is compared with what was recorded. Takes a few seconds."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the demo can be told."""
    parser.add_argument(
        "--store",
        metavar="PATH",
        help="keep the histories in this SQLite file, to look at them afterwards (by default in a temporary folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the demo; 0 only if the proof holds."""
    from durableflow.demo.play import perform  # parsing and help need none of it

    return perform(arguments.store)


def main(argv: Sequence[str] | None = None) -> int:
    """What `python -m durableflow.demo` does."""
    parser = argparse.ArgumentParser(prog="python -m durableflow.demo", description=DESCRIPTION)
    add_arguments(parser)
    return run(parser.parse_args(sys.argv[1:] if argv is None else argv))

"""The command line: words in, exit codes out. The rooms that do the work are imported by the word that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from durableflow import demo
from durableflow.cli import migrating, moving


def main(argv: Sequence[str] | None = None) -> int:
    """What `durableflow ...` does; gives the exit code: 0 well, 1 not, 2 not understood."""
    parser = argparse.ArgumentParser(
        prog="durableflow", description="Durable execution embedded in Python: ordinary functions that survive crashes."
    )
    parser.set_defaults(run=None)
    words = parser.add_subparsers(title="commands", metavar="COMMAND")
    word = words.add_parser(
        "demo", help="see an order workflow survive kill -9 (a few seconds)", description=demo.DESCRIPTION
    )
    demo.add_arguments(word)
    word.set_defaults(run=demo.run)
    word = words.add_parser(
        "migrate", help="bring the tables of a store up to this version", description=migrating.DESCRIPTION
    )
    migrating.add_arguments(word)
    word.set_defaults(run=migrating.run)
    word = words.add_parser(
        "move", help="move a store into another one, of whatever kind", description=moving.DESCRIPTION
    )
    moving.add_arguments(word)
    word.set_defaults(run=moving.run)
    word = words.add_parser("version", help="print the version", description="Print the version.")
    word.set_defaults(run=_print_version)

    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    code: int = arguments.run(arguments)
    return code


def _print_version(_: argparse.Namespace) -> int:
    try:
        print(metadata.version("durableflow"))
    except metadata.PackageNotFoundError:
        print("durableflow is not installed here, only its source is at hand", file=sys.stderr)
        return 1
    return 0

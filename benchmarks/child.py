"""One phase of one workload, in the contender's own environment and process; started by `run`, ends in a JSON file."""

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from benchmarks import process, work
from benchmarks.bench import SCALES, Bench
from benchmarks.contenders import SPECS
from benchmarks.contract import Contender, Spec, UnsupportedError
from benchmarks.load import checked_call
from benchmarks.workloads import WORKLOADS

CLOSE_TIMEOUT_S: Final = 5
REASON_MAX: Final = 300  # characters


def main() -> None:
    arguments = _parse()
    spec = SPECS[arguments.contender]
    contender = made_contender(spec)
    task = _describe(spec, contender, arguments) if arguments.describe else _measure(spec, contender, arguments)
    asyncio.run(_answer(contender, task, arguments.output))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.child", description=__doc__)
    parser.add_argument("--contender", required=True, choices=SPECS)
    parser.add_argument("--workload", choices=WORKLOADS)
    parser.add_argument("--phase", type=int, default=0)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--earlier", type=json.loads, default={}, help="figures of earlier phases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def made_contender(spec: Spec) -> Contender:
    module, _, name = spec.factory.partition(":")
    made: Contender = getattr(importlib.import_module(module), name)()
    return made


async def _answer(contender: Contender, task: Any, output: Path) -> None:
    """Write what the task found, or how it failed, then leave whatever threads still hang."""
    crash = False
    try:
        answer = await task
        crash = answer.pop("crash", False)
    except UnsupportedError as error:
        answer = {"status": "unsupported", "reason": str(error)}
    except BaseException as error:  # whatever it is, it is the result of this cell
        traceback.print_exc()
        answer = {"status": "failed", "reason": _in_one_line(f"{type(error).__name__}: {error}")}
    _write(output, answer)
    if crash:
        work.crash()
    with contextlib.suppress(Exception):  # the answer is written; a peer that cannot stop is stopped by the parent
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await contender.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _in_one_line(reason: str) -> str:
    return " ".join(reason.split())[:REASON_MAX]


def _write(output: Path, answer: dict[str, Any]) -> None:
    output.write_text(json.dumps(answer))


async def _measure(spec: Spec, contender: Contender, arguments: argparse.Namespace) -> dict[str, Any]:
    workload = WORKLOADS[arguments.workload]
    bench = Bench(
        contender=contender,
        spec=spec,
        scale=SCALES[arguments.scale],
        dice=random.Random(arguments.seed),
        directory=arguments.directory,
        earlier=arguments.earlier,
    )
    figures = await workload.phases[arguments.phase](bench)
    return {
        "status": "ok",
        "figures": figures,
        "samples": bench.samples,
        "notes": bench.notes,
        "crash": bench.crash_after,
    }


async def _describe(spec: Spec, contender: Contender, arguments: argparse.Namespace) -> dict[str, Any]:
    """Does it run here at all; in which versions, with which durability?"""
    await contender.open(process.made(arguments.directory / "state"))
    await checked_call(contender, "one", 1)
    versions = {name: importlib.metadata.version(name) for name in spec.distributions}
    return {"status": "ok", "versions": versions, "durability": dict(await contender.durability())}


if __name__ == "__main__":
    main()

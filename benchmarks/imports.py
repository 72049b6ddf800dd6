"""Import time: fresh interpreters, the one thing that cannot be measured from inside."""

import os
import statistics
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.contract import Spec

BASELINE: Final = "import asyncio, msgspec"
CODE: Final = "from time import perf_counter as t; began = t(); {statement}; print((t() - began) * 1000)"


def import_figures(spec: Spec, python: Path, *, times: int) -> dict[str, float]:
    """Median milliseconds of the contender's import; for ours also against what it cannot do without.

    The two take turns, so that a slow moment of the machine falls on both. The first of each, which may still have to
    compile, does not count.
    """
    wanted, baseline, bare = [], [], []
    for _ in range(times + 1):
        wanted.append(_import_ms(python, spec.imports))
        if spec.ours:
            baseline.append(_import_ms(python, BASELINE))
            bare.append(_import_ms(python, spec.bare_import))
    figures = {"import_ms": statistics.median(wanted[1:])}
    if baseline:
        figures["baseline_ms"] = statistics.median(baseline[1:])
        figures["bare_ms"] = statistics.median(bare[1:])
        figures["over_baseline"] = figures["import_ms"] / figures["baseline_ms"]
    return figures


def _import_ms(python: Path, statement: str) -> float:
    command = [str(python), "-c", CODE.format(statement=statement)]
    # An installed package has its bytecode files; in a source tree the first import must be allowed to write them.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=env)
    return float(done.stdout)

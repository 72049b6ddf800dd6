"""`python -m benchmarks.soak.report`: turn a record into `docs/reliability/soak.md`. Its numbers are all from there."""

import argparse
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.environments import REPOSITORY
from benchmarks.report import drawn, table
from benchmarks.results import DIRECTORY
from benchmarks.soak.faults import SESSIONS
from benchmarks.soak.record import Record
from benchmarks.soak.verdict import checks, passed

PLOTS: Final = {
    "soak-memory.svg": "Memory of the processes and of the server, over the time",
    "soak-counts.svg": "Tasks, files, threads, sessions and instances in memory, over the time",
    "soak-latency.svg": "Latencies, instances that are not over, and cores in use, over the time",
    "soak-tables.svg": "Rows and size of the tables, over the time",
}
VERDICTS: Final = {True: "holds", False: "**broken**", None: "too short"}

HEAD: Final = """\
# Soak

An hour under load while workers are killed: does anything grow that should not? This page is written by
`python -m benchmarks.soak.report` from what was measured, and what people saw in it (both in `benchmarks/results`).
"""

METHOD: Final = """\
## What ran

Three workers and a client, each a process of its own, on a PostgreSQL that syncs every commit; a fourth process does
the faults, samples and judges. The client starts {rate:g} instances in a second, whatever becomes of those before: an
open loop. They are of fourteen kinds in turn: activities in sequence, fan-out, timers, external events, retries,
children that send events, activities of a queue, transactional activities, continue-as-new, cancellation, termination,
suspend and resume, requests, naps of 20 to 40 s. A schedule starts one more each second. The client, which knows what
each must return, sees it to its end.

One worker, and the client, are left alone for the whole time, so that a curve of theirs means something. The other two
are killed (`SIGKILL`) and started again, or frozen (`SIGSTOP`) past their lease of {lease:g} s and woken. Besides,
{sessions} sessions at a time are ended at the server, whosever they are, and once the server itself crashes (it stops
in its mode "immediate") and is started again. What happens when follows from a seed.

Finished instances are removed by retention {retention:g} s after their end (`purge_finished`). Before that each is
judged, {judge:g} s after its end, by [the judge](crashes.md#the-judge) of the other tests: its history and its replay,
what was acknowledged of it, and what its activities wrote down when they ran.

Every {every:g} s each process writes down its memory, files, threads and tasks, and the client the latencies since the
last time; the server is asked for its sessions and tables. A latency counts from the moment at which the start was
due: a standstill is seen as one. Other work ran on this machine, now more, now less. A commit of one row, which has
nothing to do with the load, is timed beside it on the same server, and says how slow the machine was.
"""

RULES: Final = """\
## The verdict

The rules ([`benchmarks/soak/verdict.py`](../../benchmarks/soak/verdict.py)) were settled before there was a result;
`tests/benchmarks/test_soak_verdict.py` plants a leak of each kind and shows that it is found. The first tenth (at least
five minutes) is left out; of the rest, "beginning" is the first tenth, and "end" the last.
"""

AGAIN: Final = """\
## Again

```console
$ nox -s soak -- --minutes 60                     # or python -m benchmarks.soak; --seed, --rate and more: --help
$ python -m benchmarks.soak.verdict FILE.json     # the rules over what was measured
$ python -m benchmarks.soak.report                # this page
```

A soak of some seconds with one kill is part of the tests (`tests/benchmarks/test_soak.py`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.report", description=__doc__)
    parser.add_argument("--input", type=Path, default=DIRECTORY / "soak.json")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "reliability" / "soak.md")
    options = parser.parse_args()
    plots = drawn(options.input.absolute(), options.output.parent.absolute(), "benchmarks.soak.plots")
    seen = options.input.with_suffix(".md")
    options.output.write_text(page(Record.load(options.input), plots, seen.read_text() if seen.exists() else ""))
    print(f"{os.path.relpath(options.input)} -> {os.path.relpath(options.output)}")


def page(record: Record, plots: Sequence[str] = (), seen: str = "") -> str:
    """The whole page.

    Args:
        plots: files beside it.
        seen: what people saw in the curves.
    """
    shown = "\n".join(f"![{PLOTS[name]}]({name})\n" for name in plots)
    verdict = "No rule is broken." if passed(record) else "**At least one rule is broken; see the table.**"
    rules = table(("what", "rule", "found", ""), [(*check[:3], VERDICTS[check.passed]) for check in checks(record)])
    sections = [
        HEAD,
        f"{verdict}\n",
        table(("", ""), list(_facts(record))),
        f"## The curves\n\nThin lines mark faults.\n\n{shown}" if plots else "",
        seen,
        _method(record),
        f"{RULES}\n{rules}",
        AGAIN,
    ]
    return "\n".join(section for section in sections if section)


def _method(record: Record) -> str:
    terms = record.terms
    return METHOD.format(
        rate=terms.rate,
        lease=terms.lease_s,
        sessions=SESSIONS,
        retention=terms.retention_s,
        judge=terms.judge_after_s,
        every=terms.sample_every_s,
    )


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    totals, done = record.totals, Counter(fault.what for fault in record.faults)
    began = f"{totals['acknowledged']:,.0f} started by the client, {totals['slots']:,.0f} by the schedule"
    judged = f"with children {totals['judged']:,.0f} ended and were judged"
    cores = f"{_median(record, 'own_cores'):.2f} by the soak and its server"
    yield "date", record.started
    yield "command", f"`{record.command}`"
    yield "revision, seed", f"`{record.revision}`, {record.terms.seed}"
    yield "load", f"{record.terms.duration_s / 60:g} minutes, {record.terms.rate:g} starts in a second"
    yield "instances", f"{began}; {judged}, {totals['removed']:,.0f} removed by retention"
    yield "faults", "; ".join(f"{what}: {count}" for what, count in done.items())
    yield "violations", f"{len(record.violations)}"
    yield from record.machine.items()
    yield "cores in use, median", f"{cores}, {_median(record, 'all_cores'):.2f} by all that ran on this machine"


def _median(record: Record, column: str) -> float:
    values = [value for _, value in record.column("machine", column)]
    return statistics.median(values) if values else 0.0


if __name__ == "__main__":
    main()

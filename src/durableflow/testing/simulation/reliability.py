"""The table of `docs/reliability.md`: each promise, the checker that guards it, and how often a run has called it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from durableflow.testing.simulation.campaign import Report
from durableflow.testing.simulation.holdings import HOLDINGS
from durableflow.testing.simulation.invariants import INVARIANTS, Invariant
from durableflow.testing.simulation.twins import TWINS
from durableflow.testing.simulation.verdicts import VERDICTS

BEGIN: Final = "<!-- written by nox -s simulate: begin -->"
END: Final = "<!-- written by nox -s simulate: end -->"

_PLACES: Final = {
    "row": "each row, before it is taken",
    "event": "each event",
    "commit": "each commit",
    "store": "each commit, in the store",
    "rewind": "each rewind",
    "copy": "each copy",
    "purge": "each purge",
    "twin": "the end, beside a second universe",
    "attempt": "each attempt, when its code begins",
    "circuit": "each change of a circuit",
    "attempt of a circuit": "each attempt of an activity with a circuit",
    "ack": "each acknowledgement",
    "end": "the end of each universe",
    "course": "the course of each universe",
}
COURSE: Final = {
    "one_id_is_one_instance": ("I19", "Whoever starts an id, however often and at once, there is one instance."),
    "no_attempt_is_made_twice": ("I25", "No two attempts have one number."),
    "what_is_due_happens": ("I26", "Timers, attempts and answers come when nothing goes wrong any more."),
    "all_that_was_begun_ends": ("I26", "And so does the end."),
    "no_instance_stalls": ("I16", "Code that has not changed is never taken for changed."),
    "no_engine_dies_of_itself": ("I43", "No fault of the store ends a worker's loops."),
    "no_exception_goes_astray": ("I43", "Nor is an exception lost."),
    "whoever_asks_is_answered": ("I26", "When nothing goes wrong, each call has an answer."),
    "an_idle_fleet_asks_little": ("I48", "When all is over, the store is asked now and then only."),
    "time_passes": ("I48", "No loop turns without waiting."),
}
"""What is no function of its own, because the universe itself would not go on."""


def table(checks: Mapping[str, int]) -> str:
    """Each invariant, with how often it was checked."""
    lines = ["| promise | in words | guard | checked with | times |", "|---|---|---|---|---|"]
    rows = [
        (each.number, each.name, _words(each), _PLACES[each.place])
        for each in (*INVARIANTS, *HOLDINGS, *VERDICTS, *TWINS.values())
    ]
    rows += [(number, name, words, _PLACES["course"]) for name, (number, words) in COURSE.items()]
    for number, name, words, place in sorted(rows, key=_order):
        times = checks.get(name)
        told = "always" if times is None else f"{times:,}"
        lines.append(f"| {number} | {words} | `{name}` | {place} | {told} |")
    return "\n".join(lines)


def _order(row: tuple[str, str, str, str]) -> tuple[int, str]:
    digits = row[0].removeprefix("I")
    return (int(digits) if digits.isdigit() else 0, row[1])


def _words(each: Invariant) -> str:
    return " ".join((each.check.__doc__ or "").split())


def numbers(report: Report) -> str:
    """What a run did, and its table."""
    faults = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.faults.items()))
    stores = ", ".join(f"{count:,} on {store}" for store, count in sorted(report.by_store.items()))
    return (
        f"{report.line()}.\nThey had {report.attempts:,} attempts of activities, {report.commits:,} commits and "
        f"{report.calls:,} calls of the store, in {report.virtual_s / 3600:,.0f} hours of their own time ({stores}).\n"
        f"The faults: {faults}.\nPython {platform.python_version()}, {platform.machine()}.\n\n{table(report.checks)}"
    )


def write_numbers(page: Path, report: Report) -> None:
    """Put the numbers of a run in their place."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{numbers(report)}\n\n{END}{after}")

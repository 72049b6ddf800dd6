"""The judge: what the ledger says was done, beside what the histories say was recorded.

Pure: it is handed both and gives claims, each of which holds or does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from durableflow.core.view import HistoryEvent
from durableflow.demo.ledger import Entry
from durableflow.model import events as ev


class Kill(NamedTuple):
    """What was so at the moment when a worker was dead and the next had not begun.

    Attributes:
        lines: how many the ledger had.
        recorded: keys of the activities whose result was in a history.
    """

    process: int
    lines: int
    recorded: frozenset[str]


class Row(NamedTuple):
    """One activity: how often an attempt of it began, how many results were recorded."""

    instance: str
    activity: str
    began: int
    results: int
    remark: str


class Claim(NamedTuple):
    """A sentence, and whether it is true."""

    holds: bool
    text: str


class Evidence(NamedTuple):
    """All that the proof rests on."""

    ledger: Sequence[Entry]
    histories: Mapping[str, Sequence[HistoryEvent]]
    kills: Sequence[Kill]

    def began(self, start: int = 0, stop: int | None = None) -> Counter[str]:
        """How often attempts began in these lines of the ledger, by key."""
        return Counter(entry.key for entry in self.ledger[start:stop] if entry.what == "begins")

    def interrupted(self, kill: Kill) -> frozenset[str]:
        """Keys of what was running in the process that was killed."""
        mine = [entry for entry in self.ledger[: kill.lines] if entry.process == kill.process]
        ended = {entry.key for entry in mine if entry.what in ("is done", "fails")}
        return frozenset(entry.key for entry in mine if entry.what == "begins" and entry.key not in ended)

    def asked_for(self) -> dict[str, str]:
        """Key and name of each activity that a history asks for."""
        return {
            f"{instance}/{entry.event.task}": entry.event.name
            for instance, history in self.histories.items()
            for entry in history
            if isinstance(entry.event, ev.ActivityScheduled)
        }

    def results(self) -> Counter[str]:
        """How many results the histories hold, by key."""
        return Counter(key for instance, history in self.histories.items() for key in results_in(instance, history))


def results_in(instance: str, history: Sequence[HistoryEvent]) -> list[str]:
    """Keys of the activities that have a final result in this history."""
    return [
        f"{instance}/{entry.event.task}"
        for entry in history
        if isinstance(entry.event, (ev.ActivityCompleted, ev.ActivityFailed))
    ]


def rows(evidence: Evidence) -> list[Row]:
    """The table, in the order in which the histories ask."""
    began, results = evidence.began(), evidence.results()
    recorded = {key for kill in evidence.kills for key in kill.recorded}
    interrupted = {key for kill in evidence.kills for key in evidence.interrupted(kill)}
    failed = {entry.key: entry.text for entry in evidence.ledger if entry.what == "fails"}

    def remark(key: str) -> str:
        if key in interrupted:
            return "killed while it was running, so it began again"
        how = f"failed ({failed[key]}), " if key in failed else ""
        return f"{how}recorded before the kill, so never again" if key in recorded else how.rstrip(", ")

    return [
        Row(key.rpartition("/")[0], name, began[key], results[key], remark(key))
        for key, name in evidence.asked_for().items()
    ]


def claims(evidence: Evidence) -> list[Claim]:
    """What must be true."""
    began, results, asked = evidence.began(), evidence.results(), evidence.asked_for()
    recorded = {key for kill in evidence.kills for key in kill.recorded}
    again = [key for kill in evidence.kills for key in kill.recorded if evidence.began(kill.lines)[key]]
    interrupted = [key for kill in evidence.kills for key in evidence.interrupted(kill)]
    return [
        Claim(
            bool(evidence.kills) and all(kill.recorded and evidence.interrupted(kill) for kill in evidence.kills),
            f"a worker was killed {_times(len(evidence.kills))}, each time while an activity was running "
            "and after others had finished",
        ),
        Claim(
            not again,
            f"{len(recorded)} results were recorded before a kill: none of these activities began again",
        ),
        Claim(
            all(began[key] == 1 + interrupted.count(key) for key in asked),
            f"{len(set(interrupted))} activities were killed while running: only these began again, once per kill",
        ),
        Claim(
            bool(asked) and all(results[key] == 1 for key in asked),
            f"{len(asked)} activities were asked for: each has one result in its history",
        ),
        Claim(
            all(asked.get(entry.key) == entry.activity for entry in evidence.ledger if entry.key),
            "nothing began that no history asks for",
        ),
    ]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")

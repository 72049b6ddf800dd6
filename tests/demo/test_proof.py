"""The judge finds each way in which the proof could be false."""

from dataclasses import dataclass, field

import pytest

from durableflow.core.view import HistoryEvent
from durableflow.demo.ledger import Entry
from durableflow.demo.proof import Evidence, Kill, claims, rows
from durableflow.model import events as ev
from durableflow.model.failure import Failure

KILLED, NEXT = 101, 102


@dataclass
class Case:
    """An order of two activities: `reserve` was recorded before the kill, `charge` was running."""

    ledger: list[Entry] = field(
        default_factory=lambda: [
            note("begins", "reserve", 1),
            note("is done", "reserve", 1),
            note("begins", "charge", 2),
            note("begins", "charge", 2, NEXT),
            note("is done", "charge", 2, NEXT),
        ]
    )
    events: list[ev.Event] = field(
        default_factory=lambda: [
            ev.ActivityScheduled(1, "reserve", b"[]", b""),
            ev.ActivityCompleted(1, b"1"),
            ev.ActivityScheduled(2, "charge", b"[]", b""),
            ev.ActivityCompleted(2, b"2", 2),
        ]
    )
    kills: list[Kill] = field(default_factory=lambda: [Kill(KILLED, 3, frozenset({"o/1"}))])

    def evidence(self) -> Evidence:
        history = [HistoryEvent(seq, 0, event) for seq, event in enumerate(self.events, 1)]
        return Evidence(self.ledger, {"o": history}, self.kills)

    def broken(self) -> list[str]:
        return [claim.text for claim in claims(self.evidence()) if not claim.holds]


def note(what: str, activity: str, number: int, process: int = KILLED) -> Entry:
    return Entry(0.0, process, what, "o", activity, f"o/{number}", 1)


def test_what_went_well_is_believed() -> None:
    assert Case().broken() == []
    assert [(row.activity, row.began, row.results) for row in rows(Case().evidence())] == [
        ("reserve", 1, 1),
        ("charge", 2, 1),
    ]


def test_a_finished_activity_that_began_again_is_found() -> None:
    case = Case()
    case.ledger.append(note("begins", "reserve", 1, NEXT))
    assert any("none of these activities began again" in text for text in case.broken())


def test_an_activity_that_was_not_running_and_began_again_is_found() -> None:
    case = Case()
    case.ledger += [note("begins", "charge", 2, NEXT), note("is done", "charge", 2, NEXT)]
    assert [text for text in case.broken() if "once per kill" in text]


def test_an_interrupted_activity_that_never_began_again_is_found() -> None:
    case = Case()
    del case.ledger[3:]
    assert [text for text in case.broken() if "once per kill" in text]


@pytest.mark.parametrize("result", [ev.ActivityCompleted(2, b"3", 2), ev.ActivityFailed(2, Failure("E", ""), 2, 2)])
def test_a_second_result_is_found(result: ev.Event) -> None:
    case = Case()
    case.events.append(result)
    assert [text for text in case.broken() if "each has one result" in text]


def test_a_missing_result_is_found() -> None:
    case = Case()
    del case.events[-1]
    assert [text for text in case.broken() if "each has one result" in text]


@pytest.mark.parametrize("phantom", [note("begins", "charge", 3), note("begins", "refund", 2)])
def test_what_began_without_being_asked_for_is_found(phantom: Entry) -> None:
    case = Case()
    case.ledger.insert(0, phantom)
    case.kills[0] = case.kills[0]._replace(lines=4)
    assert "nothing began that no history asks for" in case.broken()


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([], id="no kill"),
        pytest.param([Kill(KILLED, 3, frozenset())], id="nothing was recorded"),
        pytest.param([Kill(KILLED, 2, frozenset({"o/1"}))], id="nothing was running"),
    ],
)
def test_a_kill_that_proves_nothing_is_found(kills: list[Kill]) -> None:
    case = Case(kills=kills)
    assert any("a worker was killed" in text for text in case.broken())


def test_an_empty_ledger_proves_nothing() -> None:
    assert Case(ledger=[], events=[], kills=[]).broken()

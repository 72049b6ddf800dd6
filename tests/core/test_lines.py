"""Events as lines of JSON, and back."""

import msgspec
import pytest

from durableflow.core.lines import KINDS, entry_of, line_of, turns_of
from durableflow.core.view import HistoryEvent, numbered
from durableflow.errors import CorruptHistory
from durableflow.model import events as ev


class Clashing(msgspec.Struct, frozen=True, array_like=True, tag="clashing"):
    """An event whose fields are called as parts of the line are."""

    seq: int
    at: str
    kind: bytes
    other: int = 0


def test_fields_that_are_called_like_parts_of_the_line_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "clashing", Clashing)
    entry = HistoryEvent(5, 1_000_000, Clashing(3, "home", b"7"), 4)  # type: ignore[arg-type]  # no event of today's
    line = line_of(entry)
    assert line == {
        "seq": 5, "turn": 4, "at": "1970-01-01T00:00:01.000000+00:00", "kind": "clashing",
        "seq_": 3, "at_": "home", "kind_": 7,
    }  # fmt: skip
    assert entry_of(msgspec.json.decode(msgspec.json.encode(line))) == entry


def test_what_is_no_event_is_refused() -> None:
    line = line_of(HistoryEvent(1, 0, ev.TimerFired(2), 1))
    for changed in ({"task": "two"}, {"kind": "timer"}, {"more": 1}, {"at": "soon"}, {"seq": None}):
        with pytest.raises((KeyError, TypeError, ValueError, msgspec.ValidationError)):
            entry_of(line | changed)


def test_events_are_turns_again_only_when_their_numbers_are_whole() -> None:
    rows = [(1, 5, [ev.TimerCreated(1, 9), ev.TimerCreated(2, 9)]), (3, 6, [ev.TimerFired(1)])]
    entries = numbered(rows)
    assert turns_of("a", entries) == rows
    for spoilt in (entries[1:], [entries[0], entries[2]], [*entries, entries[2]], entries[::-1]):
        with pytest.raises(CorruptHistory, match="must follow"):
            turns_of("a", spoilt)

"""Replay check mode, for tests: every instance is replayed after its turns, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durableflow.backends.base import HistoryRow
from durableflow.core.execution import Execution
from durableflow.errors import CorruptHistory, ReplayError
from durableflow.model import events as ev
from durableflow.runtime.live import Live

_CHECK_ALWAYS_ROWS: Final = 64


class ReplayCheck:
    """Replays instances from their rows.

    Args:
        payload_limit_bytes: as that of the instances.
    """

    def __init__(self, payload_limit_bytes: int) -> None:
        self._payload_limit_bytes = payload_limit_bytes

    def difference(self, live: Live) -> ReplayError | None:
        """What differs between the instance and its replay, if anything.

        Every turn of a short history is followed by a check. A long one is replayed each time it has
        grown by an eighth, and at its end: each row is compared, and the cost stays in proportion.
        """
        log = live.log
        assert log is not None
        for rows in live.log_before:
            error = self._difference_of_round(live, rows)
            if error is not None:
                return error
        live.log_before.clear()
        if _CHECK_ALWAYS_ROWS < len(log) < live.checked_rows * 9 // 8 and live.execution.ended is None:
            return None
        live.checked_rows = len(log)
        twin = self._twin(live, log)
        try:
            for row in log:
                twin.replay(row.first_seq, row.at_us, ev.load_events(row.events))
            if (twin.status, twin.next_seq) != (live.execution.status, live.execution.next_seq):
                raise CorruptHistory(f"replay of {live.id!r} ends {twin.status} at #{twin.next_seq - 1}")
        except ReplayError as error:
            return error
        finally:
            twin.put_away()
        return None

    def _difference_of_round(self, live: Live, rows: Sequence[HistoryRow]) -> ReplayError | None:
        """What differs between a round that is over and its replay."""
        twin = self._twin(live, rows)
        try:
            for row in rows:
                twin.replay(row.first_seq, row.at_us, ev.load_events(row.events))
        except ReplayError as error:
            return error
        finally:
            twin.put_away()
        return None

    def _twin(self, live: Live, rows: Sequence[HistoryRow]) -> Execution:
        twin = Execution(live.id, live.execution.program, payload_limit_bytes=self._payload_limit_bytes)
        if rows:
            twin.next_seq = rows[0].first_seq
        return twin

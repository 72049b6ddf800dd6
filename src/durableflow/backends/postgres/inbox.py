"""Up to which number the inbox can be read for good.

Numbers are drawn before their transactions are committed, so a lower one can appear behind a higher one. A transaction
has a number of its own, from the server, before it draws one for a message. So when all transactions are over that had
one at some moment, all numbers that had been drawn before that moment have appeared, or never will.
"""

from __future__ import annotations

from collections import deque


class Horizon:
    """What one reader of the inbox knows of that."""

    def __init__(self) -> None:
        self._drawn = 0
        """The last number that had been drawn when the reader looked last."""
        self._moments: deque[tuple[int, int]] = deque()
        """The first transaction number that was not given out yet, and the last message number drawn before that."""
        self._settled = 0

    def look(self, oldest_open: int, next_transaction: int, drawn: int) -> int:
        """The number up to which all that is there is there in a reading of this moment.

        Args:
            oldest_open: of the transactions that were open in the snapshot of the reading, the lowest number.
            next_transaction: what the snapshot says has not begun.
            drawn: the last number of a message, drawn perhaps after the snapshot.
        """
        if self._drawn > (self._moments[-1][1] if self._moments else self._settled):
            self._moments.append((next_transaction, self._drawn))
        self._drawn = max(self._drawn, drawn)
        while self._moments and self._moments[0][0] <= oldest_open:
            self._settled = self._moments.popleft()[1]
        return self._settled

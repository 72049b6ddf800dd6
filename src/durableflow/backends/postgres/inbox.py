"""Up to which number the inbox can be read for good.

Numbers are drawn before their transactions are committed, so a lower one can appear behind a higher one. A sender's
transaction has a number of its own, from the server, before it draws one for a message. A reader takes one, too, after
it has learnt which message number was drawn last: whoever drew that or an earlier one has a lower transaction number.
When all transactions with lower ones are over, those messages have appeared, or never will.

(What a snapshot calls its `xmax` would not do: transactions that are under way can have that number, and higher ones.)
"""

from __future__ import annotations

from collections import deque


class Horizon:
    """What one reader of the inbox knows of that."""

    def __init__(self) -> None:
        self._drawn = 0
        """The last message number that had been drawn when the reader looked last."""
        self._moments: deque[tuple[int, int]] = deque()
        """A transaction number of the reader's, and the last message number drawn before."""
        self._settled = 0

    @property
    def is_behind(self) -> bool:
        """Whether the reader should take a transaction number."""
        return self._drawn > (self._moments[-1][1] if self._moments else self._settled)

    def look(self, oldest_open: int, own: int | None, drawn: int) -> int:
        """The number up to which all that is there is there in a reading of this moment.

        Args:
            oldest_open: of the transactions that were open in the snapshot of the reading, the lowest number.
            own: the transaction number that the reader took, if it did.
            drawn: the last message number that has been drawn.
        """
        if own is not None:
            self._moments.append((own, self._drawn))
        self._drawn = max(self._drawn, drawn)
        while self._moments and self._moments[0][0] <= oldest_open:
            self._settled = self._moments.popleft()[1]
        return self._settled

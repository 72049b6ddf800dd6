"""Up to which number the inbox can be read for good.

Numbers are drawn before their transactions are committed, so a lower one can appear behind a higher one. A sender's
transaction has a number of its own, from the server, before it draws one for a message. A reader takes one, too, after
it has learnt which message number was drawn last: whoever drew that or an earlier one has a lower transaction number.
When all transactions with lower ones are over, those messages have appeared, or never will.

(What a snapshot calls its `xmax` would not do: transactions that are under way can have that number, and higher ones.)

A server that crashes gives out numbers anew that nothing on its disk tells of: those that were drawn for transactions
that wrote nothing. So the reader's transaction is one that the server must have on its disk before it answers, and with
it all that came before: a number that was learnt in it will not be drawn again. That costs a write, so it is done now
and then: nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_APART_US: Final = 200_000
"""Between two transactions of a reader."""


class Horizon:
    """What one reader of the inbox knows of that."""

    def __init__(self) -> None:
        self._drawn = 0
        """The last message number that had been drawn when the reader looked last."""
        self._moments: deque[tuple[int, int]] = deque()
        """A transaction number of the reader's, and the last message number drawn before."""
        self._settled = 0
        self._again_us = 0
        """When the reader may take a number again."""

    def is_behind(self, now_us: int) -> bool:
        """Whether the reader should take a transaction number, in a transaction that the server must write.

        Args:
            now_us: by any clock that never goes back.
        """
        if now_us < self._again_us or self._drawn <= (self._moments[-1][1] if self._moments else self._settled):
            return False
        self._again_us = now_us + _APART_US
        return True

    def look(self, oldest_open: int, own: int | None, drawn: int) -> int:
        """The number up to which all that is there is there in a reading of this moment.

        Args:
            oldest_open: of the transactions that were open in the snapshot of the reading, the lowest number.
            own: the transaction number that the reader took, if it did, after it had learnt `drawn`.
            drawn: the last message number that has been drawn.
        """
        if own is not None:
            self._moments.append((own, drawn))
        self._drawn = drawn
        while self._moments and self._moments[0][0] <= oldest_open:
            self._settled = self._moments.popleft()[1]
        return self._settled

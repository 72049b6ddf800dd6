"""The voice: lines in columns, with colour where somebody looks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "1;31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
_WORKERS: Final = ("34", "35", "33")


class Timeline:
    """Prints what happens, as it happens.

    Args:
        out: where to; coloured when it is a terminal and the environment has no `NO_COLOR`.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._began_s = time.time()
        self._colours: dict[str, str] = {}
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._coloured = self._out.isatty() and not plain

    def paint(self, text: str, colour: str) -> str:
        """`text` in this colour, if there are colours."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and colour else text

    def say(self, text: str = "", colour: str = "") -> None:
        """A line outside of the columns."""
        print(self.paint(text, colour), file=self._out, flush=True)

    def heading(self, text: str) -> None:
        """The title of a scene, and the names of the columns."""
        self.say()
        self.say(text, BOLD)
        self.say()
        self.say(f"  {'TIME':>6}  {'PROCESS':<14}  {'INSTANCE':<8}  WHAT HAPPENS", DIM)

    def tell(self, who: str, instance: str, what: str, colour: str = "", at_s: float | None = None) -> None:
        """One line of the timeline.

        Args:
            at_s: when it happened, in seconds since 1970; now, when left out.
        """
        elapsed_s = max(0.0, (time.time() if at_s is None else at_s) - self._began_s)
        speaker = self.paint(f"{who:<14}", self._colour_of(who))
        self.say(f"  {elapsed_s:6.2f}  {speaker}  {instance:<8}  {self.paint(what, colour)}")

    def table(self, head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
        """Columns as wide as what is in them; numbers to the right."""
        cells = [[str(cell) for cell in line] for line in lines]
        widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(head)]
        right = [all(line[i].isdigit() for line in cells) for i in range(len(head))]

        def row(line: Sequence[str]) -> str:
            placed = zip(line, widths, right, strict=True)
            return "  " + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in placed).rstrip()

        self.say(row(head), DIM)
        for line in cells:
            self.say(row(line))

    def _colour_of(self, who: str) -> str:
        if who == "client":
            return CYAN
        return self._colours.setdefault(who, _WORKERS[len(self._colours) % len(_WORKERS)])

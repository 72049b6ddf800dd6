"""The language of random programs, as data: its words, with what each takes and how often it is drawn.

A program is a list of instructions, each a list of a word and its operands, all plain JSON: it is the input of a
workflow (`interpreter`). Who draws programs goes through these tables, by dice (`programs`) or by hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias

from durableflow.testing.simulation.activities import KINDS

Program: TypeAlias = list[Any]

ROUNDS_MAX: Final = 3
EVENT_NAMES: Final = ("a", "A", "b")
OTHERS: Final = tuple(f"i{number}" for number in range(6))
"""Instances to which messages are sent; some of them may not be there."""
OWN_IDS: Final = ("own0", "own1", "own2")
"""Ids that several calls of children ask for: who comes second is refused."""
PATCHES: Final = ("p", "q")


class Number(NamedTuple):
    """An operand that is a whole number, both bounds included."""

    least: int
    most: int

    @property
    def size(self) -> int:
        """How many there are."""
        return self.most - self.least + 1

    def value(self, number: int) -> int:
        """One of them, counted from 0."""
        return self.least + number


class Choice(NamedTuple):
    """An operand that is one of these."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.values)

    def value(self, number: int) -> Any:
        """One of them, counted from 0."""
        return self.values[number]


class Block(NamedTuple):
    """An operand that is a program, of at least so many instructions; a flat one has no programs inside."""

    least: int = 1
    is_flat: bool = False


Operand: TypeAlias = Number | Choice | Block


class Word(NamedTuple):
    """A word of the language.

    Attributes:
        weight: how often it is drawn, beside the others.
    """

    weight: int
    name: str
    operands: tuple[Operand, ...] = ()

    @property
    def spellings(self) -> int:
        """How many instructions it has, whatever programs are in them."""
        return prod(operand.size for operand in self.operands if not isinstance(operand, Block))

    def spell(self, number: int, block: Callable[[Block], Program]) -> list[Any]:
        """One of its instructions.

        Args:
            number: below `spellings`; says which.
            block: gives a program for an operand that is one.
        """
        spelled: list[Any] = [self.name]
        for operand in self.operands:
            if isinstance(operand, Block):
                spelled.append(block(operand))
            else:
                number, place = divmod(number, operand.size)
                spelled.append(operand.value(place))
        return spelled


_ANY_TASK: Final = Number(0, 30)
_FEW: Final = Number(1, 4)
_SMALL: Final = Number(0, 99)
_KIND: Final = Choice(KINDS)
_EVENT: Final = Choice(EVENT_NAMES)
_OTHER: Final = Choice(OTHERS)
_TIMEOUT: Final = Choice((None, None, 0, 2, 5))
_FLAG: Final = Choice((False, True))
_SELDOM: Final = Choice((False, False, False, True))
_CLOSE: Final = Choice(("terminate", "cancel", "abandon"))
_VERSION: Final = Choice((1, 2, 3))

PLAIN_WORDS: Final = (
    # What is asked for, and gives a task.
    Word(24, "activity", (_KIND, _SMALL)),
    Word(4, "named", (_KIND, _SMALL)),
    Word(11, "timer", (Number(0, 5),)),
    Word(1, "until", (Number(-1, 5),)),
    Word(15, "event", (_EVENT, _TIMEOUT)),
    Word(1, "typed", (_EVENT, _TIMEOUT)),
    Word(10, "message", (_OTHER, _EVENT, _SMALL, _FLAG)),
    Word(2, "tell", (_OTHER, Choice(("cancel", "suspend", "resume", "resume", "terminate")))),
    Word(1, "called", (_VERSION, _CLOSE)),
    Word(4, "all", (_FEW,)),
    Word(3, "any", (_FEW,)),
    Word(1, "both", (_ANY_TASK, _ANY_TASK)),
    Word(1, "either", (_ANY_TASK, _ANY_TASK)),
    # What becomes of tasks.
    Word(24, "wait", (_ANY_TASK,)),
    Word(4, "cancel", (_ANY_TASK,)),
    Word(1, "peek", (_ANY_TASK,)),
    # What is known, or said, at once.
    Word(1, "effect", (_SELDOM,)),
    Word(1, "status"),
    Word(1, "dice"),
    Word(1, "known"),
    Word(4, "patch", (Choice(PATCHES),)),
    # What goes wrong.
    Word(3, "raise"),
    Word(1, "misuse", (Choice(("foreign", "direct", "unstorable", "handler")),)),
    # A saga's, where there is one.
    Word(1, "undo"),
    Word(1, "keep"),
    Word(1, "discard"),
    # The program's own: in a block inside they do nothing.
    Word(1, "again", (Choice((None, None, 1, 2, 3)),)),
    Word(2, "checkpoint"),
    Word(1, "open"),
)

BLOCK_WORDS: Final = (
    Word(5, "spawn", (Block(), _SELDOM)),
    Word(5, "guarded", (Block(), Block())),
    Word(5, "saga", (Block(), Choice((False, True, "stop")), Block(0), _FLAG)),
    Word(5, "child", (Block(), _CLOSE, Number(1, 2), Choice((None, None, None, *OWN_IDS)))),
    # Flat, for Python gives up a generator, loudly, that waits again and again while it is put away.
    Word(2, "finally", (Block(), Block(is_flat=True))),
    Word(1, "loop", (Number(0, 3), Block())),
    Word(1, "choose", (Block(), Block())),
)
"""Those with a program inside."""

BLOCK_SHARE: Final = 0.2
"""So many instructions are such, where programs may go deeper."""

HEADS: Final = (
    Word(2, "within", (Choice((2, 5, 10, 30)),)),
    Word(2, "after", (Number(1, 4),)),
    Word(2, "query"),
    Word(1, "plain"),
    Word(4, "async"),
)
"""How the workflow is written and started, and whether it can be looked into: said anywhere in the program itself."""

HEAD_SHARE: Final = 0.3

_WAIT: Final = Word(1, "wait", (Choice((-1,)),))
TIDY: Final = (
    (Word(1, "activity", (_KIND, _SMALL)), _WAIT),
    (Word(1, "event", (_EVENT, Choice((None, 3)))), _WAIT),
    (Word(1, "event", (_EVENT, Choice((None,)))), _WAIT),
    (Word(1, "timer", (Number(0, 3),)), _WAIT),
    (Word(1, "child", (Block(), _CLOSE, Number(1, 2), Choice((None,)))), _WAIT),
    (Word(1, "message", (_OTHER, _EVENT, _SMALL, _FLAG)), _WAIT),
    (Word(1, "checkpoint"),),
    (Word(1, "checkpoint"),),
    (Word(1, "again", (Choice((None, None, 1, 2)),)),),
    (Word(1, "dice"),),
    (Word(1, "open"),),
    (Word(1, "status"),),
    (Word(1, "effect", (_SELDOM,)),),
    (Word(1, "patch", (Choice(PATCHES),)),),
)
"""Parts that leave nothing open, for checkpoints and further rounds are not allowed else."""

TIDY_SHARE: Final = 0.4
OPENINGS: Final[tuple[Program, ...]] = ([], [["activity", "plain", 0], ["timer", 1]])
"""What a program that is not tidy may begin with: then something is open whatever follows."""
BEFORE_TIDY: Final[Program] = [["activity", "plain", 1], ["wait", -1]]
AT_LAST: Final[Program] = [["wait", 0], ["wait", 1]]
DEPTH_MAX: Final = 2
BLOCK_MAX: Final = 7
"""So many instructions a block has at the most."""

"""Programs whose result is the same whatever the order in which things happen: what they wait for, nobody else says.

Of these it is known what a run without faults gives. Words that are not listed here leave that open, or may.
"""

from __future__ import annotations

import re
from typing import Any, Final

from durableflow.testing.simulation.language import BLOCK_WORDS, Program
from durableflow.testing.simulation.plan import Plan

_ASK: Final = ("activity", "named", "timer", "until", "child", "all")
"""Words that make a task."""
_SAY: Final = (
    *("wait", "effect", "status", "patch", "known", "raise", "guarded", "saga", "finally", "loop"),
    *("again", "checkpoint", "async", "plain", "query", "after"),
    *_ASK,
)
_KINDS: Final = ("plain", "flaky", "hasty", "beating", "steady", "stubborn", "queued", "hopeless")
"""Activities that nobody else says anything to, wait for no others, and whose last attempt says always the same."""
_CHANGE: Final = ("terminate", "cancel", "request", "rewind", "redrive", "purge")
"""What somebody may say to an instance that makes its result another."""
_COUNTED: Final = re.compile(r"(attempt |after |#)\d+")


def settled_ids(plan: Plan, *, undisturbed: bool = False) -> list[str]:
    """Instances of a plan whose result is settled; the `undisturbed` are not even suspended for a while."""
    disturbing = (*_CHANGE, "suspend") if undisturbed else _CHANGE
    changed = {said.instance_id for said in plan.spoken if said.kind in disturbing}
    programs = [birth.program for birth in plan.births] + [each.program for each in plan.schedules]
    programs += [said.program for said in plan.spoken]
    told = [instruction for program in programs for instruction in _all(program) if instruction[0] == "tell"]
    changed.update(other for _, other, what in told if what in disturbing)
    return [
        birth.instance_id for birth in plan.births if birth.instance_id not in changed and _is_settled(birth.program)
    ]


def without_counts(output: bytes) -> str:
    """A result without the numbers of attempts, of which faults make more."""
    return _COUNTED.sub(r"\1*", output.decode())


def _is_settled(program: Program) -> bool:
    instructions = _all(program)
    words = [instruction[0] for instruction in instructions]
    kinds = {instruction[1] for instruction in instructions if instruction[0] in ("activity", "named")}
    if not set(words) <= set(_SAY) or not kinds <= set(_KINDS):
        return False
    if any(_is_open_to_time(instruction) for instruction in instructions):
        return False
    if "all" in words and not {"raise", "child", "hopeless"}.isdisjoint({*words, *kinds}):
        return False  # which failure comes first, time decides
    return {"again", "checkpoint"}.isdisjoint(words) or _is_tidy(program)


def _is_open_to_time(instruction: list[Any]) -> bool:
    """A child that others may have made, or a saga that undoes whatever has been done by then."""
    word, *operands = instruction
    return (word == "child" and operands[3:] not in ([], [None])) or (
        word == "saga" and operands[2:3] not in ([], [[]])
    )


def _all(program: Program) -> list[list[Any]]:
    """All instructions, those of blocks and children too."""
    found: list[list[Any]] = []
    for instruction in program:
        found.append(instruction)
        for operand in instruction[1:]:
            if isinstance(operand, list):
                found += _all(operand)  # pyright: ignore[reportUnknownArgumentType]  # mypy calls a cast redundant
    return found


def _is_tidy(program: Program) -> bool:
    """Whether each task is waited for at once, so that nothing is open where a round may end."""
    following = [*program[1:], ["end"]]
    return all(
        word not in _ASK or after == ["wait", -1]
        for (word, *_), after in zip(program, following, strict=True)
        if word not in _BLOCKS
    ) and _BLOCKS.isdisjoint(word for word, *_ in program)


_BLOCKS: Final = frozenset(word.name for word in BLOCK_WORDS) - {"child"}

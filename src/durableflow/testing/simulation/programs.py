"""Random programs over the whole language: a workflow that interprets them, and the activities that they call.

A program is a list of instructions, each a list of a word and its operands, all plain JSON: it is the input of
the workflow. The result is a log of what the program saw, which the invariants compare with the history.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias

from durableflow.authoring.activity import Activity, activity_context
from durableflow.authoring.context import Context
from durableflow.authoring.saga import Saga
from durableflow.authoring.workflow import Workflow
from durableflow.core.task import Task
from durableflow.errors import Cancelled, TaskError, UsageError
from durableflow.model.retry import RetryPolicy
from durableflow.testing.simulation.ledger import current_ledger

Program: TypeAlias = list[Any]
Steps: TypeAlias = Generator[Any, Any, Any]
Draw: TypeAlias = Callable[[random.Random], list[Any]]

ROUNDS_MAX: Final = 3
EVENT_NAMES: Final = ("a", "A", "b")
QUEUE: Final = "mail"


class Flaky(Exception):
    """What an activity raises now and then."""


# -- activities ---------------------------------------------------------------------------------------------------


async def _work(kind: str, number: int) -> str:
    """Take a while, and return what no other attempt of any activity returns, or fail."""
    context = activity_context()
    attempt = current_ledger().begin(context, kind, number)
    if kind == "beating":
        context.heartbeat(number)
    await attempt.take_time()
    if kind == "beating":
        context.heartbeat([number, context.attempt])
    if kind == "doomed" or (kind in ("flaky", "queued") and (number + context.attempt) % 3 == 0):
        raise Flaky(f"{kind} {number}, attempt {context.attempt}")
    return attempt.end()


WORK: Final[Activity[[str, int], str]] = Activity(_work, name="work")
_RETRY: Final = RetryPolicy(max_attempts=30, initial=0.5, backoff=1)
_KINDS: Final[dict[str, Any]] = {
    "plain": WORK.options(retry=_RETRY),
    "flaky": WORK.options(retry=_RETRY),
    "doomed": WORK.options(retry=RetryPolicy(max_attempts=2, initial=0.2)),
    "hasty": WORK.options(retry=_RETRY, timeout=2),
    "beating": WORK.options(retry=_RETRY, heartbeat_timeout=5),
    "queued": WORK.options(retry=_RETRY, queue=QUEUE),
}
KINDS: Final = (*_KINDS, "queued", "queued")


# -- the workflow -------------------------------------------------------------------------------------------------


def _interpret(ctx: Context, program: Program, round_number: int = 0) -> Steps:
    """Run `program`; its own words, not those of a block inside, may begin it anew or at a checkpoint."""
    state: list[Any] = ctx.restore(list[Any]) or [0, [], False]
    begin, log, is_open = state
    tasks: list[Task[Any]] = []
    _answer(ctx, "r", log)
    if is_open:
        _answer(ctx, "late", log)
    for index, (word, *operands) in enumerate(program):
        if index < begin:
            continue
        try:
            if word == "again" and round_number < ROUNDS_MAX:
                ctx.continue_as_new(program, round_number + 1)
            elif word == "checkpoint":
                ctx.checkpoint([index + 1, [*log, "checkpoint"], is_open])
                log.append("checkpoint")
                tasks.clear()
            elif word == "open" and not is_open:
                is_open = True
                _answer(ctx, "late", log)
        except UsageError as error:
            log.append(str(error)[:20])
        yield from _block(ctx, [[word, *operands]], tasks, log)
    return log


def _answer(ctx: Context, name: str, log: list[Any]) -> None:
    def handler(what: int) -> Steps:
        if what % 3 == 0:
            raise LookupError(what)
        log.append([name, what])
        if what % 3 == 1:
            log.append((yield from ctx.call_activity(WORK, "plain", what)))
        return [what, len(log)]

    ctx.on_request(name)(handler)


def _block(ctx: Context, program: Program, tasks: list[Task[Any]], log: list[Any]) -> Steps:
    for word, *operands in program:
        simple = _WORDS.get(word)
        if simple is not None:
            simple(ctx, tasks, log, *operands)
        elif word == "wait":
            if tasks:
                number: int = operands[0]
                log.append((yield from _seen(tasks[number % len(tasks)])))
        elif word == "spawn":
            tasks.append(ctx.spawn(_block(ctx, operands[0], list(tasks), log)))  # its own: it does not wait for itself
        elif word == "guarded":
            try:
                yield from _block(ctx, operands[0], tasks, log)
            except Cancelled:
                log.append("cancelled")
                yield from _block(ctx, operands[1], tasks, log)
        elif word == "saga":
            saga = ctx.saga(parallel=operands[1])
            try:
                yield from saga.guard(_undoable(ctx, saga, operands[0], tasks, log))
            except (TaskError, LookupError, Cancelled) as error:
                log.append(str(error))
        elif word == "raise":
            raise LookupError(len(log))
        elif word not in ("again", "checkpoint", "open"):
            raise AssertionError(word)


def _seen(task: Task[Any]) -> Steps:
    try:
        return [(yield from task)]
    except TaskError as error:
        return str(error)


def _undoable(ctx: Context, saga: Saga, program: Program, tasks: list[Task[Any]], log: list[Any]) -> Steps:
    for number, instruction in enumerate(program):
        saga.compensate_with(WORK, "flaky", 1_000 + number)
        yield from _block(ctx, [instruction], tasks, log)


def _child(ctx: Context, tasks: list[Task[Any]], _: list[Any], program: Program, close: Any, tries: int) -> None:
    options = PROGRAM.options(parent_close=close, retry=RetryPolicy(max_attempts=tries, initial=1))
    tasks.append(ctx.call_workflow(options, program, ROUNDS_MAX))


def _message(ctx: Context, tasks: list[Task[Any]], _: list[Any], other: str, name: str, number: int) -> None:
    tasks.append(ctx.raise_event(other, name, f"{ctx.instance_id} says {number} {ctx.uuid4()}"))


def _cancel(_: Context, tasks: list[Task[Any]], log: list[Any], number: int) -> None:
    if tasks:
        log.append(tasks[number % len(tasks)].cancel())


def _activity(ctx: Context, tasks: list[Task[Any]], _: list[Any], kind: str, number: int) -> None:
    tasks.append(ctx.call_activity(_KINDS[kind], kind, number))


def _timer(ctx: Context, tasks: list[Task[Any]], _: list[Any], seconds: float) -> None:
    tasks.append(ctx.sleep(seconds))


def _event(ctx: Context, tasks: list[Task[Any]], _: list[Any], name: str, timeout: float | None) -> None:
    tasks.append(ctx.wait_for_event(name, timeout=timeout))


def _all(ctx: Context, tasks: list[Task[Any]], _: list[Any], count: int) -> None:
    tasks.append(ctx.when_all(tasks[-count:]))


def _any(ctx: Context, tasks: list[Task[Any]], _: list[Any], count: int) -> None:
    tasks.append(ctx.when_any(tasks[-count:]))


def _effect(ctx: Context, _: list[Task[Any]], log: list[Any]) -> None:
    log.append(ctx.side_effect(lambda: len(log)))


def _status(ctx: Context, _: list[Task[Any]], log: list[Any]) -> None:
    ctx.set_custom_status(len(log))


def _patch(ctx: Context, _: list[Task[Any]], log: list[Any], name: str) -> None:
    log.append(ctx.patched(name))


def _dice(ctx: Context, _: list[Task[Any]], log: list[Any]) -> None:
    log.append([ctx.random().random(), str(ctx.uuid4()), ctx.now().isoformat()])


_WORDS: Final[dict[str, Callable[..., object]]] = {
    "activity": _activity,
    "timer": _timer,
    "event": _event,
    "child": _child,
    "message": _message,
    "all": _all,
    "any": _any,
    "cancel": _cancel,
    "effect": _effect,
    "status": _status,
    "patch": _patch,
    "dice": _dice,
}
"""Words that wait for nothing."""

PROGRAM: Final[Workflow[..., Any]] = Workflow(_interpret, name="program")


# -- drawing them -------------------------------------------------------------------------------------------------

OTHERS: Final = tuple(f"i{number}" for number in range(6))
"""Instances to which messages are sent; some of them may not be there."""

_PLAIN: Final[tuple[tuple[int, Draw], ...]] = (
    (6, lambda dice: ["wait", dice.randrange(30)]),
    (6, lambda dice: ["activity", dice.choice(KINDS), dice.randrange(100)]),
    (3, lambda dice: ["timer", dice.randrange(6)]),
    (4, lambda dice: ["event", dice.choice(EVENT_NAMES), dice.choice([None, None, 0, 2, 5])]),
    (1, lambda dice: ["patch", dice.choice("pq")]),
    (1, lambda dice: ["all", dice.randint(1, 4)]),
    (1, lambda dice: ["any", dice.randint(1, 4)]),
    (1, lambda dice: ["cancel", dice.randrange(30)]),
    (1, lambda dice: [dice.choice(["effect", "status", "dice"])]),
    (1, lambda dice: [dice.choice(["raise", "again", "checkpoint", "checkpoint", "open"])]),
    (2, lambda dice: ["message", dice.choice(OTHERS), dice.choice(EVENT_NAMES), dice.randrange(100)]),
)
_WEIGHTS: Final = [weight for weight, _ in _PLAIN]
_TIDY: Final[tuple[Callable[[random.Random], Program], ...]] = (
    lambda dice: [["activity", dice.choice(KINDS), dice.randrange(100)], ["wait", -1]],
    lambda dice: [["event", dice.choice(EVENT_NAMES), dice.choice([None, 3])], ["wait", -1]],
    lambda dice: [["event", dice.choice(EVENT_NAMES), None], ["wait", -1]],
    lambda dice: [["timer", dice.randrange(4)], ["wait", -1]],
    lambda dice: [_draw_child(dice, 1), ["wait", -1]],
    lambda dice: [["message", dice.choice(OTHERS), dice.choice(EVENT_NAMES), dice.randrange(100)], ["wait", -1]],
    lambda _: [["checkpoint"]],
    lambda _: [["checkpoint"]],
    lambda _: [["again"]],
    lambda dice: [[dice.choice(["dice", "open", "status", "effect"])]],
)
"""Parts that leave nothing open, for checkpoints and further rounds are not allowed else."""


def draw_program(dice: random.Random) -> Program:
    """A program, small enough to be read."""
    if dice.random() < 0.4:
        parts = [dice.choice(_TIDY)(dice) for _ in range(dice.randint(2, 8))]
        return [["activity", "plain", 1], ["wait", -1], *(word for part in parts for word in part)]
    return [*_draw_block(dice, 2), ["wait", 0], ["wait", 1]]


def _draw_block(dice: random.Random, depth: int) -> Program:
    return [_draw_instruction(dice, depth) for _ in range(dice.randint(1, 7))]


def _draw_instruction(dice: random.Random, depth: int) -> list[Any]:
    if depth and dice.random() < 0.2:
        word = dice.choice(["spawn", "guarded", "saga", "child"])
        if word == "spawn":
            return ["spawn", _draw_block(dice, depth - 1)]
        if word == "guarded":
            return ["guarded", _draw_block(dice, depth - 1), _draw_block(dice, 0)]
        if word == "saga":
            return ["saga", _draw_block(dice, depth - 1), dice.random() < 0.5]
        return _draw_child(dice, depth - 1)
    ((_, draw),) = dice.choices(_PLAIN, _WEIGHTS)
    return draw(dice)


def _draw_child(dice: random.Random, depth: int) -> list[Any]:
    return ["child", _draw_block(dice, depth), dice.choice(["terminate", "cancel", "abandon"]), dice.randint(1, 2)]


__all__ = ["EVENT_NAMES", "KINDS", "OTHERS", "PROGRAM", "QUEUE", "WORK", "Program", "draw_program"]

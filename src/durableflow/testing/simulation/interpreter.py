"""The workflows that run random programs: a generator, a coroutine function and a plain one, with one interpreter.

The result is a log of what the program saw, which the invariants compare with the history. Wherever user code may be a
generator or a coroutine, it is what the workflow itself is: branches, handlers, compensations, and what is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from durableflow.authoring.context import Context
from durableflow.authoring.saga import Saga
from durableflow.authoring.workflow import Workflow
from durableflow.core.task import Task
from durableflow.errors import Cancelled, DurableflowError, PayloadError, SideEffectFailed, TaskError, UsageError
from durableflow.model.retry import RetryPolicy
from durableflow.testing.simulation.activities import CALLS, WORK
from durableflow.testing.simulation.language import BLOCK_WORDS, HEADS, PLAIN_WORDS, ROUNDS_MAX, Program
from durableflow.testing.simulation.scope import Awaiting, Scope, Steps, in_saga, wait_for

_UNDO_NUMBER: Final = 1_000
"""Numbers of compensating activities begin here."""


# -- the workflows ------------------------------------------------------------------------------------------------


def _interpret(ctx: Context, program: Program, round_number: int = 0) -> Steps:
    return (yield from _run(ctx, program, round_number, is_async=False))


async def _interpret_async(ctx: Context, program: Program, round_number: int = 0) -> Any:
    return await Awaiting(_run(ctx, program, round_number, is_async=True))


def _interpret_at_once(ctx: Context, program: Program, round_number: int = 0) -> Any:  # noqa: ARG001  # as the others
    """Only what waits for nothing."""
    scope = Scope(ctx, [], is_async=False)
    for word, *operands in program:
        simple = _SIMPLE.get(word)
        if simple is not None:
            simple(scope, *operands)
    return scope.log


PROGRAM: Final[Workflow[..., Any]] = Workflow(_interpret, name="program")
VERSIONS: Final[dict[int, Workflow[..., Any]]] = {
    1: PROGRAM,
    2: Workflow(_interpret_async, name="program", version=2),
    3: Workflow(_interpret_at_once, name="program", version=3),
}
_VERSION_OF_HEAD: Final = {"async": 2, "plain": 3}


def workflow_of(program: Program) -> Workflow[..., Any]:
    """What runs a program: the version, and the options of its start, are among its own words."""
    version, options = 1, dict[str, Any]()
    for word, *operands in program:
        if word in _VERSION_OF_HEAD:
            version = max(version, _VERSION_OF_HEAD[word])
        elif word == "within":
            options["timeout"] = operands[0]
        elif word == "after":
            options["start_delay"] = operands[0]
    return VERSIONS[version].options(**options) if options else VERSIONS[version]


def _run(ctx: Context, program: Program, round_number: int, *, is_async: bool) -> Steps:
    """Run `program`; its own words, not those of a block inside, may begin it anew or at a checkpoint."""
    state: list[Any] = ctx.restore(list[Any]) or [0, [], False]
    begin, log, is_open = state
    scope = Scope(ctx, log, is_async=is_async)
    _answer(scope, "r")

    def answer(what: int) -> list[int]:
        return [what, len(log)]

    ctx.on_request("p")(answer)
    if is_open:
        _answer(scope, "late")
    if ["query"] in program:
        ctx.on_query("seen")(lambda: list(log))
    for index, (word, *operands) in enumerate(program):
        if index < begin:
            continue
        try:
            if word == "again" and round_number < ROUNDS_MAX:
                version = operands[0] if operands else None
                ctx.continue_as_new(*([] if version is None else [VERSIONS[version]]), program, round_number + 1)
            elif word == "checkpoint":
                ctx.checkpoint([index + 1, [*log, "checkpoint"], is_open])
                log.append("checkpoint")
                scope.tasks.clear()
            elif word == "open" and not is_open:
                is_open = True
                _answer(scope, "late")
        except UsageError as error:
            log.append(str(error)[:20])
        yield from _block(scope, [[word, *operands]])
    return log


def _answer(scope: Scope, name: str) -> None:
    def answer(what: int) -> Steps:
        if what % 3 == 0:
            raise LookupError(what)
        scope.log.append([name, what])
        if what % 3 == 1:
            scope.log.append((yield from scope.ctx.call_activity(WORK, "plain", what)))
        return [what, len(scope.log)]

    async def answer_async(what: int) -> Any:
        return await Awaiting(answer(what))

    register = scope.ctx.on_request(name, validate=_validate if name == "late" else None)
    register(answer_async if scope.is_async else answer)


def _validate(what: int) -> None:
    if what % 5 == 4:
        raise ValueError(what)


# -- what waits ---------------------------------------------------------------------------------------------------


def _block(scope: Scope, program: Program) -> Steps:
    for word, *operands in program:
        simple = _SIMPLE.get(word)
        if simple is not None:
            simple(scope, *operands)
        elif word in _WAITING:
            yield from _WAITING[word](scope, *operands)
        elif word not in _DONE_ELSEWHERE:
            raise AssertionError(word)


def _wait(scope: Scope, number: int) -> Steps:
    task = scope.task(number)
    if task is not None:
        scope.log.append((yield from _seen(scope, task)))


def _seen(scope: Scope, task: Task[Any]) -> Steps:
    steps: Steps = wait_for(task).__await__() if scope.is_async else iter(task)
    try:
        value = yield from steps
    except (TaskError, PayloadError) as error:
        return str(error)
    return [scope.plain(value)]


def _guarded(scope: Scope, program: Program, clean_up: Program) -> Steps:
    try:
        yield from scope.inside(_block(scope, program))
    except Cancelled:
        scope.log.append("cancelled")
        yield from scope.inside(_block(scope, clean_up))


def _finally(scope: Scope, program: Program, at_last: Program) -> Steps:
    try:
        yield from scope.inside(_block(scope, program))
    finally:
        yield from scope.inside(_block(scope, at_last))


def _loop(scope: Scope, times: int, program: Program) -> Steps:
    for _ in range(times):
        yield from _block(scope, program)


def _choose(scope: Scope, program: Program, other: Program) -> Steps:
    """One of two ways, by what was seen."""
    yield from _block(scope, other if len(str(scope.log)) % 2 else program)


def _saga(scope: Scope, program: Program, order: Any, undo: Program | None = None, is_part: object = None) -> Steps:
    ctx = scope.ctx
    part_of = scope.saga if is_part else None
    how: Any = "stop" if order == "stop" else "go_on"
    saga = ctx.saga(parallel=order is True, on_failure=how, part_of=part_of)
    within = scope.copy()
    within.saga, within.undo = saga, None
    steps = _undoable(within, saga, program, undo)
    try:
        yield from (in_saga(saga, steps).__await__() if scope.is_async else saga.guard(steps))
    except (TaskError, LookupError, Cancelled) as error:
        scope.log.append(str(error))


def _undoable(scope: Scope, saga: Saga, program: Program, undo: Program | None) -> Steps:
    for number, instruction in enumerate(program):
        if number % 2 and undo:
            compensation = saga.compensate_with(_compensate_async if scope.is_async else _block, scope, undo)
        else:
            compensation = saga.compensate_with(WORK, "flaky", _UNDO_NUMBER + number)
        scope.undo = compensation
        yield from _block(scope, [instruction])
        if number % 3 == 0 and instruction[0] == "activity":
            compensation.after(scope.tasks[-1])


async def _compensate_async(scope: Scope, undo: Program) -> None:
    await Awaiting(_block(scope, undo))


def _undo(scope: Scope) -> Steps:
    """Undo by hand what there is so far."""
    if scope.saga is not None:
        try:
            yield from scope.saga.compensate()
        except (UsageError, TaskError) as error:
            scope.log.append(str(error))


def _misuse(scope: Scope, what: str) -> Steps:
    """What no workflow should do, and is told so."""
    try:
        if what == "foreign":
            yield "foreign"
        elif what == "direct":
            WORK("plain", 1)
        elif what == "unstorable":
            scope.ctx.set_custom_status(float("nan"))
        else:
            scope.ctx.on_request("")
    except DurableflowError as error:
        scope.log.append(type(error).__name__)


# -- what does not ------------------------------------------------------------------------------------------------


def _spawn(scope: Scope, program: Program, shares: object = None) -> None:
    """A branch; with the same tasks it may come to wait for itself."""
    beside = scope.copy()
    if not shares:
        beside.tasks = list(scope.tasks)
    scope.tasks.append(scope.ctx.spawn(scope.styled(_block(beside, program))))


def _activity(scope: Scope, kind: str, number: int) -> None:
    scope.tasks.append(scope.ctx.call_activity(CALLS[kind].made, kind, number))


def _named(scope: Scope, kind: str, number: int) -> None:
    call = CALLS[kind]
    task = scope.ctx.call_activity_by_name(call.activity.name, kind, number, result_type=str, **call.options)
    scope.tasks.append(task)


def _timer(scope: Scope, seconds: float) -> None:
    scope.tasks.append(scope.ctx.sleep(seconds))


def _until(scope: Scope, seconds: float) -> None:
    scope.tasks.append(scope.ctx.create_timer(scope.ctx.now() + timedelta(seconds=seconds)))


def _event(scope: Scope, name: str, timeout: float | None) -> None:
    scope.tasks.append(scope.ctx.wait_for_event(name, timeout=timeout))


def _typed(scope: Scope, name: str, timeout: float | None) -> None:
    """Wait for an event whose payload is a number, which it may not be."""
    scope.tasks.append(scope.ctx.wait_for_event(name, int, timeout=timeout))


def _child(scope: Scope, program: Program, close: Any, tries: int, own_id: str | None = None) -> None:
    retry = RetryPolicy(max_attempts=tries, initial=1)
    options = workflow_of(program).options(parent_close=close, retry=retry, instance_id=own_id)
    scope.tasks.append(scope.ctx.call_workflow(options, program, ROUNDS_MAX))


def _called(scope: Scope, version: int, close: Any) -> None:
    """A child of which only the name is known here."""
    program: Program = [["timer", 1], ["wait", -1], ["known"]]
    task = scope.ctx.call_workflow_by_name(PROGRAM.name, program, ROUNDS_MAX, version=version, parent_close=close)
    scope.tasks.append(task)


def _message(scope: Scope, other: str, name: str, number: int, has_id: object = None) -> None:
    key = str(scope.ctx.uuid4())
    text = f"{scope.ctx.instance_id} says {number} {key}"
    scope.tasks.append(scope.ctx.raise_event(other, name, text, event_id=key if has_id else None))


def _tell(scope: Scope, other: str, what: str) -> None:
    handle = scope.ctx.handle(other)
    say: dict[str, Callable[[], Task[None]]] = {
        "cancel": handle.cancel,
        "suspend": handle.suspend,
        "resume": handle.resume,
        "terminate": handle.terminate,
    }
    scope.tasks.append(say[what]())


def _all(scope: Scope, count: int) -> None:
    scope.tasks.append(scope.ctx.when_all(scope.tasks[-count:]))


def _any(scope: Scope, count: int) -> None:
    scope.tasks.append(scope.ctx.when_any(scope.tasks[-count:]))


def _both(scope: Scope, one: int, other: int) -> None:
    a, b = scope.task(one), scope.task(other)
    if a is not None and b is not None:
        scope.tasks.append(scope.ctx.when_all(a, b))


def _either(scope: Scope, one: int, other: int) -> None:
    a, b = scope.task(one), scope.task(other)
    if a is not None and b is not None:
        scope.tasks.append(scope.ctx.when_any(a, b))


def _cancel(scope: Scope, number: int) -> None:
    task = scope.task(number)
    if task is not None:
        scope.log.append(task.cancel())


def _peek(scope: Scope, number: int) -> None:
    """What can be known of a task without waiting for it."""
    task = scope.task(number)
    if task is None:
        return
    try:
        result: Any = scope.plain(task.result())
    except (DurableflowError, Cancelled) as error:
        result = type(error).__name__
    except LookupError as error:  # what its branch raised
        result = str(error)
    scope.log.append([task.done, task.cancelled, result])


def _effect(scope: Scope, fails: object = None) -> None:
    def make() -> int:
        if fails:
            raise LookupError("no effect")
        return len(scope.log)

    try:
        scope.log.append(scope.ctx.side_effect(make))
    except SideEffectFailed as error:
        scope.log.append(str(error))


def _status(scope: Scope) -> None:
    scope.ctx.set_custom_status(len(scope.log))


def _patch(scope: Scope, name: str) -> None:
    scope.log.append(scope.ctx.patched(name))


def _dice(scope: Scope) -> None:
    ctx = scope.ctx
    scope.log.append([ctx.random().random(), str(ctx.uuid4()), ctx.now().isoformat()])


def _known(scope: Scope) -> None:
    ctx = scope.ctx
    ctx.logger.info("%d entries", len(scope.log))
    scope.log.append([ctx.is_cancelled, ctx.instance_id, ctx.parent_instance_id])


def _raise(scope: Scope) -> None:
    raise LookupError(len(scope.log))


def _keep(scope: Scope) -> None:
    if scope.saga is not None:
        scope.saga.keep()


def _discard(scope: Scope) -> None:
    if scope.undo is not None:
        scope.log.append(scope.undo.discard())


_SIMPLE: Final[dict[str, Callable[..., None]]] = {
    "activity": _activity,
    "all": _all,
    "any": _any,
    "both": _both,
    "called": _called,
    "cancel": _cancel,
    "child": _child,
    "dice": _dice,
    "discard": _discard,
    "effect": _effect,
    "either": _either,
    "event": _event,
    "keep": _keep,
    "known": _known,
    "message": _message,
    "named": _named,
    "patch": _patch,
    "peek": _peek,
    "raise": _raise,
    "spawn": _spawn,
    "status": _status,
    "tell": _tell,
    "timer": _timer,
    "typed": _typed,
    "until": _until,
}
"""Words that wait for nothing."""

_WAITING: Final[dict[str, Callable[..., Steps]]] = {
    "choose": _choose,
    "finally": _finally,
    "guarded": _guarded,
    "loop": _loop,
    "misuse": _misuse,
    "saga": _saga,
    "undo": _undo,
    "wait": _wait,
}

_DONE_ELSEWHERE: Final = frozenset({"again", "checkpoint", "open", *(head.name for head in HEADS)})
"""By what runs the whole program."""

WORDS: Final = frozenset({*_SIMPLE, *_WAITING, *_DONE_ELSEWHERE})
assert {word.name for word in (*PLAIN_WORDS, *BLOCK_WORDS, *HEADS)} == WORDS, "what is drawn is what is understood"

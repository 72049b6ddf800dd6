"""Small programs of the language that workflows have, and the workflow that follows them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from durableflow import ActivityFailed, Cancelled, Context, Task, TaskCancelled, activity, workflow

Words = list[Any]


@activity(retry=2)
def work(n: int) -> int:
    if n in {3, 4}:
        raise ValueError(n)
    return n


@workflow
def interpret(ctx: Context, program: Words) -> Any:
    """Run `program`; its result is all that it saw."""
    tasks: list[Task[Any]] = []
    log: list[Any] = []
    try:
        yield from block(ctx, program, tasks, log)
    except Cancelled:
        log.append("cancelled")
        log.append((yield from ctx.call_activity(work, 9)))
    return log


def block(ctx: Context, program: Words, tasks: list[Task[Any]], log: list[Any]) -> Any:
    for word, operand in program:
        match word:
            case "activity":
                tasks.append(ctx.call_activity(work, operand))
            case "slow":
                tasks.append(ctx.call_activity(work.options(timeout=2), operand))
            case "timer":
                tasks.append(ctx.sleep(operand))
            case "event":
                tasks.append(ctx.wait_for_event(operand))
            case "all":
                tasks.append(ctx.when_all(tasks[-operand:]))
            case "any":
                tasks.append(ctx.when_any(tasks[-operand:]))
            case "branch":
                tasks.append(ctx.spawn(block(ctx, operand, tasks, log)))
            case "cancel" if tasks:
                log.append(tasks[operand % len(tasks)].cancel())
            case "look":
                log.append([task.done for task in tasks])
            case "wait" if tasks:
                yield from wait(tasks[operand % len(tasks)], log)
            case _:
                pass
    if tasks:
        yield from wait(tasks[-1], log)


def wait(task: Task[Any], log: list[Any]) -> Any:
    try:
        value = yield from task
        log.append(f"task {value.number}" if isinstance(value, Task) else value)
    except (ActivityFailed, TaskCancelled) as error:
        log.append(str(error))


simple = st.one_of(
    st.tuples(st.sampled_from(["activity", "activity", "slow"]), st.integers(1, 5)),
    st.tuples(st.just("timer"), st.integers(1, 3)),
    st.tuples(st.just("event"), st.sampled_from(["a", "b"])),
    st.tuples(st.sampled_from(["all", "any"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(["cancel", "wait"]), st.integers(0, 3)),
    st.tuples(st.just("look"), st.just(0)),
).map(list)
programs = st.lists(
    st.one_of(simple, st.tuples(st.just("branch"), st.lists(simple, max_size=3)).map(list)), min_size=3, max_size=6
)

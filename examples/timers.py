"""Timers: waits that cost nothing and outlive the process, and a deadline that a slow answer loses against.

    python examples/timers.py

Here a "day" lasts 0.3 s; with real days the code is the same. It keeps `timers.db` in the current folder.
"""

import asyncio
from datetime import timedelta

from durableflow import Context, Engine, activity, workflow

DAY = timedelta(seconds=0.3)


@activity
async def remind(customer: str, number: int) -> str:
    print(f"  reminder {number} goes to {customer}")
    return f"reminder {number}"


@activity
async def ask_the_archive(question: str) -> str:
    await asyncio.sleep(30)
    return f"what was asked: {question}"


@workflow
async def trial(ctx: Context, customer: str) -> list[str]:
    ends = ctx.now() + 3 * DAY  # workflow time: the same in every replay
    sent: list[str] = []
    for number in (1, 2):
        await ctx.sleep(DAY)
        sent += [await ctx.call_activity(remind, customer, number)]
    await ctx.create_timer(ends)  # a moment instead of a duration
    return [*sent, "the trial is over"]


@workflow
async def answer_in_time(ctx: Context, question: str) -> str:
    answer = ctx.call_activity(ask_the_archive, question)
    deadline = ctx.sleep(2 * DAY)
    if await ctx.when_any(answer, deadline) is deadline:
        answer.cancel()
        return f"no answer to {question!r} in time"
    deadline.cancel()
    return await answer


async def main() -> None:
    async with Engine("sqlite:///timers.db") as engine:
        ended = await engine.start(trial.options(instance_id="trial-ada"), "Ada")
        late = await engine.start(answer_in_time.options(instance_id="question-1"), "who built this?")
        print(await late.result())
        for line in await ended.result():
            print(line)


if __name__ == "__main__":
    asyncio.run(main())

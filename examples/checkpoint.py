"""Checkpoints: a long loop that is not replayed from its beginning.

    python examples/checkpoint.py

Forty letters are sent in batches; after each batch the workflow says what it would have to know if it began there.
Kill it and start it again: it goes on, and replays no more of its history than the last batch. It keeps `checkpoint.db`
in the current folder; delete that to begin anew.
"""

import asyncio
from dataclasses import dataclass, field

from durableflow import Context, Engine, activity, workflow


@dataclass
class Mailing:
    """All that the loop knows: what is sent, and what came back."""

    sent: int = 0
    returned: list[str] = field(default_factory=list[str])


@activity
async def send(number: int) -> bool:
    await asyncio.sleep(0.05)
    return number % 13 != 0  # some have moved


@workflow
async def mailing(ctx: Context, letters: int) -> str:
    state = ctx.restore(Mailing) or Mailing()
    while state.sent < letters:
        batch = range(state.sent + 1, state.sent + 5)
        arrived = await ctx.when_all([ctx.call_activity(send, number) for number in batch])
        state.returned += [f"letter {number}" for number, is_there in zip(batch, arrived, strict=True) if not is_there]
        state.sent += len(batch)
        ctx.checkpoint(state)
    return f"{state.sent} letters; {', '.join(state.returned)} came back"


async def main() -> None:
    async with Engine("sqlite:///checkpoint.db") as engine:
        handle = await engine.start(mailing.options(instance_id="mailing-1"), 40)
        print(await handle.result())
        is_whole = [entry.seq for entry in await handle.history()] == [*range(1, len(await handle.history()) + 1)]
        print(f"{(await handle.view()).rounds} checkpoints, {'all' if is_whole else 'not all'} events readable")


if __name__ == "__main__":
    asyncio.run(main())

"""Dead letters: what failed for good waits for somebody to look at it, and to have it tried again.

    python examples/dead_letters.py

Three parcels; of one, nobody knows the street until a clerk has looked it up. It keeps `dead_letters.db` and
`streets.txt` in the current folder; begin anew by removing both.
"""

import asyncio
from pathlib import Path

from durableflow import Context, Engine, RetryPolicy, Status, activity, workflow

STREETS = Path("streets.txt")
TO = {"parcel-1": "Ada", "parcel-2": "Grace", "parcel-3": "Konrad"}


@activity(retry=RetryPolicy(max_attempts=2, initial=0.1))
def label(name: str) -> str:
    streets = dict(line.split(": ") for line in STREETS.read_text().splitlines())
    if name not in streets:
        raise LookupError(f"no street of {name} in {STREETS}")
    return f"{name}, {streets[name]}"


@activity
async def weigh(name: str) -> int:
    print(f"  weighing what is for {name}")  # once, also when the parcel is redriven: its result is good
    return 100 * len(name)


@workflow
async def send(ctx: Context, name: str) -> str:
    grams = await ctx.call_activity(weigh, name)
    return f"{grams} g to {await ctx.call_activity(label, name)}"


def a_clerk_writes(*lines: str) -> None:
    STREETS.write_text("\n".join(lines))


async def main() -> None:
    async with Engine("sqlite:///dead_letters.db") as engine:
        handles = [await engine.start(send.options(instance_id=each), name) for each, name in TO.items()]
        for handle in handles:
            await handle.wait_for_status(Status.COMPLETED, Status.FAILED)

        for letter in (await engine.dead_letters.list(kind="activity")).letters:
            print(f"  dead: {letter.name} of {letter.instance_id}, {letter.attempts} attempts: {letter.message}")
            shown = await engine.dead_letters.get(letter.instance_id, letter.task)
            print(f"  it was called with {shown.input.decode()}")

        a_clerk_writes("Ada: Harbour Street 4", "Grace: Mill Lane 9", "Konrad: Old Market 1")
        await engine.dead_letters.redrive_all()
        for handle in handles:
            print(f"{handle.id}: {await handle.result()}")


if __name__ == "__main__":
    if not STREETS.exists():
        a_clerk_writes("Ada: Harbour Street 4", "Grace: Mill Lane 9")
    asyncio.run(main())

"""An activity that is completed from outside: it gives a token away, and whoever holds it brings the result.

    python examples/approval_token.py

It keeps `approval_token.db`, and the tokens in `approval_tokens/`, in the current folder; delete both to begin anew.
"""

import asyncio
from pathlib import Path

from durableflow import Client, Context, Engine, HandedOver, Handle, TokenRefused, activity, activity_context, workflow

LETTERS = Path("approval_tokens")


@activity(timeout=3_600)
def ask(order: str) -> str:
    print(f"  asking about {order}")
    token = activity_context().hand_over_blocking()
    # A real one would be mailed. What is written here is good even after a crash: the token is durable already.
    LETTERS.mkdir(exist_ok=True)
    letter = LETTERS / f"{activity_context().attempt}.part"
    letter.write_text(token)
    letter.replace(letter.with_suffix(".token"))
    raise HandedOver


@workflow
async def purchase(ctx: Context, order: str) -> str:
    return f"{order}: {await ctx.call_activity(ask, order)}"


def letters() -> list[str]:
    return [letter.read_text() for letter in sorted(LETTERS.glob("*.token"))]


async def answer(handle: Handle[str]) -> None:
    """What another process would do: read the letters and answer the one that is still good."""
    async with Client("sqlite:///approval_token.db") as client:
        while not (await handle.status()).status.is_terminal:
            await asyncio.sleep(0.2)
            for token in letters():
                try:
                    await client.complete(token, "approved by Ada")
                except TokenRefused as refused:
                    print(f"  a letter is {refused.reason}")


async def main() -> None:
    async with Engine("sqlite:///approval_token.db") as engine:
        handle = await engine.start(purchase.options(instance_id="order-1"), "a lamp")
        answering = asyncio.create_task(answer(handle))
        print(await handle.result())
        await answering


if __name__ == "__main__":
    asyncio.run(main())

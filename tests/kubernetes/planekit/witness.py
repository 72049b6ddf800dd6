"""Everything of one kind that ever was in a namespace, as a watch of the tests' own has seen it."""

import asyncio
import ssl
from contextlib import suppress
from typing import Self

from planekit.api import Api
from planekit.patience import eventually
from planekit.plane import ControlPlane


class Witness:
    """Use it as `async with Witness(plane, "/apis/batch/v1/namespaces/gpus/jobs") as jobs:`.

    It asks as the administrator and past all proxies, and has seen all that is created after the block was entered.

    Attributes:
        created: the name of each, by uid.
        present: uids of those that are there.
    """

    def __init__(self, plane: ControlPlane, path: str) -> None:
        trusting = ssl.create_default_context(cafile=str(plane.authority.certificate))
        self._api = Api(plane.url, trusting, token=plane.admin_token)
        self._path = path
        self._has_listed = asyncio.Event()
        self.created: dict[str, str] = {}
        self.present: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        self._watching = asyncio.create_task(self._watch())
        await self._has_listed.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.__aexit__()
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def names(self) -> list[str]:
        """Of all that ever were, when it has seen the last of them go."""
        await eventually(lambda: not self.present, patience_s=90)
        return list(self.created.values())

    async def _watch(self) -> None:
        async for kind, told in self._api.follow(self._path):
            if kind == "LISTED":
                self.present = {each["metadata"]["uid"] for each in told}
                self.created.update({each["metadata"]["uid"]: each["metadata"]["name"] for each in told})
                self._has_listed.set()
                continue
            uid = told["metadata"]["uid"]
            self.created[uid] = told["metadata"]["name"]
            (self.present.discard if kind == "DELETED" else self.present.add)(uid)

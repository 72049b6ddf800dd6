"""The handle of one instance."""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from durableflow.authoring.workflow import Workflow
from durableflow.core.view import HistoryEvent, InstanceView
from durableflow.looking import InstanceStatus
from durableflow.model.duration import Duration
from durableflow.model.status import Status

if TYPE_CHECKING:  # a client makes handles
    from durableflow.client import Client

R = TypeVar("R")
T = TypeVar("T")


class Handle(Generic[R]):
    """One instance, to talk to. Making one asks nothing: the instance need not exist.

    Attributes:
        id: its instance id.
    """

    def __init__(self, client: Client, instance_id: str, workflow: Workflow[..., R] | None = None) -> None:
        self._client = client
        self._workflow = workflow
        self.id = instance_id

    def __repr__(self) -> str:
        return f"<handle of instance {self.id!r}>"

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait for the end; what the workflow returned, of its annotated type. See `Client.result`."""
        return cast("R", await self._client.result(self.id, workflow=self._workflow, timeout=timeout))

    async def status(self) -> InstanceStatus:
        """See `Client.status`."""
        return await self._client.status(self.id)

    async def history(self) -> list[HistoryEvent]:
        """See `Client.history`."""
        return await self._client.history(self.id)

    async def view(self) -> InstanceView:
        """See `Client.view`."""
        return await self._client.view(self.id)

    async def raise_event(self, name: str, payload: object = None, *, event_id: str | None = None) -> None:
        """See `Client.raise_event`."""
        await self._client.raise_event(self.id, name, payload, event_id=event_id)

    @overload
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> T: ...
    @overload
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    async def request(
        self,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        request_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """See `Client.request`."""
        return await self._client.request(
            self.id, name, *args, result_type=result_type, request_id=request_id, timeout=timeout
        )

    @overload
    async def query(self, name: str, /, *args: object, result_type: type[T]) -> T: ...
    @overload
    async def query(self, name: str, /, *args: object, result_type: UnionType | None = None) -> Any: ...
    async def query(self, name: str, /, *args: object, result_type: Any = None) -> Any:
        """See `Client.query`."""
        return await self._client.query(self.id, name, *args, result_type=result_type, workflow=self._workflow)

    async def rewind(
        self,
        *,
        before: int | None = None,
        force: bool = False,
        timeout: Duration | None = None,
        reason: str = "",
    ) -> None:
        """See `Client.rewind`."""
        await self._client.rewind(self.id, before=before, force=force, timeout=timeout, reason=reason)

    async def fork(self, *, at: int | None = None, new_id: str | None = None, version: int | None = None) -> Handle[R]:
        """See `Client.fork`."""
        return await self._client.fork(self.id, at=at, new_id=new_id, version=version)

    async def restart(self, *, new_id: str | None = None) -> Handle[R]:
        """See `Client.restart`."""
        return await self._client.restart(self.id, new_id=new_id)

    async def suspend(self, reason: str = "") -> None:
        """See `Client.suspend`."""
        await self._client.suspend(self.id, reason)

    async def resume(self) -> None:
        """See `Client.resume`."""
        await self._client.resume(self.id)

    async def terminate(self, reason: str = "") -> None:
        """See `Client.terminate`."""
        await self._client.terminate(self.id, reason)

    async def cancel(self, reason: str = "") -> None:
        """See `Client.cancel`."""
        await self._client.cancel(self.id, reason)

    async def purge(self) -> None:
        """See `Client.purge`."""
        await self._client.purge(self.id)

    async def wait_for_status(self, *statuses: Status, timeout: Duration | None = None) -> InstanceStatus:
        """See `Client.wait_for_status`."""
        return await self._client.wait_for_status(self.id, *statuses, timeout=timeout)

"""Requests to a running workflow, which it answers, and queries, which only look.

A handler that answers requests runs as a branch: it may ask for activities and wait. What it returns or raises is
recorded as the answer. A query is no part of the history: its handler runs on what is in memory, and asks for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from durableflow.core.current import current_execution
from durableflow.core.others import Correspondent
from durableflow.core.task import Task
from durableflow.core.turn import NOT_IN_A_BRANCH, BeginAnew
from durableflow.errors import PayloadTooLarge, UsageError
from durableflow.model import events as ev
from durableflow.model.converter import NULL
from durableflow.model.failure import Failure, record

if TYPE_CHECKING:
    from durableflow.core.execution import Execution

_SEEN_MAX: Final = 10_000
"""So many request ids are remembered; of older ones the history knows."""


class Handler(NamedTuple):
    """What answers a request or a query.

    Attributes:
        begin: calls the user's function with the arguments read from bytes; raises what is wrong with them.
        dump: what the function returned, as payload bytes.
    """

    begin: Callable[[bytes], object]
    dump: Callable[[object], bytes]


class Desk:
    """Where the requests of one instance arrive."""

    __slots__ = ("handlers", "kept", "open", "queries", "seen")

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.queries: dict[str, Handler] = {}
        self.kept: deque[ev.KeptRequest] = deque()
        """Those that nobody has a handler for yet."""
        self.open: dict[str, None] = {}
        """Being answered."""
        self.seen: dict[str, None] = {}


class Answerer(Correspondent):
    """Answers what one instance is asked."""

    __slots__ = ("desk",)

    desk: Desk | None
    """Made when it is needed."""

    def _desk(self) -> Desk:
        if self.desk is None:
            self.desk = Desk()
        return self.desk

    def on_request(self, name: str, handler: Handler) -> None:
        """From here on `handler` answers requests called `name`; those that were kept come first."""
        self._check_usable()
        desk = self._desk()
        if name in desk.handlers:
            raise UsageError(f"the workflow has a handler for request {name!r} already; give one name one handler")
        desk.handlers[name] = handler
        if desk.kept:
            waiting, desk.kept = desk.kept, deque()
            for request in waiting:
                self._serve_or_keep(request)

    def on_query(self, name: str, handler: Handler) -> None:
        """From here on `handler` answers queries called `name`."""
        self._check_usable()
        queries = self._desk().queries
        if name in queries:
            raise UsageError(f"the workflow has a handler for query {name!r} already; give one name one handler")
        queries[name] = handler

    def note_request(self, request_id: str) -> bool:
        """True the first time that this request comes."""
        seen = self._desk().seen
        if request_id in seen:
            return False
        seen[request_id] = None
        if len(seen) > _SEEN_MAX:
            del seen[next(iter(seen))]
        return True

    def forget_request(self, request_id: str) -> None:
        """This one is told again."""
        self._desk().seen.pop(request_id, None)

    def keep_request(self, request: ev.KeptRequest) -> None:
        """Nobody has a handler for it yet."""
        self._desk().kept.append(request)

    def serve(self, request: ev.KeptRequest) -> None:
        """Have a request answered, now or when there is a handler for it."""
        self._serve_or_keep(request)

    def _serve_or_keep(self, request: ev.KeptRequest) -> None:
        desk = self._desk()
        handler = desk.handlers.get(request.name)
        if handler is None:
            self.keep_request(request)
        else:
            desk.open[request.request_id] = None
            label = f"the handler of request {request.name!r}"
            self._drive_branch(self._answer(request, handler), Task(self, 0, label))

    def _answer(self, request: ev.KeptRequest, handler: Handler) -> Generator[Any, Any, None]:
        try:
            result = handler.begin(request.arguments)
            if hasattr(result, "send") and hasattr(result, "throw"):
                result = yield from _steps(result)
            output = handler.dump(result)
            if len(output) > self.payload_limit_bytes:
                raise PayloadTooLarge(f"the answer to request {request.name!r}", len(output), self.payload_limit_bytes)
        except Exception as error:
            answer = ev.RequestAnswered(request.request_id, NULL, record(error, skip_frames=1))
        except BeginAnew:
            refusal = UsageError(NOT_IN_A_BRANCH)
            answer = ev.RequestAnswered(request.request_id, NULL, record(refusal))
        else:
            answer = ev.RequestAnswered(request.request_id, output)
        self._decide(answer)
        if not self.replaying:
            self._turn.answer(answer)
        desk = self._desk()
        desk.open.pop(request.request_id, None)

    def _answer_open_requests(self) -> None:
        """The code begins anew: whoever waits for a handler that is still at work is told."""
        for request_id in list(self.desk.open) if self.desk is not None else ():
            failure = Failure("ContinuedAsNew", "the workflow began anew before its handler had an answer")
            answer = ev.RequestAnswered(request_id, NULL, failure)
            self._decide(answer)
            if not self.replaying:
                self._turn.answer(answer)

    def query(self, name: str, arguments: bytes) -> bytes:
        """What the handler of query `name` says now; adds nothing to the history.

        Raises:
            UsageError: there is no such handler, or it asked the context for something.
        """
        handler = None if self.desk is None else self.desk.queries.get(name)
        if handler is None:
            known = sorted(self.desk.queries) if self.desk is not None else []
            there = f"; it has: {', '.join(map(repr, known))}" if known else ""
            raise UsageError(
                f"workflow {self.program.name!r} (instance {self.instance_id!r}) has no query {name!r} as far as it "
                f"has come{there}; register one with ctx.on_query({name!r})"
            )
        token = current_execution.set(cast("Execution", self))  # all layers are one object
        try:
            result: Any = handler.begin(arguments)
            if hasattr(result, "send") and hasattr(result, "throw"):
                result.close()
                raise UsageError(f"the handler of query {name!r} is a generator or a coroutine; it must not wait")
            return handler.dump(result)
        finally:
            current_execution.reset(token)


def _steps(result: Any) -> Generator[Any, Any, Any]:
    """A generator or coroutine, to be driven by `yield from`."""
    steps: Generator[Any, Any, Any] = result.__await__() if hasattr(result, "__await__") else result
    return steps

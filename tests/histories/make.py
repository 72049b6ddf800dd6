"""Write the histories of today's code: `python tests/histories/make.py v0.1.0`. What is there stays as it is."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import workflows as golden

from durableflow import Workflow
from durableflow.core import rewriting
from durableflow.core.execution import WORKER_LOST, Execution
from durableflow.core.turn import Turn
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.failure import Failure, record
from durableflow.testing.histories import History, Row

SECOND = 1_000_000
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ORDER = golden.Order("o-1", ["lamp", "chair"], Decimal("99.90"), START)


class Scene:
    """One instance, told what comes in; its rows are the history."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.now_us = round(START.timestamp()) * SECOND
        self.rows: list[Row] = []

    def start(
        self, flow: Workflow[..., Any], *args: object, start_at_s: int = 0, deadline_s: int = 0, **kw: Any
    ) -> None:
        self.execution = Execution(f"golden-{self.name}", flow)
        data = flow.arguments.dump(args, kw, "the input")
        start_at_us = self.now_us + start_at_s * SECOND if start_at_s else 0
        deadline_us = self.now_us + deadline_s * SECOND if deadline_s else 0
        self.tell(ev.InstanceStarted(flow.name, flow.version, data, start_at_us=start_at_us, deadline_us=deadline_us))

    def deploy(self, flow: Workflow[..., Any]) -> None:
        """Go on with other code, as after a restart."""
        self.execution.put_away()
        self.execution = Execution(self.execution.instance_id, flow)
        for row in self.rows:
            self.execution.replay(row.first_seq, row.at_us, row.events)

    def tell(self, *observed: ev.Observation, queue: bool = False) -> None:
        turn = self.execution.advance(observed, now_us=self.now_us)
        assert not turn.refused, turn.refused
        if queue:
            for activity in turn.scheduled:
                self.execution.note_queued(activity)
        self.write(turn)
        while (started := self.execution.continued) is not None:
            over = self.execution
            self.execution = Execution(over.instance_id, over.program)  # type: ignore[arg-type]
            self.execution.next_seq = over.next_seq
            turn = self.execution.advance([started, *over.left_over], now_us=self.now_us)
            self.write(turn)

    def write(self, turn: Turn) -> None:
        for first_seq, events in [*turn.closed, (turn.first_seq, turn.events)]:
            self.rows.append(Row(first_seq, turn.at_us, [without_places(event) for event in events]))

    def replay(self, flow: Workflow[..., Any], rows: list[Row]) -> None:
        """Go on from there."""
        self.execution = Execution(self.execution.instance_id, flow)
        self.execution.next_seq = rows[0].first_seq
        for row in rows:
            self.execution.replay(row.first_seq, row.at_us, row.events)

    def done(self, task: int, value: object = None, attempt: int = 1) -> None:
        self.tell(ev.ActivityCompleted(task, converter.dump(value), attempt))

    def event(self, name: str, payload: object = None, event_id: str | None = None) -> None:
        self.tell(ev.EventReceived(name, converter.dump(payload), event_id))

    def wait(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND)
        self.tell(*self.execution.due_observations(self.now_us))


def without_places(event: ev.Event) -> ev.Event:
    """`event` without the folders of the machine that made it."""
    if not isinstance(event, (ev.InstanceFailed, ev.SideEffectRecorded, ev.RequestAnswered)) or event.failure is None:
        return event
    text = event.failure.traceback_text.replace(f"{Path(__file__).resolve().parents[2]}/", "")
    return msgspec.structs.replace(event, failure=msgspec.structs.replace(event.failure, traceback_text=text))


def failure() -> Failure:
    """As an activity's would be recorded, with a cause."""
    try:
        try:
            raise OSError("connection reset")
        except OSError as error:
            raise RuntimeError("the bank does not answer") from error
    except RuntimeError as error:
        made = record(error)
    cause = made.cause
    assert cause is not None
    lines = '  File "bank.py", line 12, in charge\n    raise RuntimeError("the bank does not answer") from error\n'
    return Failure(made.type_name, made.message, lines, Failure(cause.type_name, cause.message, ""))


def order(scene: Scene) -> None:
    scene.start(golden.order, ORDER)
    scene.now_us += 1_234
    scene.done(2, "chair from shelf 7")
    scene.done(1, "lamp from shelf 7")
    scene.done(3, golden.Receipt("o-1", Decimal("99.90")))
    scene.now_us += 3600 * SECOND
    scene.event("approved", True, "message 17")


def saga(scene: Scene) -> None:
    scene.start(golden.saga, ORDER)
    scene.done(1, "lamp from shelf 7")
    scene.tell(ev.AttemptFailed(2, 1, failure(), scene.now_us + SECOND // 2, details=b'{"tried":1}'))
    scene.now_us += SECOND // 2
    scene.tell(ev.ActivityStarted(2, 2))
    scene.tell(ev.ActivityFailed(2, failure(), 2, 2))
    scene.done(3)


def retries(scene: Scene) -> None:
    scene.rows.clear()
    scene.execution = Execution(f"golden-{scene.name}", golden.retries)
    scene.tell(ev.InstanceStarted("golden retries", 1, b'["lamp"]'), queue=True)
    scene.tell(ev.ActivityStarted(1, 1))
    scene.tell(ev.AttemptFailed(1, 1, Failure(WORKER_LOST, "the worker's process ended"), scene.now_us))
    scene.tell(ev.ActivityStarted(1, 2))
    stopped = Failure("WorkerStopped", "the engine was closed while this attempt was running")
    scene.tell(ev.AttemptFailed(1, 2, stopped, scene.now_us, counts=False, details=b"[1,2]"))
    scene.tell(ev.ActivityStarted(1, 3))
    scene.done(1, "lamp from shelf 7", attempt=3)


def timers(scene: Scene) -> None:
    scene.start(golden.timers)
    scene.wait(1.5)
    scene.wait(61)


def events(scene: Scene) -> None:
    scene.start(golden.events)
    scene.event("kept", "early")
    scene.tell(ev.EventReceived("strasse", b'"one"'), ev.EventReceived("STRAßE", b"2", "id 2"))
    scene.wait(1)
    scene.wait(10)
    scene.event("typed", "not a bool")


def branches(scene: Scene) -> None:
    scene.start(golden.branches, ["lamp", "chair", "bad"])
    scene.done(3, "chair from shelf 7")
    scene.done(4, "bad from shelf 7")
    scene.event("cancel the first")
    scene.done(7)
    scene.wait(1)


def facts(scene: Scene) -> None:
    scene.start(golden.facts)
    scene.wait(1)


def pause(scene: Scene) -> None:
    scene.start(golden.pause)
    scene.tell(ev.InstanceSuspended("lunch"))
    scene.event("e")
    scene.wait(5)
    scene.done(1, "lamp from shelf 7")
    scene.now_us += 3600 * SECOND
    scene.tell(ev.InstanceResumed())


def tidy(scene: Scene) -> None:
    scene.start(golden.tidy, "o-1")
    scene.tell(ev.CancelRequested("out of stock"))
    scene.done(2)


def terminated(scene: Scene) -> None:
    scene.start(golden.long, 3)
    scene.done(1, "0 from shelf 7")
    scene.wait(60)
    scene.tell(ev.InstanceTerminated("enough"))


def timed_out(scene: Scene) -> None:
    scene.start(golden.long, 3, start_at_s=60, deadline_s=100)
    scene.event("unwanted")
    scene.wait(60)
    scene.done(1, "0 from shelf 7")
    scene.wait(40)


def quick(scene: Scene) -> None:
    scene.start(golden.quick, 1, b=41)


def still_open(scene: Scene) -> None:
    scene.start(golden.long, 1_000)
    for k in range(20):
        scene.done(2 * k + 1, f"{k} from shelf 7")
        scene.wait(60)


def second_thoughts(scene: Scene) -> None:
    scene.start(golden.second_thoughts)
    scene.tell(ev.CancelRequested("too dear"))
    scene.event("approved", "by the manager")
    scene.done(2, "lamp from shelf 7")


def handed_over(scene: Scene) -> None:
    scene.start(golden.handed_over)
    scene.tell(ev.ActivityHandedOver(1, 1))
    scene.tell(ev.AttemptFailed(2, 1, Failure("E", "busy"), scene.now_us + SECOND))
    scene.done(2, "chair from shelf 7", attempt=2)
    scene.done(1, "lamp from shelf 7")


def debounced(scene: Scene) -> None:
    """The input that counts is the last one, and comes before the code begins."""
    flow = golden.handed_over
    scene.execution = Execution(f"golden-{scene.name}", flow)
    scene.tell(ev.InstanceStarted(flow.name, flow.version, b'["not yet"]', debounced=True))
    scene.tell(ev.StartChanged(b"[]", 0))
    scene.tell(ev.InstanceBegan())
    scene.done(1, "lamp from shelf 7")
    scene.done(2, "chair from shelf 7")


def before_the_patches(scene: Scene) -> None:
    scene.start(Workflow(golden.lamps_as_they_were, name=golden.lamps.name))
    scene.done(1, "lamp from shelf 7")
    scene.event("go")


def between_the_patches(scene: Scene) -> None:
    scene.start(Workflow(golden.lamps_as_they_were, name=golden.lamps.name))
    scene.done(1, "lamp from shelf 7")
    scene.deploy(golden.lamps)
    scene.event("go")
    scene.done(3, "third lamp from shelf 7")


def after_the_patches(scene: Scene) -> None:
    scene.start(golden.lamps)
    for task in (1, 2):
        scene.done(task, "lamp from shelf 7")
    scene.event("go")
    scene.done(4, "third lamp from shelf 7")


def family(scene: Scene) -> None:
    scene.start(golden.family, ["lamp", "chair", "bed"])
    scene.tell(ev.ChildCompleted(1, b'"lamp from shelf 7"'), ev.ChildFailed(3, failure(), "FAILED"))
    scene.tell(ev.RequestReceived("r1", "add", b'["vase"]'), ev.RequestReceived("r2", "add", b'[""]'))
    scene.done(6, "vase from shelf 7")
    scene.tell(ev.ChildFailed(5, Failure("Terminated", "enough"), "TERMINATED"))
    scene.tell(ev.ChildFailed(2, Failure("InstanceExists", "taken")))
    scene.wait(5)
    scene.tell(ev.ChildCompleted(8, b'"y from shelf 7"'))
    scene.tell(ev.MessageAnswered(9, "delivered"), ev.MessageAnswered(10, "missing"))
    scene.tell(ev.RequestReceived("r3", "nobody has a handler for this", b"[]"))
    scene.event("go", 1)


def days(scene: Scene) -> None:
    scene.start(golden.days, 0, [], deadline_s=3600)
    scene.event("kept", 1, "id 1")
    scene.tell(ev.RequestReceived("r1", "late", b"[]"))
    scene.event("night", "first")
    scene.tell(ev.InstanceSuspended())
    scene.tell(ev.EventReceived("night", b'"second"', "id 2"), ev.EventReceived("night", b'"third"'))
    scene.tell(ev.InstanceResumed())


def stages(scene: Scene) -> None:
    scene.start(golden.stages, 4)
    scene.event("word", "one", "id 1")
    scene.tell(ev.EventReceived("word", b'"two"'), ev.EventReceived("other", b"1"))
    scene.tell(ev.InstanceSuspended())
    scene.tell(ev.EventReceived("word", b'"three"', "id 3"), ev.EventReceived("word", b'"four"'))
    scene.tell(ev.InstanceResumed())


def rewound(scene: Scene) -> None:
    scene.start(golden.fragile)
    scene.done(1, "lamp from shelf 7")
    scene.event("signed", "me")
    scene.tell(ev.ActivityFailed(2, failure(), 1, 1))
    scene.done(3, "bed from shelf 7")
    plan = rewriting.rewind(f"golden-{scene.name}", scene.rows, None, None)
    scene.now_us += 3600 * SECOND
    note_seq = scene.execution.next_seq
    last = plan.rows[-1]
    scene.rows.append(Row(note_seq, scene.now_us, [ev.InstanceRewound(last[0] + len(last[2]), "the bank is open")]))
    kept = [Row(first + note_seq, at_us, events) for first, at_us, events in plan.rows]
    scene.rows += kept
    scene.replay(golden.fragile, kept)
    for message in plan.messages:
        scene.tell(message)
    scene.tell(ev.ActivityStarted(2, 2))
    scene.done(2, "chair from shelf 7", attempt=2)


def forked(scene: Scene) -> None:
    scene.start(golden.fragile)
    scene.done(1, "lamp from shelf 7")
    scene.done(3, "bed from shelf 7")
    origin = ev.Origin(forked_from="golden-original", forked_at=5, seed="golden-original")
    scene.execution = Execution("golden-original", golden.fragile)
    plan = rewriting.fork(scene.rows, 5, origin, None)
    scene.execution = Execution(f"golden-{scene.name}", golden.fragile)
    scene.rows = [Row(*row) for row in plan.rows]
    scene.replay(golden.fragile, scene.rows)
    for message in plan.messages:
        scene.tell(message)
    for task in (2, 3):
        scene.tell(ev.ActivityStarted(task, 2))
        scene.done(task, "a shelf", attempt=2)
    scene.event("signed", "me too")


SCENES: list[Callable[[Scene], None]] = [
    order, saga, retries, timers, events, branches, facts, pause, tidy, terminated, timed_out, quick, still_open,
    second_thoughts, handed_over, before_the_patches, between_the_patches, after_the_patches, family, days, stages,
    rewound, forked, debounced,
]  # fmt: skip


def main(version: str) -> None:
    """Write what the folder of `version` has not yet."""
    folder = Path(__file__).parent / version
    folder.mkdir(exist_ok=True)
    for play in SCENES:
        if (folder / f"{play.__name__}.jsonl").exists():
            continue  # never edited
        scene = Scene(play.__name__)
        play(scene)
        scene.execution.put_away()
        History(f"golden-{scene.name}", scene.rows).save(folder / f"{scene.name}.jsonl")
        lines = [f"{row.first_seq} {row.at_us} {ev.dump_events(row.events).hex()}\n" for row in scene.rows]
        (folder / f"{scene.name}.rows").write_text("".join(lines), encoding="ascii")
        ended = scene.execution.ended
        print(f"{scene.name}: {scene.execution.status}, {scene.execution.next_seq - 1} events", ended or "")


if __name__ == "__main__":
    main(*sys.argv[1:])

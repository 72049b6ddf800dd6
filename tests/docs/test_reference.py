"""The reference pages say what the code says: codes, tags, fields, defaults, signatures, the life cycle."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import durableflow
from durableflow import (
    BlockingClient,
    BlockingEngine,
    BlockingHandle,
    BlockingShards,
    Client,
    Context,
    Engine,
    Handle,
    RetryPolicy,
    Settings,
    Shards,
    Status,
    errors,
    testing,
)
from durableflow.asking import Asking
from durableflow.authoring.waiting import Waiting
from durableflow.cli import main
from durableflow.core.view import InstanceView, TaskView
from durableflow.engine import STORE_VARIABLE
from durableflow.looking import Looking
from durableflow.many import ManyInstances
from durableflow.model import events as ev
from durableflow.model.status import TERMINAL, TRANSITIONS
from durableflow.observe import facts
from durableflow.testing import histories, plugin, strategies, words
from durableflow.testing.clock import START
from durableflow.testing.stand_ins import MISSING
from durableflow.trouble import Trouble
from durableflow.work import Work

PAGES = Path(__file__).parents[2] / "docs" / "reference"
API, COMMAND_LINE, ERRORS, EVENTS, FACTS, SETTINGS, TESTING = (
    (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for name in ("api", "command-line", "errors", "history-events", "facts", "settings", "testing")
)
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<second>.*?) \|", re.MULTILINE)


def sections(page: str, level: int) -> dict[str, str]:
    """The text under each heading of a level, up to the next heading of this level or a higher one."""
    parts = re.split(rf"^(#{{2,{level}}}) (.+)\n", page, flags=re.MULTILINE)[1:]
    return {
        title: text
        for marks, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
        if len(marks) == level
    }


def rows(text: str) -> list[tuple[str, str]]:
    return [(row["name"], row["second"]) for row in ROW.finditer(text)]


def table_under(page: str, heading: str) -> list[tuple[str, str]]:
    return rows(page.split(f"{heading}\n", 1)[1].split("\n#", 1)[0])


# -- errors ---------------------------------------------------------------------------------------------------------

CODED = {
    kind.code: name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.DurableflowError) and "code" in vars(kind)
}
UNCODED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, BaseException)
    and not issubclass(kind, errors.DurableflowError)
    and not name.startswith("_")
}


def test_each_error_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(CODED) == sum(issubclass(kind, errors.DurableflowError) for kind in kinds)


def test_the_page_of_errors_has_each_code_with_its_name_in_order() -> None:
    found = re.findall(r"^### (DF\d{4}) `(\w+)`$", ERRORS, re.MULTILINE)
    assert found == sorted(CODED.items())
    assert set(re.findall(r"^### `(\w+)`$", ERRORS, re.MULTILINE)) == UNCODED


def test_an_error_stands_in_the_branch_of_its_first_digit() -> None:
    for code, name in CODED.items():
        if not code.endswith("000") and code[2] != "5":
            assert getattr(errors, name).mro()[1:].count(getattr(errors, CODED[f"DF{code[2]}000"])), name


def test_codes_named_beside_errors_in_the_reference_are_theirs() -> None:
    named = re.findall(r"`(\w+)` \((DF\d{4})\)", API + SETTINGS + EVENTS + TESTING)
    assert named
    assert [(name, code) for name, code in named if CODED.get(code) != name] == []


# -- events ---------------------------------------------------------------------------------------------------------


def tag_of(kind: type) -> str:
    assert issubclass(kind, msgspec.Struct)
    return str(kind.__struct_config__.tag)


def test_the_page_of_events_has_each_tag_with_its_fields_in_their_order() -> None:
    kinds = {tag_of(kind): kind for kind in get_args(ev.Event)}
    described = {title.strip("`"): text for title, text in sections(EVENTS, 3).items()}
    assert described.keys() == kinds.keys()
    for tag, kind in kinds.items():
        assert tuple(name for name, _ in rows(described[tag])) == kind.__struct_fields__, tag


def test_an_event_stands_among_its_kind() -> None:
    for title, members in (
        ("Observations", get_args(ev.Observation)),
        ("Decisions", ev.DECISIONS),
        ("Notes", ev.NOTES),
    ):
        text = EVENTS.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
        assert set(re.findall(r"^### `(\w+)`", text, re.MULTILINE)) == {tag_of(kind) for kind in members}
    ends = {re.match(r"### `(\w+)`", s)[1] for s in re.findall(r"^### `\w+`\n\nThe end", EVENTS, re.MULTILINE)}  # type: ignore[index]  # it matched above
    assert ends == {tag_of(kind) for kind in ev.ENDS}


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("struct", "page", "heading"),
    [(Settings, SETTINGS, "## The engine's settings"), (RetryPolicy, API, "### `RetryPolicy`")],
    ids=["Settings", "RetryPolicy"],
)
def test_each_setting_stands_on_its_page_with_its_default(
    struct: type[msgspec.Struct], page: str, heading: str
) -> None:
    defaults = {name: f"`{getattr(struct(), name)!r}`" for name in struct.__struct_fields__}
    assert table_under(page, heading) == list(defaults.items())


def test_the_environment_variables_are_those_of_the_code() -> None:
    assert table_under(SETTINGS, "## The environment")[0][0] == STORE_VARIABLE


# -- the life cycle -------------------------------------------------------------------------------------------------


def test_the_life_cycle_on_the_page_is_the_table_of_the_code() -> None:
    drawn = re.findall(r"^\| `([A-Z]+)` \| (\w+) \| (`[A-Z]+`(?:, `[A-Z]+`)*) \|$", API, re.MULTILINE)
    coded = [
        (status.value, signal.value, ", ".join(f"`{target}`" for target in targets))
        for status, row in TRANSITIONS.items()
        for signal, targets in row.items()
    ]
    assert drawn == coded
    ends = re.search(r"^(`[A-Z]+`(?:, `[A-Z]+`)* and `[A-Z]+`) are ends\.", API, re.MULTILINE)
    assert ends is not None
    assert set(re.findall(r"[A-Z]+", ends[1])) == {status.value for status in TERMINAL}


def test_the_glossary_has_each_status() -> None:
    page = (PAGES.parent / "glossary.md").read_text(encoding="utf-8")
    assert [name for name, _ in table_under(page, "## Status")] == [status.value for status in Status]


# -- signatures -----------------------------------------------------------------------------------------------------

# In a heading, or (of a class that others link to) alone on the line below it.
SIGNATURE = re.compile(r"^(?:#{2,6} )?`(?P<name>[A-Za-z_][\w.]*)(?:\((?P<parameters>.*)\))?`$", re.MULTILINE)
HEADINGS = {heading["name"]: heading["parameters"] for heading in SIGNATURE.finditer(API)}
FOR_THE_ENGINE = {
    "Alert.of",
    "CircuitBreaker.circuit_of",
    "CircuitBreaker.ignores",
    "CircuitBreaker.reset_us",
    "Calendar.after",
    "Cron.after",
    "Interval.after",
    "Schedule.after",
    "Schedule.due_us",
    "ActivityContext.mark_cancelled",
    "Activity.load_result",
    "Compensation.move_to",
    "Compensation.undo",
    "Saga.forget",
    "Saga.refuse_checkpoint",
    "Activity.result_loader",
    "Task.add_waiter",
    "Task.remove_waiter",
    "Task.settle",
    "Task.settle_cancelled",
    "Task.take_waiters",
    "Task.waiters",
    "Workflow.begin",
    "Workflow.dump_result",
    "Workflow.load_result",
    "Workflow.result_loader",
}


PARTS: dict[type, tuple[type, ...]] = {Client: (Looking, Asking, ManyInstances, Work, Trouble), Context: (Waiting,)}


def resolve(name: str) -> object:
    found: object = durableflow
    for part in name.split("."):
        found = getattr(found, part)
    return found


def written(target: object, *, bound: bool) -> str:
    """The parameters as a heading has them: no annotations, no self."""
    parameters = list(inspect.signature(target).parameters.values())  # type: ignore[arg-type]  # all are callables
    if bound:
        parameters = parameters[1:]
    bare = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
    return str(bare)[1:-1]


def test_a_signature_on_the_page_is_that_of_the_code() -> None:
    wrong = dict[str, tuple[str, str]]()
    for name, parameters in HEADINGS.items():
        if parameters is not None:
            target = resolve(name)
            real = written(target, bound="." in name)
            if real != parameters:
                wrong[name] = (parameters, real)
    assert wrong == {}


def test_functions_and_methods_stand_on_the_page_with_their_signature() -> None:
    assert [n for n, parameters in HEADINGS.items() if parameters is None and inspect.isfunction(resolve(n))] == []


def test_each_public_method_of_a_public_class_is_described() -> None:
    missing = list[str]()
    for owner in durableflow.__all__:
        kind = resolve(owner)
        if not isinstance(kind, type) or kind is Handle or owner.startswith("Blocking"):
            continue  # described as those that they repeat; the tests below hold them to it
        section = sections(API, 3).get(f"`{owner}`", "")
        for name, member in [each for part in (*PARTS.get(kind, ()), kind) for each in vars(part).items()]:
            full = f"{owner}.{name}"
            inherited = owner in {"Engine", "Shards"} and hasattr(Client, name)
            described = full in HEADINGS or (not inspect.isfunction(member) and f"`{name}`" in section)
            public = not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
            if public and not inherited and not described and full not in FOR_THE_ENGINE:
                missing.append(full)
    assert missing == []


def test_a_handle_has_the_clients_methods_that_are_about_one_instance() -> None:
    described = set(re.findall(r"`(\w+)`", sections(API, 3)["`Handle`"])) - {"id"}
    methods = {name for name, member in vars(Handle).items() if inspect.isfunction(member) and not name.startswith("_")}
    assert described == methods
    for name in methods:
        on_client = list(inspect.signature(getattr(Client, name)).parameters.values())[2:]
        on_handle = list(inspect.signature(getattr(Handle, name)).parameters.values())[1:]
        assert [p.replace(annotation=p.empty) for p in on_client if p.name != "workflow"] == [
            p.replace(annotation=p.empty) for p in on_handle
        ], name


def test_the_view_of_an_instance_is_described_field_by_field() -> None:
    section = sections(API, 3)["`Client.view(instance_id)`"]
    fields = {*InstanceView.__struct_fields__, *TaskView.__struct_fields__}
    assert {name for name in fields if f"`{name}`" not in section} == set()


def methods_of(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and inspect.isroutine(getattr(kind, name))}


@pytest.mark.parametrize(
    ("twin", "model", "missing", "added"),
    [
        (BlockingEngine, Engine, {"lifespan"}, {"of"}),
        (BlockingClient, Client, set[str](), set[str]()),
        (BlockingHandle, Handle, set[str](), set[str]()),
        (BlockingShards, Shards, {"lifespan"}, set[str]()),
    ],
    ids=["engine", "client", "handle", "shards"],
)
def test_a_blocking_twin_has_the_methods_of_its_model(
    twin: type, model: type, missing: set[str], added: set[str]
) -> None:
    assert methods_of(twin) - added == methods_of(model) - missing
    for name in methods_of(model) - missing:
        assert written(getattr(twin, name), bound=True) == written(getattr(model, name), bound=True), name


# -- facts and the command line ---------------------------------------------------------------------------------------


def test_the_page_of_facts_has_each_fact_with_its_fields_in_their_order() -> None:
    described = {title.strip("`"): [name for name, _ in rows(text)] for title, text in sections(FACTS, 3).items()}
    assert described == {kind.__name__: [*kind.__struct_fields__] for kind in get_args(facts.Fact)}


def test_the_page_of_the_command_line_has_each_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    commands, options, _ = (rows(part) for part in COMMAND_LINE.split("\n\n") if part.startswith("| "))
    assert main([]) == 2
    told = capsys.readouterr().err
    assert [name for name, _ in commands] == re.findall(r"^    (\w+) ", told, re.MULTILINE)
    told = ""
    for command in ("demo", "move"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told += capsys.readouterr().out
    assert sorted(name for name, _ in options) == sorted(set(re.findall(r"--\w[\w-]*", told)))


# -- the test kit -----------------------------------------------------------------------------------------------------

KIT = {heading["name"]: heading["parameters"] for heading in SIGNATURE.finditer(TESTING)}
KIT_TITLES = set(re.findall(r"^#{2,6} `(\w+)", TESTING, re.MULTILINE))
FOR_THE_CLOCK = {"VirtualEngine.running_attempts", "VirtualEngine.waits_for_attempts", "VirtualClock.now_us"} | {
    f"VirtualClock.{name}" for name in ("draw", "random_bits", "wait")
}
ON_ANOTHER = {"BlockingEnvironment": "WorkflowEnvironment", "BlockingEnvironmentHandle": "EnvironmentHandle"}


def of_the_kit(name: str) -> Any:
    found: Any = testing
    for part in name.split("."):
        found = getattr(found, part)
    return found


def written_in_the_kit(name: str) -> str:
    target = of_the_kit(name)
    bound = "." in name and not inspect.ismethod(target)  # a class method has lost its first parameter already
    return written(target, bound=bound).replace(repr(START), "START").replace(repr(MISSING), "...")


def test_the_page_of_the_test_kit_has_each_public_name() -> None:
    assert {name.partition(".")[0] for name in KIT_TITLES} == set(testing.__all__)


def test_a_signature_of_the_test_kit_is_that_of_the_code() -> None:
    written_here = {name: parameters for name, parameters in KIT.items() if parameters is not None}
    assert written_here == {name: written_in_the_kit(name) for name in written_here}


def test_functions_and_methods_of_the_test_kit_stand_on_the_page_with_their_signature() -> None:
    assert [name for name, given in KIT.items() if given is None and inspect.isroutine(of_the_kit(name))] == []


def test_each_public_member_of_the_test_kit_is_described() -> None:
    missing = list[str]()
    for owner in set(testing.__all__) - ON_ANOTHER.keys():
        kind = of_the_kit(owner)
        if not isinstance(kind, type):
            continue
        section = sections(TESTING, 3)[f"`{owner}`"]
        fields = getattr(kind, "__struct_fields__", ())
        methods = [
            name
            for base in kind.mro()
            if base.__module__.startswith("durableflow.testing.")
            for name, member in vars(base).items()
            if inspect.isroutine(member) or isinstance(member, property | classmethod)
        ]
        for name in {*fields, *methods}:
            full = f"{owner}.{name}"
            public = not name.startswith(("_", "test_")) and full not in FOR_THE_CLOCK
            repeated = hasattr(Engine, name) and issubclass(kind, Engine)  # described there, and held to it here
            if public and not repeated and full not in KIT and f"`{name}`" not in section:
                missing.append(full)
    assert missing == []


@pytest.mark.parametrize(("twin", "model"), ON_ANOTHER.items(), ids=ON_ANOTHER)
def test_a_blocking_twin_of_the_test_kit_has_the_methods_of_its_model(twin: str, model: str) -> None:
    names = methods_of(of_the_kit(model))
    assert methods_of(of_the_kit(twin)) == names
    for name in names:
        assert written_in_the_kit(f"{twin}.{name}") == written_in_the_kit(f"{model}.{name}"), name


def test_the_words_of_a_story_stand_on_the_page_with_their_signature_and_event() -> None:
    told = {
        name: word
        for name, word in vars(words).items()
        if inspect.isfunction(word) and word.__module__ == words.__name__
    }
    found = re.findall(r"^\| `(\w+)\((.*)\)` \| `(\w+)` \|$", TESTING, re.MULTILINE)
    assert {name: parameters for name, parameters, _ in found} == {
        name: written(word, bound=False) for name, word in told.items()
    }
    assert all(getattr(histories, name) is word for name, word in told.items())
    assert {tag for _, _, tag in found} <= {tag_of(kind) for kind in get_args(ev.Event)}


def test_the_strategies_stand_on_the_page_with_their_signature() -> None:
    told = {
        name: written(made, bound=False)
        for name, made in vars(strategies).items()
        if inspect.isfunction(made) and made.__module__ == strategies.__name__ and not name.startswith("_")
    }
    section = TESTING.split("## Strategies\n", 1)[1].split("\n## ", 1)[0]
    assert dict(re.findall(r"^\| `(\w+)\((.*?)\)` \| ", section, re.MULTILINE)) == told


def test_the_fixtures_and_markers_of_the_plugin_are_those_of_the_code() -> None:
    fixtures = [name for name in vars(plugin) if isinstance(getattr(plugin, name), type(plugin.df))]
    assert sorted(name for name, _ in table_under(TESTING, "## The pytest plugin")) == sorted(
        [*fixtures, "df_backends"]
    )


# -- the house --------------------------------------------------------------------------------------------------------


def test_the_house_in_the_design_is_the_one_that_is_guarded() -> None:
    source = (PAGES.parents[1] / "tests" / "architecture" / "test_floors.py").read_text(encoding="utf-8")
    guarded = next(
        ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "FLOORS"
    )
    drawing = (PAGES.parent / "design.md").read_text(encoding="utf-8")
    drawn = {
        room: float(floor)
        for floor, rooms in re.findall(r"^floor +([\d.]+)   (\S+(?:   \S+)*) {4,}", drawing, re.MULTILINE)
        for room in rooms.split()
    }
    assert drawn == guarded

"""What the look at a workflow's source finds, what it leaves alone, and that it never gets in the way."""

import functools
import itertools
import linecache
import subprocess
import sys
import textwrap
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from durableflow.authoring import determinism
from durableflow.authoring.determinism import Finding, inspect_workflow, warn_about
from durableflow.errors import DeterminismWarning

Look = Callable[..., list[Finding]]
numbers = itertools.count()


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Import a file, and look at its workflows where a decorator would: at decoration, half way through the file."""

    def look_at(source: str, **names: object) -> list[Finding]:
        found = list[Finding]()

        def workflow(fn: Callable[..., object]) -> Callable[..., object]:
            found.extend(determinism._inspect(fn))  # not through the door that swallows our own mistakes
            return fn

        path = tmp_path / f"flows_{next(numbers)}.py"
        path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
        namespace = {"__name__": "flows", "__package__": "", "workflow": workflow, **names}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
        return found

    return look_at


@pytest.fixture
def in_body(look: Look) -> Look:
    """Look at a workflow with this body, below these imports."""

    def look_at(body: str, imports: str = "", **names: object) -> list[Finding]:
        body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        return look(f"{imports or 'pass'}\n@workflow\ndef wf(ctx, order, items):\n{body}\n", **names)

    return look_at


def calls(findings: list[Finding]) -> list[str]:
    return [finding.call for finding in findings]


# -- What is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "call", "advice"),
    [
        ("import time", "time.time()", "ctx.now()"),
        ("import time", "time.time_ns()", "ctx.now()"),
        ("import time", "time.monotonic()", "ctx.now()"),
        ("import time", "time.perf_counter()", "ctx.now()"),
        ("import time", "time.localtime()", "ctx.now()"),
        ("import time", "time.strftime('%Y')", "ctx.now()"),
        ("import time", "time.sleep(1)", "ctx.sleep(...)"),
        ("import datetime", "datetime.datetime.now()", "ctx.now()"),
        ("import datetime", "datetime.datetime.now(datetime.timezone.utc)", "ctx.now()"),
        ("from datetime import datetime", "datetime.utcnow()", "ctx.now()"),
        ("from datetime import datetime", "datetime.today()", "ctx.now()"),
        ("from datetime import date", "date.today()", "ctx.now()"),
        ("import random", "random.random()", "ctx.random()"),
        ("import random", "random.randint(1, 6)", "ctx.random()"),
        ("import random", "random.shuffle(items)", "ctx.random()"),
        ("import random", "random.Random()", "ctx.random()"),
        ("import random", "random.Random(None)", "ctx.random()"),
        ("import random", "random.SystemRandom()", "ctx.random()"),
        ("import uuid", "uuid.uuid1()", "ctx.uuid4()"),
        ("import uuid", "uuid.uuid4()", "ctx.uuid4()"),
        ("import uuid", "uuid.uuid7()", "ctx.uuid4()"),
        ("import secrets", "secrets.token_hex(8)", "ctx.random()"),
        ("import secrets", "secrets.choice(items)", "ctx.random()"),
        ("import os", "os.urandom(8)", "ctx.random()"),
        ("import os", "os.getenv('HOME')", "hand it over as input"),
        ("import os", "os.environ.get('HOME')", "hand it over as input"),
        ("import os", "os.listdir('.')", "@activity"),
        ("import os", "os.path.exists('x')", "@activity"),
        ("import glob", "glob.glob('*')", "@activity"),
        ("import shutil", "shutil.rmtree('x')", "@activity"),
        ("", "open('x')", "@activity"),
        ("import io", "io.open('x')", "@activity"),
        ("", "input()", "ctx.wait_for_event(...)"),
        ("", "hash(order)", "hashlib"),
        ("", "hash('order')", "hashlib"),
        ("", "id(order)", "key of your own"),
        ("from pathlib import Path", "Path('x').read_text()", "@activity"),
        ("from pathlib import Path", "(Path('x') / 'y').write_bytes(b'')", "@activity"),
        ("from pathlib import Path", "Path('x').parent.joinpath('y').exists()", "@activity"),
        ("import pathlib", "pathlib.Path.home()", "@activity"),
        ("import asyncio", "asyncio.sleep(1)", "ctx.sleep(...)"),
        ("import asyncio", "asyncio.gather(*items)", "ctx.when_all([...])"),
        ("import asyncio", "asyncio.wait(items)", "ctx.when_any([...])"),
        ("import asyncio", "asyncio.wait_for(order, 1)", "ctx.when_any([task, ctx.sleep(...)])"),
        ("import asyncio", "asyncio.timeout(1)", "ctx.when_any([task, ctx.sleep(...)])"),
        ("import asyncio", "asyncio.create_task(order)", "ctx.spawn(...)"),
        ("import asyncio", "asyncio.TaskGroup()", "ctx.spawn(...)"),
        ("import asyncio", "asyncio.Event()", "ctx.wait_for_event(...)"),
        ("import asyncio", "asyncio.Queue()", "ctx.wait_for_event(...)"),
        ("import asyncio", "asyncio.Lock()", "leave it out"),
        ("import asyncio", "asyncio.to_thread(order)", "@activity"),
        ("import asyncio", "asyncio.run(order)", "@activity"),
        ("import asyncio", "asyncio.get_running_loop()", "or do this in an @activity"),
        ("import anyio", "anyio.sleep(1)", "ctx.sleep(...)"),
        ("import anyio", "anyio.create_task_group()", "ctx.spawn(...)"),
        ("import anyio", "anyio.to_thread.run_sync(order)", "@activity"),
        ("import anyio", "anyio.move_on_after(1)", "ctx.when_any([task, ctx.sleep(...)])"),
        ("import socket", "socket.socket()", "@activity"),
        ("import socket", "socket.gethostname()", "@activity"),
        ("import urllib.request", "urllib.request.urlopen(order)", "@activity"),
        ("import http.client", "http.client.HTTPConnection(order)", "@activity"),
        ("import sqlite3", "sqlite3.connect(order)", "@activity"),
        ("import subprocess", "subprocess.run(order)", "@activity"),
        ("import threading", "threading.Thread(target=order)", "ctx.spawn(...)"),
        ("import threading", "threading.Lock()", "leave it out"),
        ("import threading", "threading.get_ident()", "@activity"),
        ("import concurrent.futures", "concurrent.futures.ThreadPoolExecutor()", "@activity"),
        ("import multiprocessing", "multiprocessing.Process()", "@activity"),
        ("import multiprocessing", "multiprocessing.Pool()", "@activity"),
    ],
)
def test_a_call_that_differs_in_replay_is_found_with_what_to_write_instead(
    in_body: Look, imports: str, call: str, advice: str
) -> None:
    [finding] = in_body(call, imports)
    assert advice in finding.advice
    assert (finding.line, finding.column, finding.function) == (4, 5, "wf")


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from time import time as t", "t()"),
        ("import time as clock", "clock.time()"),
        ("import datetime as dt", "dt.datetime.now()"),
        ("from datetime import datetime as moment", "moment.now()"),
        ("from datetime import datetime; now = datetime.now", "now()"),
        ("from random import choice", "choice(items)"),
        ("from random import random", "random()"),
        ("from uuid import uuid4 as new", "new()"),
        ("from os import listdir", "listdir()"),
        ("from os import path", "path.getsize(order)"),
        ("import os.path as p", "p.isfile(order)"),
        ("from asyncio import sleep", "sleep(1)"),
        ("from anyio import to_thread", "to_thread.run_sync(order)"),
        ("from concurrent.futures import ThreadPoolExecutor as Pool", "Pool()"),
        ("from urllib.request import urlopen", "urlopen(order)"),
        ("from pathlib import Path as P", "P('x').open()"),
        ("from datetime import datetime\nclass Moment(datetime): pass", "Moment.now()"),
        ("import time\nclass Tools: clock = time.time", "Tools.clock()"),
    ],
)
def test_a_name_is_followed_to_what_it_stands_for(in_body: Look, imports: str, call: str) -> None:
    assert len(in_body(call, imports)) == 1


@pytest.mark.parametrize(
    "body",
    [
        "import time\ntime.time()",
        "import time as t\nt.time()",
        "from time import time\ntime()",
        "import os.path\nos.path.exists(order)",
        "from datetime import datetime as dt\ndt.now()",
        "import requests\nrequests.get(order)",
        "from requests import post\npost(order)",
        "import boto3\nboto3.client('s3')",
        "from google.cloud import storage\nstorage.Client()",
        "if order:\n    import requests\nelse:\n    import requests\nrequests.get(order)",
        "try:\n    import requests\nexcept ImportError:\n    raise\nrequests.get(order)",
    ],
)
def test_an_import_within_the_body_is_followed_and_imports_nothing(in_body: Look, body: str) -> None:
    before = set(sys.modules)
    assert len(in_body(body)) == 1
    assert set(sys.modules) - before <= {"importlib.util"}


def test_a_variable_that_stands_for_a_function_is_followed(in_body: Look) -> None:
    assert calls(in_body("now = time.time\nnow()", "import time")) == ["now()"]


def test_a_name_that_the_file_imports_further_down_is_followed(look: Look) -> None:
    source = """
        @workflow
        def wf(ctx):
            return clock.time()
        import time as clock
    """
    assert calls(look(source)) == ["clock.time()"]


@pytest.mark.parametrize("body", ["from .clock import now\nnow()", "from . import clock\nclock.now()"])
def test_a_relative_import_within_the_body_is_followed(
    in_body: Look, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    for name in ("shop", "shop.clock"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["shop.clock"].now = time.time  # type: ignore[attr-defined]
    assert calls(in_body(body, __package__="shop")) == [body.splitlines()[1]]


def test_a_global_that_the_workflow_declares_is_looked_up_there(in_body: Look) -> None:
    assert calls(in_body("global clock\nclock.time()\nclock = order", "import time as clock")) == ["clock.time()"]


def test_a_name_from_the_function_around_it_is_followed(look: Look) -> None:
    source = """
        def make():
            import time
            @workflow
            def wf(ctx):
                return time.time()
        make()
    """
    assert calls(look(source)) == ["time.time()"]


def test_the_environment_is_found_wherever_it_is_touched(in_body: Look) -> None:
    body = "order = os.environ['HOME']\n'A' in os.environ\ndict(os.environ)\nenviron.get('A')"
    findings = in_body(body, "import os; from os import environ")
    assert [finding.line for finding in findings] == [4, 5, 6, 7]


def test_a_default_that_each_process_works_out_anew_is_found(look: Look) -> None:
    source = """
        import time, uuid
        @workflow
        def wf(ctx, at=time.time(), *, key=uuid.uuid4()): pass
    """
    assert calls(look(source)) == ["time.time()", "uuid.uuid4()"]


@pytest.mark.parametrize(
    "body",
    [
        "def inner():\n    return time.time()\ninner()",
        "async def inner():\n    return time.time()",
        "key = lambda item: time.time()",
        "sorted(items, key=lambda item: time.time())",
        "[time.time() for item in items]",
        "{item: time.time() for item in items}",
        "class Inner:\n    at = time.time()",
        "f'{time.time()}'",
        "with order:\n    try:\n        pass\n    finally:\n        time.time()",
        "match order:\n    case [_, *rest] if time.time():\n        pass",
        "yield from ctx.call_activity(order, time.time())",
        "while (at := time.time()) < order:\n    pass",
        "return ctx.when_all([ctx.call_activity(order, at=time.time())])",
    ],
)
def test_it_is_found_however_deep_it_stands(in_body: Look, body: str) -> None:
    assert calls(in_body(body, "import time")) == ["time.time()"]


def test_a_coroutine_workflow_is_looked_at_as_a_generator_is(look: Look) -> None:
    source = """
        import asyncio
        @workflow
        async def wf(ctx):
            await asyncio.sleep(5)
            async for item in {1, 2}:
                pass
    """
    assert calls(look(source)) == ["asyncio.sleep(...)", "for item in {1, 2}"]


def test_a_module_level_random_is_shared_by_all_instances_and_found(in_body: Look) -> None:
    assert calls(in_body("DICE.choice(items)\nDICE.random()", "import random\nDICE = random.Random(7)")) == [
        "DICE.choice(...)",
        "DICE.random()",
    ]


def test_a_path_is_known_by_its_variable_its_annotation_and_its_global(in_body: Look) -> None:
    body = """
        here = Path("x")
        here.read_text()
        there: Path = order
        there.read_text()
        (ROOT / "x").read_text()
    """
    findings = in_body(body, "from pathlib import Path; ROOT = Path('/')")
    assert [finding.line for finding in findings] == [5, 7, 8]


def test_a_place_is_named_by_file_line_and_column_in_characters(look: Look) -> None:
    source = """
        import time
        @workflow
        @workflow
        def wf(ctx):
            x = "äöü", time.time()
    """
    first, second = look(source)
    assert first == second, "both decorators saw the same function"
    assert (first.line, first.column) == (5, 16)
    assert Path(first.file).name.startswith("flows_")


def test_a_long_call_is_shown_short(in_body: Look) -> None:
    [finding] = in_body("time.sleep(\n    order.a_long_name + order.another_long_name,\n)", "import time")
    assert finding.call == "time.sleep(...)"


def test_a_workflow_below_functools_wraps_is_looked_at(look: Look) -> None:
    source = """
        import functools, time
        def logged(fn):
            @functools.wraps(fn)
            def wrapper(*args):
                return fn(*args)
            return wrapper
        @workflow
        @logged
        def wf(ctx):
            return time.time()
    """
    assert calls(look(source)) == ["time.time()"]


def test_a_method_is_looked_at(look: Look) -> None:
    source = """
        import time
        def stamp(c): time.time_ns()
        class Flows:
            @workflow
            def wf(self, ctx):
                stamp(ctx)
                return time.time()
    """
    assert calls(look(source)) == ["time.time_ns()", "time.time()"]


def test_a_bound_method_is_looked_at() -> None:
    class Flows:
        def wf(self, ctx: object) -> int:
            return hash(ctx)

    assert calls(inspect_workflow(Flows().wf)) == ["hash(...)"]


# -- Sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "for x in {'a', 'b'}: pass",
        "for x in set(items): pass",
        "for x in frozenset(items): pass",
        "for x in {i for i in items}: pass",
        "s = set(items)\nfor x in s: pass",
        "s: set[str] = items\nfor x in s: pass",
        "s = set()\ns |= order\nfor x in s: pass",
        "s = set()\nfor i in items: s = s | order\nfor x in s: pass",
        "for x in set(items) | set(order): pass",
        "for x in order - set(items): pass",
        "for x in set(items).union(order): pass",
        "for x in set(items).copy() & order: pass",
        "for x in order.keys() & items.keys(): pass",
        "for x in (set(items) if order else {'a'}): pass",
        "for x in order.seen or {'a'}: pass",
        "for x in (s := set(items)): pass",
        "for x in COLOURS: pass",
        "for x in COLOURS - {'red'}: pass",
        "[x for x in set(items)]",
        "[x for i in items for x in {i}]",
        "{x: 1 for x in set(items)}",
        "sum([x for x in items], *set(items))",
        "list(set(items))",
        "tuple({'a', 'b'})",
        "list(s := set(items))",
        "enumerate(set(items))",
        "next(iter(set(items)))",
        "dict.fromkeys(set(items))",
        "itertools.chain(items, set(items))",
        "', '.join(set(items))",
        "[*set(items)]",
        "first, *rest = set(items)",
        "yield from set(items)",
        "set(items).pop()",
        "s = set(items)\nwhile s: s.pop()",
        "ctx.when_all([ctx.call_activity(order, x) for x in set(items)])",
        "all(ctx.call_activity(order, x) for x in set(items))",
        "{ctx.call_activity(order, x) for x in set(items)}",
    ],
)
def test_the_order_of_a_set_is_found(in_body: Look, body: str) -> None:
    [finding] = in_body(body, "import itertools; COLOURS = frozenset({'red', 'green'})")
    assert "sorted(...)" in finding.advice


def test_a_parameter_declared_a_set_is_one(look: Look) -> None:
    source = """
        from collections.abc import Set
        from typing import AbstractSet
        @workflow
        def wf(ctx, a: set[str], b: frozenset[str] | None, c: Set[str], d: AbstractSet[str], e: list[str]):
            for x in a: pass
            for x in b: pass
            for x in c: pass
            for x in d: pass
            for x in e: pass
    """
    assert [finding.call[-1] for finding in look(source)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "body",
    [
        "for x in sorted({'a', 'b'}): pass",
        "for x in sorted(list(set(items))): pass",
        "for x in sorted(i.name for i in set(items)): pass",
        "s = set(items)\n'a' in s\nlen(s)\nmin(s)\nmax(s)\nany(s)\nall(s)\nsum(s)",
        "any(x > 1 for x in set(items))",
        "{x.name for x in set(items)}",
        "set(x.name for x in set(items))",
        "s = set(items)\ns.add(order)\ns.discard(order)\ns.update(set(order))",
        "s = set(items)\ns = sorted(s)\nfor x in s: pass",
        "s = set(items)\ndef inner(s):\n    for x in s: pass",
        "s = set(items)\n[s for s in items for x in s]",
        "for x in items or set(): pass",
        "for x in {'a': 1}: pass",
        "for x in order | items: pass",
        "for x in 5 - order: pass",
        "{}.pop('x')",
        "from lib import OrderedSet\nfor x in OrderedSet(items): pass",
    ],
)
def test_what_does_not_depend_on_the_order_of_a_set_is_left_alone(in_body: Look, body: str) -> None:
    assert in_body(body) == []


# -- What is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import random", "random.Random(7).random()"),
        ("import random", "dice = random.Random(order)\ndice.choice(items)"),
        ("import uuid", "uuid.uuid5(uuid.NAMESPACE_DNS, 'x')"),
        ("import uuid", "uuid.UUID(order)"),
        ("import time", "time.gmtime(0), time.localtime(order), time.strftime('%Y', order)"),
        ("from datetime import datetime, timedelta", "datetime.fromisoformat(order) + timedelta(days=1)"),
        ("from datetime import datetime", "datetime(2026, 1, 1).replace(day=2)"),
        ("import os", "os.path.join('a', 'b'), os.sep, os.fspath(order)"),
        ("from pathlib import PurePath", "PurePath('x') / 'y'"),
        ("from pathlib import Path", "Path('x').name, Path('x').with_suffix('.y')"),
        ("import urllib.parse", "urllib.parse.quote(order)"),
        ("import asyncio", "raise asyncio.TimeoutError()"),
        ("import asyncio", "asyncio.iscoroutine(order)"),
        ("import subprocess", "raise subprocess.CalledProcessError(1, 'x')"),
        ("import http", "http.HTTPStatus(200)"),
        ("import socket", "socket.htons(1), socket.AF_INET"),
        ("import secrets", "order is secrets.token_hex"),
        ("", "print(order)"),
        ("", "hash(1)"),
        ("", "ctx.now(), ctx.uuid4(), ctx.random().random(), ctx.sleep(1)"),
        ("", "order.time(), order.random.random(), order.environ['A'], order.open()"),
    ],
)
def test_what_answers_the_same_in_replay_is_left_alone(in_body: Look, imports: str, call: str) -> None:
    assert in_body(call, imports) == []


def test_a_parameter_named_time_is_not_a_finding(look: Look) -> None:
    source = """
        import time
        @workflow
        def wf(ctx, time, *random, **uuid):
            time.time(), random.random(), uuid.uuid4()
    """
    assert look(source) == []


@pytest.mark.parametrize(
    "bound",
    [
        "time = order",
        "time: object = order",
        "time, x = order",
        "for time in items: pass",
        "with order as time: pass",
        "(time := order)",
        "def time(): pass",
        "class time: pass",
        "import order as time",
        "from order import time",
        "try:\n    pass\nexcept ValueError as time:\n    pass",
        "match order:\n    case [time]:\n        pass",
        "match order:\n    case [*time]:\n        pass",
        "match order:\n    case {**time}:\n        pass",
        "[time := item for item in items]",
        "time += 1",
    ],
)
def test_a_local_variable_named_time_is_not_a_finding(in_body: Look, bound: str) -> None:
    assert in_body(f"{bound}\ntime.time()", "import time") == []


def test_a_variable_of_a_comprehension_hides_a_module_inside_it_only(in_body: Look) -> None:
    findings = in_body("[time.time() for time in items]\ntime.time()", "import time")
    assert [finding.line for finding in findings] == [5]


def test_a_name_with_more_than_one_meaning_is_left_alone(in_body: Look) -> None:
    assert in_body("if order:\n    import time\nelse:\n    time = order\ntime.time()") == []


def test_a_module_of_the_users_named_random_is_not_a_finding(
    in_body: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("class Random: pass\ndef choice(items): return items[0]\n")
    (tmp_path / "requests.py").write_text("def get(key): return key\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("random", "requests"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    body = "random.choice(items), pick(items), random.Random(), requests.get(order)"
    assert in_body(body, "import random, requests\nfrom random import choice as pick") == []
    monkeypatch.delitem(sys.modules, "requests")
    assert in_body("import requests\nrequests.get(order)") == []
    assert "requests" not in sys.modules


def test_a_module_object_that_only_bears_the_name_is_not_a_finding(in_body: Look) -> None:
    fake = types.ModuleType("time")
    vars(fake)["time"] = lambda: 7
    assert in_body("time.time()", time=fake) == []


def test_a_function_of_the_file_with_the_name_of_a_builtin_is_not_a_finding(look: Look) -> None:
    source = """
        @workflow
        def wf(ctx):
            open("account"), input("key"), id(ctx)
        def open(name): return name
        input = id = open
    """
    assert look(source) == []


def test_a_variable_around_the_workflow_that_has_no_value_yet_is_left_alone(look: Look) -> None:
    source = """
        import time
        def make():
            @workflow
            def wf(ctx):
                return time.time()
            time = None
        make()
    """
    assert look(source) == []


def test_a_default_inside_a_function_is_left_alone_for_its_names_are_out_of_reach(look: Look) -> None:
    source = """
        import time
        def make(time):
            @workflow
            def wf(ctx, at=time.time()):
                return at
        class Clock:
            def time(self): return 7
        make(Clock())
    """
    assert look(source) == []


@pytest.mark.parametrize(
    "body",
    [
        "yield from ctx.side_effect(lambda: uuid.uuid4())",
        "yield from ctx.side_effect(uuid.uuid4)",
        "yield from ctx.side_effect(lambda: [uuid.uuid4() for _ in range(3)])",
        "def make():\n    return uuid.uuid4()\nyield from ctx.side_effect(make)",
    ],
)
def test_what_a_side_effect_records_is_left_alone(in_body: Look, body: str) -> None:
    assert in_body(body, "import uuid") == []


def test_a_function_that_is_recorded_once_and_called_once_is_found(in_body: Look) -> None:
    body = "def make():\n    return uuid.uuid4()\nctx.side_effect(make)\nmake()"
    assert calls(in_body(body, "import uuid")) == ["uuid.uuid4()"]


@pytest.mark.parametrize(
    "comment",
    [
        "# durableflow: allow",
        "# durableflow: allow - only for the log",
        "#durableflow:allow",
        "# noqa: DTZ005  # durableflow: allow, tested in test_flows.py",
    ],
)
def test_a_comment_on_the_line_silences_it(in_body: Look, comment: str) -> None:
    findings = in_body(f"time.time()  {comment}\ntime.time_ns()", "import time")
    assert calls(findings) == ["time.time_ns()"]


@pytest.mark.parametrize("comment", ["# durableflow: allowed", "# durableflow", "# allow", "# dapr: allow"])
def test_another_comment_silences_nothing(in_body: Look, comment: str) -> None:
    assert len(in_body(f"time.time()  {comment}", "import time")) == 1


def test_a_comment_at_the_end_of_a_call_over_several_lines_silences_it(in_body: Look) -> None:
    assert in_body("time.sleep(\n    order\n)  # durableflow: allow", "import time") == []


# -- Helpers ----------------------------------------------------------------------------------------------------------


def test_a_helper_that_gets_the_context_is_looked_at(look: Look) -> None:
    source = """
        import time
        exec("def unseen(ctx): time.time()")
        def above(order, context): time.time()
        @workflow
        def wf(ctx, order):
            above(order, ctx)
            unseen(ctx)
            yield from below(order, c=ctx)
        def below(order, *, c):
            time.time_ns()
            yield
    """
    assert [(finding.call, finding.function) for finding in look(source)] == [
        ("time.time()", "above"),
        ("time.time_ns()", "below"),
    ]


def test_a_helper_of_a_helper_is_looked_at_under_the_name_it_gives_the_context(look: Look) -> None:
    source = """
        import time
        def last(c): time.time()
        def middle(c): last(c); other(ctx)
        def other(c): time.time_ns()
        @workflow
        def wf(ctx): middle(ctx)
    """
    assert calls(look(source)) == ["time.time()"]


def test_a_branch_given_to_spawn_is_looked_at(look: Look) -> None:
    source = """
        import time
        def branch(c, order):
            yield c.sleep(order)
            time.time()
        @workflow
        def wf(ctx, order):
            task = ctx.spawn(branch(ctx, order))
    """
    assert calls(look(source)) == ["time.time()"]


def test_a_helper_without_the_context_is_left_alone(look: Look) -> None:
    source = """
        import time
        def helper(order): time.time()
        @workflow
        def wf(ctx, order): helper(order)
    """
    assert look(source) == []


def test_helpers_that_call_each_other_in_a_circle_are_looked_at_once(look: Look) -> None:
    source = """
        import time
        def one(ctx): two(ctx)
        def two(ctx): one(ctx); time.time()
        @workflow
        def wf(ctx): one(ctx); two(ctx); wf(ctx)
    """
    assert calls(look(source)) == ["time.time()"]


def test_helpers_are_followed_so_deep_and_no_deeper(look: Look) -> None:
    deep = determinism.HELPER_DEPTH_MAX + 3
    chain = "\n".join(f"def h{n}(ctx): time.time(); h{n + 1}(ctx)" for n in range(deep))
    source = f"import time\n{chain}\n@workflow\ndef wf(ctx): h0(ctx)\n"
    assert len(look(source)) == determinism.HELPER_DEPTH_MAX


def test_a_helper_of_another_module_is_left_alone(look: Look) -> None:
    assert look("@workflow\ndef wf(ctx): helper(ctx)", helper=lambda ctx: None) == []
    assert look("@workflow\ndef wf(ctx): helper(ctx)", helper=calls) == []


def test_an_activity_is_not_looked_into(look: Look) -> None:
    class Activity:
        def __init__(self, fn: Callable[..., object]) -> None:
            functools.update_wrapper(self, fn)

    source = """
        import time
        @activity
        def above(ctx): time.time()
        @workflow
        def wf(ctx):
            above(ctx)
            below(ctx)
            ctx.call_activity(above, ctx)
        @activity
        def below(ctx): time.time()
    """
    assert look(source, activity=Activity) == []


# -- Never in the way -------------------------------------------------------------------------------------------------


def test_what_has_no_source_has_no_findings() -> None:
    namespace: dict[str, Callable[..., object]] = {}
    exec("import time\ndef wf(ctx): return time.time()", namespace)
    assert inspect_workflow(namespace["wf"]) == []
    assert inspect_workflow(lambda ctx: [hash(ctx)]) == []
    assert inspect_workflow(len) == []
    assert inspect_workflow(functools.partial(print)) == []
    assert inspect_workflow(object()) == []  # type: ignore[arg-type]


def test_a_source_that_is_no_longer_that_of_the_function_has_no_findings(tmp_path: Path) -> None:
    path = tmp_path / "flows.py"
    for text in ("this is not Python", "x = 1\n" * 9, "\0", "def other(): pass", "def wf(ctx): \xff", "(" * 9999):
        path.write_text(text, encoding="latin-1")
        linecache.checkcache(str(path))
        namespace: dict[str, Callable[..., object]] = {}
        exec(compile("def wf(ctx): return hash(ctx)", str(path), "exec"), namespace)
        assert inspect_workflow(namespace["wf"]) == []


def test_a_source_too_deep_to_walk_has_no_findings(tmp_path: Path) -> None:
    deep = workflow_of(tmp_path / "flows.py", f"def wf(ctx): return {'-' * 900}hash(ctx)")
    with pytest.raises(RecursionError):
        determinism._inspect(deep)
    assert inspect_workflow(deep) == []


def test_a_wrapper_that_wraps_itself_is_survived() -> None:
    def wf(ctx: object) -> None: ...

    wf.__wrapped__ = wf  # type: ignore[attr-defined]
    assert inspect_workflow(wf) == []


def test_objects_of_the_user_are_not_asked_anything(in_body: Look) -> None:
    class Touchy:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            raise AssertionError(other)

        __hash__ = None  # type: ignore[assignment]

        @property
        def client(self) -> object:
            raise AssertionError

    lazy = types.ModuleType("lazy")
    vars(lazy)["__getattr__"] = Touchy().__getattr__
    body = (
        "x = THING\nx = THING\nx.a.b(), THING.client.get(order), THING['x'], lazy.thing.get(), THING | x\nhash(order)"
    )
    assert calls(in_body(body, THING=Touchy(), lazy=lazy)) == ["hash(...)"], "the look went through"


def test_a_file_is_parsed_once_for_all_its_workflows(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    import ast

    parsed = list[str]()
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda source: parsed.append(source) or parse(source))
    look("\n".join(f"@workflow\ndef wf{n}(ctx): hash(ctx)" for n in range(20)))
    assert len(parsed) == 1


def test_a_file_that_has_changed_is_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "flows.py"
    found = list[str]()
    for body in ("hash(ctx)", "id(ctx) or None"):
        path.write_text(f"def wf(ctx): {body}")
        namespace: dict[str, Callable[..., object]] = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        found += calls(inspect_workflow(namespace["wf"]))
    assert found == ["hash(...)", "id(...)"]


def test_few_parsed_files_are_kept(look: Look) -> None:
    for _ in range(determinism.FILES_KEPT_MAX + 2):
        look("@workflow\ndef wf(ctx): pass")
    assert len(determinism._sources) == determinism.FILES_KEPT_MAX


def test_odd_escapes_in_the_source_are_not_warned_of_twice(in_body: Look) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # compile() is told to be silent here; what the look does itself must be silent without that
        warnings.filterwarnings("error", category=DeprecationWarning, module="ast")
        assert calls(in_body(r"hash('\d')")) == ["hash(...)"]


@pytest.mark.slow  # starts an interpreter
def test_importing_it_brings_no_parser() -> None:
    room = Path(determinism.__file__).parent
    program = f"import sys, types, typing; sys.path.append({str(room)!r}); before = set(sys.modules)\n"
    program += "import determinism; print(*sorted(set(sys.modules) - before))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["__future__", "determinism"]


# -- Warnings ---------------------------------------------------------------------------------------------------------


def workflow_of(path: Path, source: str) -> Callable[..., object]:
    path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
    namespace: dict[str, Callable[..., object]] = {"__name__": "flows"}  # type: ignore[dict-item]
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace["wf"]


TWO = """
    import time
    def stamp(ctx): return time.time_ns()
    def wf(ctx):
        stamp(ctx)
        return time.time()
"""


def test_a_warning_stands_where_the_finding_is_and_names_what_where_and_instead(tmp_path: Path) -> None:
    path = tmp_path / "flows.py"
    fn = workflow_of(path, TWO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about(fn)
    assert [(each.category, each.filename, each.lineno, str(each.message)) for each in caught] == [
        (
            DeterminismWarning,
            str(path),
            2,
            "time.time_ns() in 'stamp', called by workflow 'wf', may differ in replay: use ctx.now()",
        ),
        (DeterminismWarning, str(path), 5, "time.time() in workflow 'wf' may differ in replay: use ctx.now()"),
    ]


def test_a_warning_is_shown_once_however_often_it_is_decorated(tmp_path: Path) -> None:
    fn = workflow_of(tmp_path / "flows.py", TWO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warn_about(fn)
        warn_about(fn)
    assert len(caught) == 2


def test_where_warnings_are_errors_the_decorator_raises(tmp_path: Path) -> None:
    fn = workflow_of(tmp_path / "flows.py", TWO)
    with pytest.raises(DeterminismWarning, match="time_ns"):
        warn_about(fn)


def test_a_warning_can_be_ignored_by_its_class_or_its_module(tmp_path: Path) -> None:
    fn = workflow_of(tmp_path / "flows.py", TWO)
    for ignored in ({"category": DeterminismWarning}, {"module": "flows"}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", **ignored)
            warn_about(fn)


def test_a_workflow_without_findings_is_not_warned_about(tmp_path: Path) -> None:
    warn_about(workflow_of(tmp_path / "flows.py", "def wf(ctx): return ctx.now()"))
    warn_about(len)

"""Each name in the tables is found where it is called, with what to write instead; its neighbours are left alone."""

from collections.abc import Callable
from typing import Any

import pytest

Look = Callable[..., Any]


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


def test_the_environment_is_found_wherever_it_is_touched(in_body: Look) -> None:
    body = "order = os.environ['HOME']\n'A' in os.environ\ndict(os.environ)\nenviron.get('A')"
    findings = in_body(body, "import os; from os import environ")
    assert [finding.line for finding in findings] == [4, 5, 6, 7]


def test_a_module_level_random_is_shared_by_all_instances_and_found(in_body: Look) -> None:
    assert in_body("DICE.choice(items)\nDICE.random()", "import random\nDICE = random.Random(7)").calls == [
        "DICE.choice(...)",
        "DICE.random()",
    ]


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

"""A name is judged by what it stands for; what only looks like a library is none."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Look = Callable[..., Any]


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
    assert in_body("now = time.time\nnow()", "import time").calls == ["now()"]


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
    assert in_body(body, THING=Touchy(), lazy=lazy).calls == ["hash(...)"], "the look went through"

"""What is watched, and what to write instead.

In: the full name of what is called. Out: advice, or what the call makes. Nothing else knows any library by name. A
dotted name stands for itself and all below it, and the longest entry that fits decides.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Final

from durableflow.authoring.determinism.nodes import arguments


def _words(text: str, before: str = "") -> list[str]:
    return [before + word for word in text.split()]


_ACTIVITY: Final = "do this in an @activity"

_INSTEAD: Final[dict[str, str]] = {
    "use ctx.now()": """
        time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns
        time.process_time time.process_time_ns time.thread_time time.thread_time_ns time.clock_gettime
        time.localtime time.gmtime time.ctime time.asctime time.strftime
        datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today
        anyio.current_time trio.current_time
        django.utils.timezone.now arrow.now arrow.utcnow pendulum.now pendulum.today pandas.Timestamp.now
    """,
    "use ctx.random()": "random numpy.random",
    "use ctx.random(), or an @activity for real secrets": "secrets os.urandom os.getrandom",
    "use ctx.uuid4()": "uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 uuid.uuid8 uuid.getnode",
    "use ctx.sleep(...)": """
        time.sleep asyncio.sleep anyio.sleep anyio.sleep_until trio.sleep trio.sleep_until trio.sleep_forever
    """,
    "use ctx.when_all([...])": "asyncio.gather",
    "use ctx.when_any([...])": """
        asyncio.wait asyncio.as_completed concurrent.futures.wait concurrent.futures.as_completed
    """,
    "use ctx.when_any([task, ctx.sleep(...)])": """
        asyncio.wait_for asyncio.timeout asyncio.timeout_at anyio.fail_after anyio.move_on_after trio.fail_after
        trio.move_on_after trio.fail_at trio.move_on_at
    """,
    "use ctx.spawn(...)": """
        asyncio.create_task asyncio.ensure_future asyncio.TaskGroup anyio.create_task_group trio.open_nursery
        threading.Thread
    """,
    f"use ctx.sleep, ctx.spawn, ctx.when_all ..., or {_ACTIVITY}": "asyncio anyio trio",
    "use ctx.wait_for_event(...)": """
        asyncio.Event asyncio.Queue asyncio.PriorityQueue asyncio.LifoQueue asyncio.Future asyncio.Condition
        anyio.Event anyio.Condition anyio.create_memory_object_stream trio.Event trio.Condition
        trio.open_memory_channel threading.Event threading.Condition
    """,
    "leave it out: a turn is never interrupted": """
        asyncio.Lock asyncio.Semaphore asyncio.BoundedSemaphore anyio.Lock anyio.Semaphore anyio.CapacityLimiter
        trio.Lock trio.Semaphore trio.CapacityLimiter threading.Lock threading.RLock threading.Semaphore
        threading.BoundedSemaphore
    """,
    f"use ctx.sleep(...), or {_ACTIVITY}": "threading.Timer",
    "hand it over as input, or read it in an @activity": """
        os.environ os.environb os.getenv os.getenvb os.getcwd os.getpid os.getppid os.getlogin os.cpu_count
        os.uname platform.node platform.uname getpass.getuser
    """,
    "hand it over as input, or wait for it with ctx.wait_for_event(...)": "builtins.input getpass.getpass",
    "use hashlib: hash() differs from process to process": "builtins.hash",
    "use a key of your own: id() is an address": "builtins.id",
    # The world: files, processes and threads, the network, databases.
    _ACTIVITY: """
        builtins.open io.open codecs.open os.open os.listdir os.scandir os.walk os.fwalk os.stat os.lstat
        os.access os.mkdir os.makedirs os.remove os.unlink os.rename os.replace os.rmdir os.removedirs os.chmod
        os.symlink os.link os.readlink os.truncate os.utime os.path.exists os.path.lexists os.path.isfile
        os.path.isdir os.path.islink os.path.getsize os.path.getmtime os.path.getctime os.path.getatime
        glob.glob glob.iglob shutil tempfile fileinput mmap

        subprocess multiprocessing concurrent.futures threading _thread os.system os.popen os.fork os.kill os.waitpid
        os.posix_spawn asyncio.to_thread asyncio.run asyncio.create_subprocess_exec asyncio.create_subprocess_shell
        asyncio.open_connection asyncio.start_server anyio.to_thread anyio.to_process anyio.to_interpreter anyio.run
        anyio.from_thread anyio.run_process anyio.open_process anyio.open_file anyio.connect_tcp anyio.Path
        trio.to_thread trio.run trio.from_thread trio.run_process trio.open_file trio.open_tcp_stream trio.Path

        socket ssl select selectors socketserver http.client http.server urllib.request ftplib smtplib imaplib
        poplib xmlrpc requests httpx httpx2 httpcore aiohttp urllib3 pycurl websockets websocket grpc paramiko
        asyncssh boto3 botocore aiobotocore aioboto3 google.cloud azure.storage azure.servicebus stripe openai
        anthropic slack_sdk twilio kubernetes kubernetes_asyncio docker

        sqlite3 aiosqlite asyncpg psycopg psycopg2 pymysql aiomysql MySQLdb oracledb pymongo motor redis
        elasticsearch confluent_kafka aiokafka pika aio_pika nats
    """,
}
_OF_PATHS: Final = """
    open read_text read_bytes write_text write_bytes exists is_file is_dir stat lstat iterdir glob rglob walk mkdir
    touch unlink rename replace rmdir cwd home symlink_to hardlink_to chmod copy move
"""
_ALLOWED: Final = """
    asyncio.iscoroutine asyncio.iscoroutinefunction asyncio.isfuture socket.htons socket.htonl socket.ntohs socket.ntohl
    socket.inet_aton socket.inet_ntoa socket.inet_pton socket.inet_ntop httpx.URL httpx.Headers httpx.QueryParams
    httpx.Timeout httpx.Limits aiohttp.ClientTimeout urllib3.util.parse_url urllib3.util.Retry subprocess.list2cmdline
    numpy.random.SeedSequence
"""
"""What lives among all these and is only arithmetic or a description."""

SORTED: Final = "use sorted(...): the order of a set differs from process to process"

ADVICE: Final[dict[str, str | None]] = {
    **{name: advice for advice, names in _INSTEAD.items() for name in _words(names)},
    **dict.fromkeys(_words(_OF_PATHS, "pathlib.Path."), _ACTIVITY),
    "builtins.set.pop": SORTED,
    **dict.fromkeys(_words(_ALLOWED)),
}
"""What to write instead; None: it may stay."""

REFERENCES: Final = frozenset({"os.environ", "os.environb"})
"""These are findings wherever they stand, the others only where they are called."""

ORDERING: Final = frozenset(
    [
        *_words("list tuple iter enumerate zip map filter dict.fromkeys", "builtins."),
        *_words("collections.deque collections.OrderedDict.fromkeys functools.reduce"),
        *_words("accumulate batched chain chain.from_iterable combinations compress cycle dropwhile", "itertools."),
        *_words("filterfalse groupby islice pairwise permutations product starmap takewhile zip_longest", "itertools."),
    ]
)
"""What turns a set into an order ..."""

ORDERLESS: Final = frozenset(
    [
        *_words("sorted len any all min max sum set frozenset", "builtins."),
        *_words("union intersection difference symmetric_difference", "builtins.set."),
        *_words("update intersection_update difference_update issubset issuperset isdisjoint", "builtins.set."),
        *_words("collections.Counter math.fsum"),
    ]
)
"""... and what asks a set, or an order made of it, for nothing that depends on the order."""

SET: Final = "builtins.set"
PATH: Final = "pathlib.Path"

MAKES: Final[dict[str, str]] = {
    SET: SET,
    "builtins.frozenset": SET,
    **dict.fromkeys(_words("copy union intersection difference symmetric_difference", f"{SET}."), SET),
    PATH: PATH,
    **dict.fromkeys(
        _words("absolute expanduser joinpath relative_to resolve with_name with_stem with_suffix cwd home", f"{PATH}."),
        PATH,
    ),
}
"""What a call of this name gives."""

ATTRIBUTES: Final = {f"{PATH}.parent": PATH}
"""What an attribute of this name is."""

ANNOTATIONS: Final[dict[str, str]] = {
    SET: SET,
    "builtins.frozenset": SET,
    **dict.fromkeys(_words("Set FrozenSet AbstractSet MutableSet", "typing."), SET),
    **dict.fromkeys(_words("Set MutableSet", "collections.abc."), SET),
    PATH: PATH,
}
"""What a declared type promises."""


def _has_no_argument(call: ast.Call) -> bool:
    return all(isinstance(value, ast.Constant) and value.value is None for value in arguments(call))


def _hashes_more_than_numbers(call: ast.Call) -> bool:
    return not all(isinstance(value, ast.Constant) and isinstance(value.value, int | float) for value in call.args)


_ONLY_IF: Final[dict[str, Callable[[ast.Call], bool]]] = {
    **dict.fromkeys(_words("localtime gmtime ctime asctime", "time."), _has_no_argument),
    **dict.fromkeys(_words("random.Random numpy.random.default_rng numpy.random.RandomState"), _has_no_argument),
    "time.strftime": lambda call: len(call.args) == 1,
    "builtins.hash": _hashes_more_than_numbers,
}
"""Calls that are findings with some arguments only."""

KNOWN_NAMES: Final = (*ADVICE, *_ONLY_IF, *ORDERING, *ORDERLESS, *MAKES, *ANNOTATIONS)


def advice_for(name: str, call: ast.Call) -> str | None:
    """What to write instead of calling this; None if it may stay."""
    if name in _ONLY_IF and not _ONLY_IF[name](call):
        return None
    return next((ADVICE[prefix] for prefix in prefixes(name) if prefix in ADVICE), None)


def prefixes(dotted: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while dotted:
        yield dotted
        dotted = dotted.rpartition(".")[0]

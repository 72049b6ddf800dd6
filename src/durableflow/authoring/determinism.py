"""A static look at a workflow's source, for what would answer differently in replay.

In: a workflow function, when it is decorated. Out: findings, or one warning for each. Never in: a call of the
user's code, or an import of a module that nobody has imported.

A name means what it means where the workflow stands: it is looked up in the workflow's own scopes, its closure and
its globals, and the *object* found there is judged, not its spelling. What cannot be resolved is left alone: a missed
finding is met again in replay, a false one teaches people to ignore us.

This is the one module of its room that reads a file: the user's source, through `linecache`, as tracebacks do. `ast`
and its company are imported only when there is something to look at.

It is long for one thing: a table of names, and all that it takes to know what a name stands for. In order: what is
judged, what an expression can be, names of objects, source files, scopes, the look itself.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    import ast

HELPER_DEPTH_MAX: Final = 8
"""How many calls deep helpers are followed."""

FILES_KEPT_MAX: Final = 4
"""How many parsed files are remembered; decorators come file by file."""


class Finding(NamedTuple):
    """One place in a workflow whose answer may differ in replay."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    call: str
    """What was written, shortened: `time.time()`."""
    advice: str
    """What to write instead: `use ctx.now()`."""
    function: str
    """The function that contains it: the workflow, or a helper that it hands its context to."""


def inspect_workflow(fn: Callable[..., object]) -> list[Finding]:
    """Look for what a workflow may not do, without calling it.

    Returns:
        The findings by file and line; none if there is no source to look at (an interactive prompt, a lambda, a
        builtin, a callable object).
    """
    try:
        return _inspect(fn)
    except Exception:
        return []


def warn_about(fn: Callable[..., object]) -> None:
    """Issue one `DeterminismWarning` for each finding, at the place where the finding is.

    Raises:
        DeterminismWarning: warnings are errors here (`python -W error`).
    """
    findings = inspect_workflow(fn)
    if not findings:
        return
    import warnings

    from durableflow.errors import DeterminismWarning

    name, module, registry = _names_for_warning(fn)
    for finding in findings:
        warnings.warn_explicit(
            _message(finding, name), DeterminismWarning, finding.file, finding.line, module=module, registry=registry
        )


def _message(finding: Finding, workflow: str) -> str:
    where = f"workflow {workflow!r}"
    if finding.function != workflow:
        where = f"{finding.function!r}, called by {where},"
    return f"{finding.call} in {where} may differ in replay: {finding.advice}"


def _names_for_warning(fn: Callable[..., object]) -> tuple[str, str, dict[str | tuple[str, type[Warning], int], int]]:
    """The workflow's name, its module, and the registry by which Python shows a warning once."""
    plain = _plain_function(fn)
    assert plain is not None, "a finding needs a function"
    return plain.__name__, plain.__module__, plain.__globals__.setdefault("__warningregistry__", {})


# -- What is judged ---------------------------------------------------------------------------------------------------
#
# A dotted name stands for itself and all below it; the longest entry that fits decides. `None` allows.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ACTIVITY: Final = "do this in an @activity"
_NOW: Final = "use ctx.now()"
_RANDOM: Final = "use ctx.random()"
_SLEEP: Final = "use ctx.sleep(...)"
_SPAWN: Final = "use ctx.spawn(...)"
_ALL: Final = "use ctx.when_all([...])"
_ANY: Final = "use ctx.when_any([...])"
_TIMEOUT: Final = "use ctx.when_any([task, ctx.sleep(...)])"
_EVENT: Final = "use ctx.wait_for_event(...)"
_LOCK: Final = "leave it out: a turn is never interrupted"
_SORTED: Final = "use sorted(...): the order of a set differs from process to process"

_GROUPS: Final[tuple[tuple[str | None, str], ...]] = (
    (
        _NOW,
        """
        time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns
        time.process_time time.process_time_ns time.thread_time time.thread_time_ns time.clock_gettime
        time.localtime time.gmtime time.ctime time.asctime time.strftime
        datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today
        anyio.current_time trio.current_time
        django.utils.timezone.now arrow.now arrow.utcnow pendulum.now pendulum.today pandas.Timestamp.now
        """,
    ),
    (_RANDOM, "random numpy.random"),
    (
        "use ctx.random(), or an @activity for real secrets",
        "secrets os.urandom os.getrandom",
    ),
    ("use ctx.uuid4()", "uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 uuid.uuid8 uuid.getnode"),
    (_SLEEP, "time.sleep asyncio.sleep anyio.sleep anyio.sleep_until trio.sleep trio.sleep_until trio.sleep_forever"),
    (_ALL, "asyncio.gather"),
    (_ANY, "asyncio.wait asyncio.as_completed concurrent.futures.wait concurrent.futures.as_completed"),
    (
        _TIMEOUT,
        """
        asyncio.wait_for asyncio.timeout asyncio.timeout_at anyio.fail_after anyio.move_on_after trio.fail_after
        trio.move_on_after trio.fail_at trio.move_on_at
        """,
    ),
    (
        _SPAWN,
        """
        asyncio.create_task asyncio.ensure_future asyncio.TaskGroup anyio.create_task_group trio.open_nursery
        threading.Thread
        """,
    ),
    ("use ctx.sleep, ctx.spawn, ctx.when_all ..., or " + _ACTIVITY, "asyncio anyio trio"),
    (
        _EVENT,
        """
        asyncio.Event asyncio.Queue asyncio.PriorityQueue asyncio.LifoQueue asyncio.Future asyncio.Condition
        anyio.Event anyio.Condition anyio.create_memory_object_stream trio.Event trio.Condition
        trio.open_memory_channel threading.Event threading.Condition
        """,
    ),
    (
        _LOCK,
        """
        asyncio.Lock asyncio.Semaphore asyncio.BoundedSemaphore anyio.Lock anyio.Semaphore anyio.CapacityLimiter
        trio.Lock trio.Semaphore trio.CapacityLimiter threading.Lock threading.RLock threading.Semaphore
        threading.BoundedSemaphore
        """,
    ),
    ("use ctx.sleep(...), or " + _ACTIVITY, "threading.Timer"),
    (
        "hand it over as input, or read it in an @activity",
        """
        os.environ os.environb os.getenv os.getenvb os.getcwd os.getpid os.getppid os.getlogin os.cpu_count
        os.uname platform.node platform.uname getpass.getuser
        """,
    ),
    ("hand it over as input, or wait for it with ctx.wait_for_event(...)", "builtins.input getpass.getpass"),
    ("use hashlib: hash() differs from process to process", "builtins.hash"),
    ("use a key of your own: id() is an address", "builtins.id"),
    # The world: files ...
    (
        _ACTIVITY,
        """
        builtins.open io.open codecs.open os.open os.listdir os.scandir os.walk os.fwalk os.stat os.lstat
        os.access os.mkdir os.makedirs os.remove os.unlink os.rename os.replace os.rmdir os.removedirs os.chmod
        os.symlink os.link os.readlink os.truncate os.utime os.path.exists os.path.lexists os.path.isfile
        os.path.isdir os.path.islink os.path.getsize os.path.getmtime os.path.getctime os.path.getatime
        glob.glob glob.iglob shutil tempfile fileinput mmap
        """,
    ),
    (
        _ACTIVITY,
        """
        pathlib.Path.open pathlib.Path.read_text pathlib.Path.read_bytes pathlib.Path.write_text
        pathlib.Path.write_bytes pathlib.Path.exists pathlib.Path.is_file pathlib.Path.is_dir pathlib.Path.stat
        pathlib.Path.lstat pathlib.Path.iterdir pathlib.Path.glob pathlib.Path.rglob pathlib.Path.walk
        pathlib.Path.mkdir pathlib.Path.touch pathlib.Path.unlink pathlib.Path.rename pathlib.Path.replace
        pathlib.Path.rmdir pathlib.Path.cwd pathlib.Path.home pathlib.Path.symlink_to pathlib.Path.hardlink_to
        pathlib.Path.chmod pathlib.Path.copy pathlib.Path.move
        """,
    ),
    # ... processes and threads ...
    (
        _ACTIVITY,
        """
        subprocess multiprocessing concurrent.futures threading _thread os.system os.popen os.fork os.kill os.waitpid
        os.posix_spawn asyncio.to_thread asyncio.run asyncio.create_subprocess_exec asyncio.create_subprocess_shell
        asyncio.open_connection asyncio.start_server anyio.to_thread anyio.to_process anyio.to_interpreter anyio.run
        anyio.from_thread anyio.run_process anyio.open_process anyio.open_file anyio.connect_tcp anyio.Path
        trio.to_thread trio.run trio.from_thread trio.run_process trio.open_file trio.open_tcp_stream trio.Path
        """,
    ),
    # ... the network ...
    (
        _ACTIVITY,
        """
        socket ssl select selectors socketserver http.client http.server urllib.request ftplib smtplib imaplib
        poplib xmlrpc requests httpx httpx2 httpcore aiohttp urllib3 pycurl websockets websocket grpc paramiko
        asyncssh boto3 botocore aiobotocore aioboto3 google.cloud azure.storage azure.servicebus stripe openai
        anthropic slack_sdk twilio kubernetes kubernetes_asyncio docker
        """,
    ),
    # ... and databases.
    (
        _ACTIVITY,
        """
        sqlite3 aiosqlite asyncpg psycopg psycopg2 pymysql aiomysql MySQLdb oracledb pymongo motor redis
        elasticsearch confluent_kafka aiokafka pika aio_pika nats
        """,
    ),
    (_SORTED, "builtins.set.pop"),
    # What lives among these and is only arithmetic or a description.
    (
        None,
        """
        asyncio.iscoroutine asyncio.iscoroutinefunction asyncio.isfuture
        socket.htons socket.htonl socket.ntohs socket.ntohl socket.inet_aton socket.inet_ntoa socket.inet_pton
        socket.inet_ntop httpx.URL httpx.Headers httpx.QueryParams httpx.Timeout httpx.Limits
        aiohttp.ClientTimeout urllib3.util.parse_url urllib3.util.Retry subprocess.list2cmdline
        numpy.random.SeedSequence
        """,
    ),
)

_ADVICE: Final[dict[str, str | None]] = {name: advice for advice, names in _GROUPS for name in _words(names)}

_REFERENCES: Final = frozenset({"os.environ", "os.environb"})
"""These are findings wherever they stand, the others only where they are called."""

# What turns a set into an order ...
_ORDERING: Final = _words(
    """
    builtins.list builtins.tuple builtins.iter builtins.enumerate builtins.zip builtins.map builtins.filter
    builtins.dict.fromkeys collections.deque collections.OrderedDict.fromkeys functools.reduce itertools.accumulate
    itertools.batched itertools.chain itertools.chain.from_iterable itertools.combinations itertools.compress
    itertools.cycle itertools.dropwhile itertools.filterfalse itertools.groupby itertools.islice itertools.pairwise
    itertools.permutations itertools.product itertools.starmap itertools.takewhile itertools.zip_longest
    """
)
# ... and what asks a set, or an order made of it, for nothing that depends on the order.
_ORDERLESS: Final = _words(
    """
    builtins.sorted builtins.len builtins.any builtins.all builtins.min builtins.max builtins.sum builtins.set
    builtins.frozenset builtins.set.union builtins.set.update builtins.set.intersection builtins.set.difference
    builtins.set.symmetric_difference builtins.set.issubset builtins.set.issuperset builtins.set.isdisjoint
    builtins.set.difference_update builtins.set.intersection_update collections.Counter math.fsum
    """
)

_SET: Final = "builtins.set"
_PATH: Final = "pathlib.Path"

_MAKES: Final[dict[str, str]] = {
    "builtins.set": _SET,
    "builtins.frozenset": _SET,
    **{f"builtins.set.{verb}": _SET for verb in _words("copy union intersection difference symmetric_difference")},
    "pathlib.Path": _PATH,
    **{
        f"pathlib.Path.{verb}": _PATH
        for verb in _words("absolute expanduser joinpath relative_to resolve with_name with_stem with_suffix cwd home")
    },
    "pathlib.Path.parent": _PATH,
}
"""What a call, or an attribute, of this name is."""

_ANNOTATIONS: Final[dict[str, str]] = {
    "builtins.set": _SET,
    "builtins.frozenset": _SET,
    "typing.Set": _SET,
    "typing.FrozenSet": _SET,
    "typing.AbstractSet": _SET,
    "typing.MutableSet": _SET,
    "collections.abc.Set": _SET,
    "collections.abc.MutableSet": _SET,
    "pathlib.Path": _PATH,
}

_SAME_THING: Final[dict[str, str]] = {"builtins.frozenset": _SET}
"""Classes whose methods are listed under another name."""


def _has_no_argument(call: ast.Call) -> bool:
    import ast

    given: list[ast.expr] = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(isinstance(value, ast.Constant) and value.value is None for value in given)


def _hashes_more_than_a_number(call: ast.Call) -> bool:
    import ast

    return not all(isinstance(value, ast.Constant) and isinstance(value.value, int | float) for value in call.args)


_ONLY_IF: Final[dict[str, tuple[Callable[[ast.Call], bool], str]]] = {
    "random.Random": (_has_no_argument, _RANDOM),
    "numpy.random.default_rng": (_has_no_argument, _RANDOM),
    "numpy.random.RandomState": (_has_no_argument, _RANDOM),
    "time.localtime": (_has_no_argument, _NOW),
    "time.gmtime": (_has_no_argument, _NOW),
    "time.ctime": (_has_no_argument, _NOW),
    "time.asctime": (_has_no_argument, _NOW),
    "time.strftime": (lambda call: len(call.args) == 1, _NOW),
    "builtins.hash": (_hashes_more_than_a_number, _ADVICE["builtins.hash"] or ""),
}
"""Calls that are findings with some arguments only."""

_KNOWN_NAMES: Final = (*_ADVICE, *_ONLY_IF, *_ORDERING, *_ORDERLESS, *_MAKES, *_ANNOTATIONS)


def _advice_for(name: str, call: ast.Call) -> str | None:
    """What to write instead of calling this; None if it may stay."""
    if name in _ONLY_IF:
        applies, advice = _ONLY_IF[name]
        return advice if applies(call) else None
    return next((_ADVICE[prefix] for prefix in _prefixes(name) if prefix in _ADVICE), None)


def _prefixes(dotted: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while dotted:
        yield dotted
        dotted = dotted.rpartition(".")[0]


# -- What an expression can turn out to be ----------------------------------------------------------------------------
#
# Plain classes, because a named tuple costs 0.1 ms at import.


class _Object:
    """An object that exists now, found through the globals, the closure or a loaded module."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it


class _Named:
    """Something that is known by its full name only: a method, or what a module not yet loaded will hold."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Made:
    """An instance that the workflow makes itself, of a class that we watch."""

    __slots__ = ("of",)

    def __init__(self, of: str) -> None:
        self.of = of


class _Written:
    """A function that is written in this file, and does not exist yet."""

    __slots__ = ("node",)

    def __init__(self, node: _FunctionNode) -> None:
        self.node = node


class _Asking:
    """The answer is being worked out further up: `s = s | more`."""

    __slots__ = ()


_Value: TypeAlias = _Object | _Named | _Made | _Written | _Asking | None
_ASKING: Final = _Asking()

if TYPE_CHECKING:
    _FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
    _ScopeNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.Module
    _Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


def _same(one: _Value, other: _Value) -> bool:
    """Whether both are the same thing; objects are never compared by their own `==`."""
    if isinstance(one, _Object) and isinstance(other, _Object):
        return one.it is other.it
    if isinstance(one, _Named) and isinstance(other, _Named):
        return one.name == other.name
    return one is other


# -- Names of objects -------------------------------------------------------------------------------------------------


class _Index:
    """From an object to the name under which our tables know it; grows as watched modules get loaded."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[object, str]] = {}
        self._waiting: dict[str, list[str]] = {}
        for dotted in _KNOWN_NAMES:
            self._waiting.setdefault(dotted.partition(".")[0], []).append(dotted)

    def refresh(self) -> None:
        """Take in the watched modules that were loaded since the last time."""
        for top in [top for top in self._waiting if _is_loaded(top)]:
            for dotted in self._waiting.pop(top):
                self._add(dotted)

    def name_of(self, it: object) -> str | None:
        """The name in the tables; None for what they do not hold."""
        known = self._names.get(id(it))
        return known[1] if known is not None and known[0] is it else None

    def _add(self, dotted: str) -> None:
        """Walk down the modules and remember the first thing that is none: a function, a class."""
        it: object = None
        for prefix in reversed(list(_prefixes(dotted))):
            it = _inside(it, prefix)
            if it is None:
                return
            if not isinstance(it, ModuleType):
                self._names.setdefault(id(it), (it, prefix))
                return


def _is_loaded(top: str) -> bool:
    """Whether this module is there, and past its import."""
    module = sys.modules.get(top)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _inside(module: object, dotted: str) -> object:
    """What `dotted` is, given the module that it lies in; never runs a module's `__getattr__`."""
    found = sys.modules.get(dotted)
    if found is None and isinstance(module, ModuleType):
        found = vars(module).get(dotted.rpartition(".")[2])
    return found


_index: _Index | None = None


def _name_of(it: object) -> str | None:
    """The full name of a module, class or function, by the tables first and by its own word second."""
    assert _index is not None, "made before anything is looked at"
    name = _index.name_of(it)
    if name is not None:
        return name
    if isinstance(it, ModuleType):
        return it.__name__ if sys.modules.get(it.__name__) is it else None
    if isinstance(it, BuiltinFunctionType | MethodType) and not isinstance(it.__self__, ModuleType | None):
        owner = it.__self__ if isinstance(it.__self__, type) else type(it.__self__)
        return f"{_name_of(owner)}.{it.__name__}"
    if isinstance(it, FunctionType | BuiltinFunctionType | type):
        return f"{_public(str(it.__module__))}.{it.__qualname__}"
    return None


def _public(module: str) -> str:
    """`socket` for `_socket`: where the C half of a standard module is used from."""
    return module[1:] if module.startswith("_") and module[1:] in sys.stdlib_module_names else module


def _attribute(value: _Value, name: str) -> _Value:
    """What `value.name` is, without running any descriptor or `__getattr__`."""
    if isinstance(value, _Named):
        return _Named(f"{value.name}.{name}")
    if isinstance(value, _Made):
        return _made(f"{value.of}.{name}")
    if not isinstance(value, _Object):
        return None
    if isinstance(value.it, ModuleType):
        return _module_attribute(value.it, name)
    return _class_attribute(value.it, name)


def _made(dotted: str) -> _Value:
    """An attribute of an instance of a watched class; `.parent` of a path is a path."""
    return _Made(_PATH) if dotted == "pathlib.Path.parent" else _Named(dotted)


def _module_attribute(module: ModuleType, name: str) -> _Value:
    if name in vars(module):
        return _Object(vars(module)[name])
    full = _name_of(module)
    return None if full is None else _imported(f"{full}.{name}")


def _class_attribute(it: object, name: str) -> _Value:
    """An attribute of a class or an instance, found where the class line defines it."""
    assert _index is not None
    known = _index.name_of(it) if not isinstance(it, type) else None
    if known is not None:  # os.environ
        return _Named(f"{known}.{name}")
    for owner in (it if isinstance(it, type) else type(it)).__mro__:
        full = f"{_family(owner)}.{name}"
        if full in _ADVICE or full in _MAKES or full in _ORDERING:
            return _made(full) if not isinstance(it, type) else _Named(full)
        if name in vars(owner):
            found = vars(owner)[name]
            return _Object(found) if isinstance(found, BuiltinFunctionType | type | ModuleType) else _Named(full)
    return None


def _family(owner: type) -> str | None:
    name = _name_of(owner)
    return None if name is None else _SAME_THING.get(name, name)


def _imported(dotted: str) -> _Value:
    """What an import of this name brings, as far as it is loaded."""
    for prefix in _prefixes(dotted):
        module = sys.modules.get(prefix)
        if module is not None:
            value: _Value = _Object(module)
            rest = dotted[len(prefix) + 1 :]
            for part in rest.split(".") if rest else ():
                value = _loaded_attribute(value, part)
            return value
    return _Named(dotted)


def _loaded_attribute(value: _Value, part: str) -> _Value:
    """As `_attribute`, but what a loaded module does not hold is only named, never looked for again."""
    if isinstance(value, _Object) and isinstance(value.it, ModuleType) and part not in vars(value.it):
        return _Named(f"{value.it.__name__}.{part}")
    return _attribute(value, part)


def _is_the_real_one(dotted: str) -> bool:
    """Whether the module that this name begins with is the library, and not a file of the user's with its name."""
    top = dotted.partition(".")[0]
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None)
    if module is None:
        from importlib.util import find_spec

        spec = find_spec(top)  # looks for a top-level module, and imports nothing
        if spec is None:
            return True  # not installed here: the name is all there is
    places = [getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or ())]
    return any(_is_library(top, place) for place in places if isinstance(place, str))


def _is_library(top: str, place: str) -> bool:
    """Whether a module of this name is at home in this place."""
    import os

    installed = "site-packages" in place or "dist-packages" in place
    if top not in sys.stdlib_module_names:
        return installed
    return place in {"built-in", "frozen"} or (not installed and place.startswith(os.__file__.removesuffix("os.py")))


# -- Source files -----------------------------------------------------------------------------------------------------


class _Source:
    """One parsed file, its functions by their first line, and what it binds at its top level."""

    def __init__(self, file: str, lines: list[str]) -> None:
        import ast
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python has already told the user of odd escapes
            tree = ast.parse("".join(lines))
        self.file = file
        self.lines = lines
        self.functions = {(_first_line(node), node.name): node for node in _functions_in(tree)}
        self._tree = tree
        self._top: _Scope | None = None

    @property
    def top(self) -> _Scope:
        """What the file binds at its top level, for names that do not exist yet while it is imported."""
        if self._top is None:
            self._top = _Scope(None, package="")
            self._top.take_in(self._tree)
        return self._top

    def find(self, code: CodeType) -> _FunctionNode | None:
        """The function that this code was made from."""
        return self.functions.get((code.co_firstlineno, code.co_name))

    def is_allowed(self, node: ast.expr) -> bool:
        """Whether a comment on one of the node's lines silences it."""
        lines = self.lines[node.lineno - 1 : node.end_lineno or node.lineno]
        return any("#" in line and _allows(line) for line in lines)

    def mentions(self, word: str, node: _FunctionNode) -> bool:
        """Whether the word stands anywhere in a function; cheaper than a walk."""
        return any(word in line for line in self.lines[node.lineno - 1 : node.end_lineno])

    def column(self, node: ast.expr) -> int:
        """From 1, in characters; `ast` counts from 0, in bytes."""
        line = self.lines[node.lineno - 1].encode()
        return len(line[: node.col_offset].decode()) + 1


def _allows(line: str) -> bool:
    import re

    return re.search(r"#\s*durableflow:\s*allow\b", line) is not None


def _functions_in(tree: ast.Module) -> Iterator[_FunctionNode]:
    """Every function, however deep; expressions hold none."""
    import ast

    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inside: object = getattr(node, field, None)
            if isinstance(inside, list):  # of `a if b else c`, they are expressions
                waiting.extend(cast("list[ast.AST]", inside))


def _first_line(node: _FunctionNode) -> int:
    """As `co_firstlineno` counts: decorators belong to the function."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


_sources: dict[str, _Source] = {}


def _source_of(fn: FunctionType) -> _Source | None:
    """The parsed file of a function; parsed once, and again when it has changed."""
    import linecache

    file = fn.__code__.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file, fn.__globals__)
    kept = _sources.pop(file, None)
    if not lines:
        return None
    if kept is None or kept.lines is not lines:  # linecache hands out the same list until the file changes
        kept = _Source(file, lines)
    while len(_sources) >= FILES_KEPT_MAX:
        del _sources[next(iter(_sources))]
    _sources[file] = kept
    return kept


def _plain_function(fn: object) -> FunctionType | None:
    """The function that was written, below `functools.wraps` and binding."""
    for _ in range(32):  # a wrapper may wrap itself
        if isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, FunctionType) and "__wrapped__" in vars(fn):
            fn = vars(fn)["__wrapped__"]
        else:
            break
    return fn if isinstance(fn, FunctionType) else None


# -- Scopes -----------------------------------------------------------------------------------------------------------


class _Import:
    """A name bound by an import."""

    __slots__ = ("dotted",)

    def __init__(self, dotted: str) -> None:
        self.dotted = dotted


class _Annotated:
    """A name with a declared type."""

    __slots__ = ("annotation",)

    def __init__(self, annotation: ast.expr) -> None:
        self.annotation = annotation


_Binding: TypeAlias = "ast.expr | _Import | _Annotated | _Written | None"
"""How a name got its value; None: in a way that we do not follow."""


class _Scope:
    """The names that one function, class, comprehension or module binds, each with every binding it has."""

    def __init__(self, outer: _Scope | None, package: str) -> None:
        self.outer = outer
        self.names: dict[str, list[_Binding]] = {}
        self.elsewhere: set[str] = set()
        self._package = package

    def bind(self, name: str, binding: _Binding = None) -> None:
        self.names.setdefault(name, []).append(binding)

    def child(self) -> _Scope:
        return _Scope(self, self._package)

    def take_in(self, node: _ScopeNode) -> None:
        """Bind all that the body of a function, class or module binds."""
        waiting: list[ast.AST] = [*node.body] if isinstance(node.body, list) else [node.body]
        while waiting:  # a loop, never recursion: a body may be deep
            each = waiting.pop()
            binder = _BINDERS.get(type(each).__name__)
            waiting.extend(_children(each) if binder is None else binder(self, each))

    def take_in_parameters(self, arguments: ast.arguments) -> None:
        for parameter in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            self.bind(parameter.arg, None if parameter.annotation is None else _Annotated(parameter.annotation))
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                self.bind(rest.arg)

    def take_in_targets(self, generators: list[ast.comprehension]) -> None:
        import ast

        for generator in generators:
            for each in ast.walk(generator.target):
                if isinstance(each, ast.Name):
                    self.bind(each.id)

    def absolute(self, node: ast.ImportFrom) -> str:
        """The full name of the module that `from ... import` names."""
        if not node.level:
            return node.module or ""
        above = self._package.split(".")
        base = above[: len(above) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)


def _children(node: ast.AST) -> list[ast.AST]:
    """As `ast.iter_child_nodes`, twice as fast, and without the marks for loading and storing."""
    found: list[ast.AST] = []
    for field in node._fields:
        inside: Any = getattr(node, field, None)
        if isinstance(inside, list):
            found += [each for each in cast("list[ast.AST]", inside) if hasattr(each, "_fields")]
        elif field != "ctx" and hasattr(inside, "_fields"):
            found.append(inside)
    return found


# Each binds what one kind of node binds, and returns what is still to be looked at in the same scope.


def _bind_name(scope: _Scope, node: ast.Name) -> Iterable[ast.AST]:
    if type(node.ctx).__name__ != "Load":
        scope.bind(node.id)
    return ()


def _bind_assign(scope: _Scope, node: ast.Assign) -> Iterable[ast.AST]:
    import ast

    rest: list[ast.AST] = [node.value]
    for target in node.targets:
        if isinstance(target, ast.Name):
            scope.bind(target.id, node.value)
        else:
            rest.append(target)
    return rest


def _bind_annotated(scope: _Scope, node: ast.AnnAssign) -> Iterable[ast.AST]:
    import ast

    if isinstance(node.target, ast.Name):
        scope.bind(node.target.id, _Annotated(node.annotation))
    return () if node.value is None else (node.value,)


def _bind_augmented(scope: _Scope, node: ast.AugAssign) -> Iterable[ast.AST]:
    """`s |= more` makes `s` a local, and leaves a set a set."""
    import ast

    if isinstance(node.target, ast.Name):
        scope.names.setdefault(node.target.id, [])
    return (node.value,)


def _bind_walrus(scope: _Scope, node: ast.NamedExpr) -> Iterable[ast.AST]:
    scope.bind(node.target.id, node.value)
    return (node.value,)


def _bind_function(scope: _Scope, node: _FunctionNode) -> Iterable[ast.AST]:
    scope.bind(node.name, _Written(node))
    return node.decorator_list


def _bind_class(scope: _Scope, node: ast.ClassDef) -> Iterable[ast.AST]:
    scope.bind(node.name)
    return node.decorator_list


def _bind_nothing(_scope: _Scope, _node: ast.Lambda) -> Iterable[ast.AST]:
    return ()


def _bind_import(scope: _Scope, node: ast.Import) -> Iterable[ast.AST]:
    for alias in node.names:
        top = alias.name.partition(".")[0]
        scope.bind(alias.asname or top, _Import(alias.name if alias.asname else top))
    return ()


def _bind_import_from(scope: _Scope, node: ast.ImportFrom) -> Iterable[ast.AST]:
    module = scope.absolute(node)
    for alias in node.names:
        scope.bind(alias.asname or alias.name, _Import(f"{module}.{alias.name}"))
    return ()


def _bind_comprehension(_scope: _Scope, node: ast.comprehension) -> Iterable[ast.AST]:
    """Its targets are its own; a walrus inside binds here."""
    return (node.iter, *node.ifs)


def _bind_handler(scope: _Scope, node: ast.ExceptHandler) -> Iterable[ast.AST]:
    if node.name is not None:
        scope.bind(node.name)
    return _children(node)


def _bind_pattern(scope: _Scope, node: ast.MatchAs | ast.MatchStar) -> Iterable[ast.AST]:
    if node.name is not None:
        scope.bind(node.name)
    return _children(node)


def _bind_rest(scope: _Scope, node: ast.MatchMapping) -> Iterable[ast.AST]:
    if node.rest is not None:
        scope.bind(node.rest)
    return _children(node)


def _bind_elsewhere(scope: _Scope, node: ast.Global) -> Iterable[ast.AST]:
    scope.elsewhere.update(node.names)
    return ()


_BINDERS: Final[dict[str, Callable[[_Scope, Any], Iterable[ast.AST]]]] = {
    "AnnAssign": _bind_annotated,
    "Assign": _bind_assign,
    "AsyncFunctionDef": _bind_function,
    "AugAssign": _bind_augmented,
    "ClassDef": _bind_class,
    "ExceptHandler": _bind_handler,
    "FunctionDef": _bind_function,
    "Global": _bind_elsewhere,
    "Import": _bind_import,
    "ImportFrom": _bind_import_from,
    "Lambda": _bind_nothing,
    "MatchAs": _bind_pattern,
    "MatchMapping": _bind_rest,
    "MatchStar": _bind_pattern,
    "Name": _bind_name,
    "NamedExpr": _bind_walrus,
    "Nonlocal": _bind_elsewhere,
    "comprehension": _bind_comprehension,
}


# -- The look ---------------------------------------------------------------------------------------------------------


def _inspect(fn: Callable[..., object]) -> list[Finding]:
    global _index  # noqa: PLW0603 - made when first needed, so that importing us costs nothing
    plain = _plain_function(fn)
    if plain is None or plain.__name__ == "<lambda>":
        return []
    if _index is None:
        _index = _Index()
    _index.refresh()
    source = _source_of(plain)
    node = source and source.find(plain.__code__)
    if not source or not node:
        return []
    return _look_from(_visit_of(plain, node, _first_parameter(node), 0), source)


def _look_from(first: _Visit, source: _Source) -> list[Finding]:
    """Look at a workflow, and at the helpers that it hands its context to."""
    findings: dict[tuple[int, int], Finding] = {}
    looked_at: set[_FunctionNode] = set()
    waiting = [first]
    while waiting:
        visit = waiting.pop()
        if visit.node not in looked_at and visit.depth <= HELPER_DEPTH_MAX:
            looked_at.add(visit.node)
            look = _Look(visit, source)
            look.start()
            for finding in look.findings:  # `os.environ.get()` is one, not two: the outermost is met first
                findings.setdefault((finding.line, finding.column), finding)
            waiting.extend(look.helpers)
    return sorted(findings.values())


def _visit_of(fn: FunctionType, node: _FunctionNode, context: str | None, depth: int) -> _Visit:
    code = fn.__code__
    place = _Place(code.co_filename, fn.__globals__, _closure(fn), code.co_freevars)
    return _Visit(place, node, context, depth, "<locals>" in fn.__qualname__)


class _Place(NamedTuple):
    """Where a function stands: what its names are resolved by."""

    file: str
    globals: dict[str, object]
    closure: Mapping[str, object]
    free: tuple[str, ...]
    """The closure's names; some may have no value yet."""


class _Visit(NamedTuple):
    """A function to look at: the workflow, or a helper that gets the context."""

    place: _Place
    node: _FunctionNode
    context: str | None
    """The parameter that holds the context."""
    depth: int
    is_nested: bool
    """It is defined inside another function."""


class _Look:
    """One walk over one function."""

    def __init__(self, visit: _Visit, source: _Source) -> None:
        self.findings: list[Finding] = []
        self.helpers: list[_Visit] = []
        self._visit = visit
        self._source = source
        self._node = visit.node
        self._context = visit.context
        self._orderless: set[ast.AST] = set()
        """Calls and comprehensions whose order nobody sees, because they stand in `sorted(...)`."""
        self._effects: set[str] = set()
        """Functions of the body that are only handed to `side_effect`."""
        self._asking: set[tuple[_Scope, str]] = set()

    def start(self) -> None:
        """Look at the defaults, which are worked out anew by each process, and at the body."""
        scope = _Scope(None, package=str(self._visit.place.globals.get("__package__") or ""))
        if self._source.mentions("side_effect", self._node):
            self._effects = _names_only_recorded(self._node)
        if not self._visit.is_nested:
            self._see_all(_defaults(self._node.args), scope)
        self._enter(self._node, scope)

    # The walk: each `_see_` method looks at one kind of node, and at what is inside it.

    def _see(self, node: ast.AST, scope: _Scope) -> None:
        see = self._SEERS.get(type(node).__name__)
        if see is None:
            self._see_inside(node, scope)
        else:
            see(self, node, scope)

    def _see_all(self, nodes: Iterable[ast.AST | None], scope: _Scope) -> None:
        for node in nodes:
            if node is not None:
                self._see(node, scope)

    def _see_inside(self, node: ast.AST, scope: _Scope) -> None:
        self._see_all(_children(node), scope)

    def _enter(self, node: _FunctionNode | ast.Lambda, scope: _Scope) -> None:
        """Look at the body of a function, in a scope of its own."""
        inner = scope.child()
        inner.take_in_parameters(node.args)
        inner.take_in(node)
        self._see_all(node.body if isinstance(node.body, list) else [node.body], inner)

    def _see_function(self, node: _FunctionNode, scope: _Scope) -> None:
        self._see_all([*node.decorator_list, *_defaults(node.args)], scope)
        if node.name not in self._effects:
            self._enter(node, scope)

    def _see_lambda(self, node: ast.Lambda, scope: _Scope) -> None:
        self._see_all(_defaults(node.args), scope)
        self._enter(node, scope)

    def _see_class(self, node: ast.ClassDef, scope: _Scope) -> None:
        self._see_all([*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)], scope)
        inner = scope.child()
        inner.take_in(node)
        self._see_all(node.body, inner)

    def _see_annotated(self, node: ast.AnnAssign, scope: _Scope) -> None:
        self._see_all([node.target, node.value], scope)

    def _see_reference(self, node: ast.Name | ast.Attribute, scope: _Scope) -> None:
        name = self._full_name(self._value(node, scope))
        if name in _REFERENCES and _is_the_real_one(name):
            self._report(node, _ADVICE[name] or "")
        else:
            self._see_inside(node, scope)

    def _see_call(self, node: ast.Call, scope: _Scope) -> None:
        if _method(node) == "side_effect":
            return  # what it makes is recorded
        callee = self._value(node.func, scope)
        name = self._full_name(callee)
        if name is not None and not _is_exception(callee):
            self._judge(name, node, scope)
        if _method(node) == "join":
            self._see_orders(node, node.args, scope)
        self._follow(callee, node)
        self._see_inside(node, scope)

    def _judge(self, name: str, node: ast.Call, scope: _Scope) -> None:
        advice = _advice_for(name, node)
        if advice is not None and _is_the_real_one(name):
            self._report(node, advice)
        elif name in _ORDERLESS or (name in _ORDERING and node in self._orderless):
            self._orderless.update(node.args)
        elif name in _ORDERING:
            self._see_orders(node, node.args, scope)

    def _see_orders(self, node: ast.Call, values: list[ast.expr], scope: _Scope) -> None:
        if any(self._is_set(value, scope) for value in values):
            self._report(node, _SORTED)

    def _see_for(self, node: ast.For | ast.AsyncFor, scope: _Scope) -> None:
        self._see_iteration(node.iter, node, scope)
        self._see_inside(node, scope)

    def _see_starred(self, node: ast.Starred, scope: _Scope) -> None:
        self._see_iteration(node.value, node, scope)
        self._see_inside(node, scope)

    def _see_yield_from(self, node: ast.YieldFrom, scope: _Scope) -> None:
        self._see_iteration(node.value, node, scope)
        self._see_inside(node, scope)

    def _see_assign(self, node: ast.Assign, scope: _Scope) -> None:
        if any(type(target).__name__ in {"Tuple", "List"} for target in node.targets):
            self._see_iteration(node.value, node, scope)
        self._see_inside(node, scope)

    def _see_comprehension(self, node: _Comprehension, scope: _Scope) -> None:
        orderless = node in self._orderless or type(node).__name__ == "SetComp"
        orderless = orderless and not _mentions(node, self._context)  # tasks are made in this order
        inner = scope.child()
        inner.take_in_targets(node.generators)
        for number, generator in enumerate(node.generators):
            outer = inner if number else scope
            if not orderless:
                self._see_iteration(generator.iter, generator, outer)
            self._see(generator.iter, outer)
            self._see_all([generator.target, *generator.ifs], inner)
        self._see_all(_made_by(node), inner)

    def _see_iteration(self, node: ast.expr, by: ast.AST, scope: _Scope) -> None:
        if self._is_set(node, scope):
            self._report(node, _SORTED, by)

    def _report(self, node: ast.expr, advice: str, whole: ast.AST | None = None) -> None:
        if self._source.is_allowed(node):
            return
        column = self._source.column(node)
        call = _shortened(_text(whole or node))
        self.findings.append(Finding(self._source.file, node.lineno, column, call, advice, self._node.name))

    # Helpers.

    def _follow(self, callee: _Value, node: ast.Call) -> None:
        """Note a function of this module that is handed the context, to be looked at next."""
        place = _place_of(node, self._context)
        if place is not None:
            self._note(callee, place)

    def _note(self, value: _Value, argument: int | str) -> None:
        depth = self._visit.depth + 1
        if isinstance(value, _Written):
            # One of the body is walked anyway; one of the file's top level does not exist yet, and is looked up here.
            if self._source.top.names.get(value.node.name) == [value] and not value.node.decorator_list:
                place = self._visit.place._replace(closure={}, free=())
                self.helpers.append(
                    _Visit(place, value.node, _parameter_at(value.node, argument), depth, is_nested=False)
                )
            return
        plain = _plain_function(value.it) if isinstance(value, _Object) and isinstance(value.it, FunctionType) else None
        if plain is None or plain.__globals__ is not self._visit.place.globals:
            return
        helper = self._source.find(plain.__code__)
        if helper is not None:
            self.helpers.append(_visit_of(plain, helper, _parameter_at(helper, argument), depth))

    # What an expression is.

    def _is_set(self, node: ast.expr, scope: _Scope) -> bool:
        return self._kind(self._value(node, scope)) == _SET

    def _kind(self, value: _Value) -> str | None:
        """The watched class that a value is an instance of."""
        if isinstance(value, _Made):
            return value.of
        if not isinstance(value, _Object):
            return None
        if type(value.it) in {set, frozenset}:
            return _SET
        return _PATH if any(_name_of(owner) == _PATH for owner in type(value.it).__mro__) else None

    def _full_name(self, value: _Value) -> str | None:
        if isinstance(value, _Named):
            return value.name
        return _name_of(value.it) if isinstance(value, _Object) else None

    def _value(self, node: ast.AST, scope: _Scope) -> _Value:
        evaluate = self._EVALUATORS.get(type(node).__name__)
        return None if evaluate is None else evaluate(self, node, scope)

    def _value_of_attribute(self, node: ast.Attribute, scope: _Scope) -> _Value:
        return _attribute(self._value(node.value, scope), node.attr)

    def _value_of_set(self, _node: ast.Set | ast.SetComp, _scope: _Scope) -> _Value:
        return _Made(_SET)

    def _value_of_call(self, node: ast.Call, scope: _Scope) -> _Value:
        name = self._full_name(self._value(node.func, scope))
        return _Made(_MAKES[name]) if name in _MAKES else None

    def _value_of_walrus(self, node: ast.NamedExpr, scope: _Scope) -> _Value:
        return self._value(node.value, scope)

    def _value_of_either(self, node: ast.IfExp, scope: _Scope) -> _Value:
        return self._value_of_first([node.body, node.orelse], scope)

    def _value_of_fallback(self, node: ast.BoolOp, scope: _Scope) -> _Value:
        return self._value_of_first(node.values, scope)

    def _value_of_first(self, branches: list[ast.expr], scope: _Scope) -> _Value:
        """A set if any branch is one; an empty `set()` as a fallback has no order that could differ."""
        kinds = [self._kind(self._value(branch, scope)) for branch in branches if not _is_empty_call(branch)]
        return _Made(_SET) if _SET in kinds else None

    def _value_of_operation(self, node: ast.BinOp, scope: _Scope) -> _Value:
        """What sets, dictionary views and paths give with their operators."""
        sides = [self._value(side, scope) for side in (node.left, node.right)]
        kinds = [self._kind(side) for side in sides]
        operator = type(node.op).__name__
        if operator == "Div" and kinds[0] == _PATH:
            return _Made(_PATH)
        if operator not in {"BitAnd", "BitOr", "BitXor", "Sub"}:
            return None
        if _SET in kinds or _method(node.left) == "keys" or _method(node.right) == "keys":
            return _Made(_SET)
        return _ASKING if _ASKING in sides else None

    def _value_of_name(self, node: ast.Name, scope: _Scope) -> _Value:
        return self._lookup(node.id, scope)

    def _lookup(self, name: str, scope: _Scope | None) -> _Value:
        """Resolve a name as Python does: the scopes from inside out, the closure, the globals, the builtins."""
        while scope is not None:
            if name in scope.names and name not in scope.elsewhere:
                return self._agreed(name, scope)
            scope = scope.outer
        place = self._visit.place
        if name in place.free:
            return _Object(place.closure[name]) if name in place.closure else None
        if name in place.globals:
            return _Object(place.globals[name])
        if name in self._source.top.names:
            return self._agreed(name, self._source.top)
        return _Object(vars(builtins)[name]) if name in vars(builtins) else None

    def _agreed(self, name: str, scope: _Scope) -> _Value:
        """What all bindings of a name agree on; None if they differ."""
        if scope.names[name] == [None]:  # as most parameters
            return None
        if (scope, name) in self._asking:
            return _ASKING
        self._asking.add((scope, name))
        values = [self._bound(binding, scope) for binding in scope.names[name]]
        self._asking.remove((scope, name))
        first, *others = [value for value in values if not isinstance(value, _Asking)] or [None]
        kind = self._kind(first)
        if kind is not None and all(self._kind(other) == kind for other in others):
            return _Made(kind) if others else first
        return first if all(_same(first, other) for other in others) else None

    def _bound(self, binding: _Binding, scope: _Scope) -> _Value:
        if isinstance(binding, _Import):
            return _imported(binding.dotted)
        if isinstance(binding, _Annotated):
            return self._annotated(binding.annotation, scope)
        if binding is None or isinstance(binding, _Written):
            return binding
        return self._value(binding, scope)

    def _annotated(self, node: ast.expr, scope: _Scope) -> _Value:
        """What a declared type promises; `set[str] | None` is a set where it is iterated."""
        import ast

        if isinstance(node, ast.Subscript):
            return self._annotated(node.value, scope)
        if isinstance(node, ast.BinOp):
            sides = (self._annotated(side, scope) for side in (node.left, node.right))
            return next((side for side in sides if side is not None), None)
        name = self._full_name(self._value(node, scope))
        return _Made(_ANNOTATIONS[name]) if name in _ANNOTATIONS else None

    _SEERS: Final[Mapping[str, Callable[[Any, Any, _Scope], None]]] = {
        "AnnAssign": _see_annotated,
        "Assign": _see_assign,
        "AsyncFor": _see_for,
        "AsyncFunctionDef": _see_function,
        "Attribute": _see_reference,
        "Call": _see_call,
        "ClassDef": _see_class,
        "DictComp": _see_comprehension,
        "For": _see_for,
        "FunctionDef": _see_function,
        "GeneratorExp": _see_comprehension,
        "Lambda": _see_lambda,
        "ListComp": _see_comprehension,
        "Name": _see_reference,
        "SetComp": _see_comprehension,
        "Starred": _see_starred,
        "YieldFrom": _see_yield_from,
    }

    _EVALUATORS: Final[Mapping[str, Callable[[Any, Any, _Scope], _Value]]] = {
        "Attribute": _value_of_attribute,
        "BinOp": _value_of_operation,
        "BoolOp": _value_of_fallback,
        "Call": _value_of_call,
        "IfExp": _value_of_either,
        "Name": _value_of_name,
        "NamedExpr": _value_of_walrus,
        "Set": _value_of_set,
        "SetComp": _value_of_set,
    }


# -- Small questions about nodes --------------------------------------------------------------------------------------


def _closure(fn: FunctionType) -> dict[str, object]:
    """The variables of the functions around it, as far as they have a value yet."""
    found: dict[str, object] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # empty as yet
            continue
    return found


def _defaults(arguments: ast.arguments) -> list[ast.expr | None]:
    return [*arguments.defaults, *arguments.kw_defaults]


def _made_by(node: _Comprehension) -> list[ast.expr]:
    """What stands before the first `for`."""
    import ast

    return [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]


def _parameters(node: _FunctionNode) -> list[str]:
    return [parameter.arg for parameter in [*node.args.posonlyargs, *node.args.args]]


def _first_parameter(node: _FunctionNode) -> str | None:
    """Where a workflow gets its context; a method gets itself first."""
    names = [name for name in _parameters(node) if name not in {"self", "cls"}]
    return names[0] if names else None


def _place_of(node: ast.Call, name: str | None) -> int | str | None:
    """The position or the keyword at which a call hands on this name."""
    for position, argument in enumerate(node.args):
        if _is_name(argument, name):
            return position
    return next((keyword.arg for keyword in node.keywords if _is_name(keyword.value, name)), None)


def _parameter_at(node: _FunctionNode, place: int | str) -> str | None:
    """The parameter that an argument at this place fills."""
    if isinstance(place, str):
        return place
    names = _parameters(node)
    return names[place] if place < len(names) else None


def _method(node: ast.AST) -> str | None:
    """`m` of `x.m(...)`."""
    import ast

    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def _is_name(node: ast.AST | None, name: str | None) -> bool:
    import ast

    return isinstance(node, ast.Name) and node.id == name


def _is_empty_call(node: ast.expr) -> bool:
    import ast

    return isinstance(node, ast.Call) and not node.args and not node.keywords


def _is_exception(value: _Value) -> bool:
    """Raising a library's exception asks the world nothing."""
    return isinstance(value, _Object) and isinstance(value.it, type) and issubclass(value.it, BaseException)


def _mentions(node: ast.AST, name: str | None) -> bool:
    import ast

    return any(_is_name(each, name) for each in ast.walk(node))


def _names_only_recorded(node: _FunctionNode) -> set[str]:
    """The names that stand nowhere but as arguments of `side_effect`."""
    import ast

    recorded: list[str] = []
    loaded: list[str] = []
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load):
            loaded.append(each.id)
        elif isinstance(each, ast.Call) and _method(each) == "side_effect":
            recorded += [argument.id for argument in each.args if isinstance(argument, ast.Name)]
    return {name for name in recorded if recorded.count(name) == loaded.count(name)}


def _text(node: ast.AST) -> str:
    """The source of a node, without a call's arguments and a loop's body."""
    import ast

    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        return f"for {_text(node.target)} in {_text(node.iter)}"
    if isinstance(node, ast.Call):
        return f"{_text(node.func)}({'...' if node.args or node.keywords else ''})"
    return ast.unparse(node)


def _shortened(text: str, characters_max: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 4]} ..."

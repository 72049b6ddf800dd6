"""What runs in the pod of a GPU job; with the standard library alone, so that an image needs nothing else of ours.

    from durableflow.kubernetes import runtime

    given = runtime.load_input()
    for step in range(1_000):
        ...
        if not runtime.heartbeat({"step": step}) or runtime.should_stop:
            runtime.fail("Interrupted", "told to stop", retryable=True)
    runtime.complete({"loss": 0.1})

The answer is first written where Kubernetes keeps it, the termination message, and then called back, if there is a
callback: so it survives whatever happens to the network. `should_stop` is true once the pod was told to stop (SIGTERM,
heard from `load_input()` on) or its result is no longer wanted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from durableflow.kubernetes.envelope import DELIVERED, FAILURE, MESSAGE_BYTES_MAX, RESULT, STORED, Envelope, seal
from durableflow.kubernetes.transfers import read_object, write_object

__all__ = ["attempt", "complete", "details", "fail", "heartbeat", "load_input", "should_stop"]

if TYPE_CHECKING:
    should_stop: bool

_TRY_S: Final = 10.0
"""How long a delivery is tried that is in the termination message anyhow."""
_DELIVER_S: Final = 600.0
"""How long one is tried that is too large for it."""
_REQUEST_S: Final = 5.0
_FAILURE_CHARS_MAX: Final = 1_000
_LARGER: Final = "the result has {} bytes and its line {}, but a termination message holds {}: {}"
_OBJECT_S: Final = 60.0
"""How long the object store is tried when there is another way."""
_stop: Final = threading.Event()


def __getattr__(name: str) -> Any:
    if name == "should_stop":
        return _stop.is_set()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- what is given --------------------------------------------------------------------------------------------------


def load_input() -> Any:
    """The argument with which the workflow called the activity, as plain JSON values; from here on SIGTERM is heard."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _hear_sigterm)
    return _given()["input"]


def _hear_sigterm(_signal: int, _frame: object) -> None:
    _stop.set()


def attempt() -> int:
    """Which attempt this is, from 1."""
    return int(_given()["attempt"])


def details() -> Any:
    """What the attempt before said in its last heartbeat; None without one."""
    return _given()["details"]


def _given() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(_variable("INPUT")).read_text(encoding="utf-8"))
    if "sha256" in read:
        read = json.loads(_input(read["sha256"]))
    return read


def _variable(name: str) -> str:
    value = os.environ.get(f"DURABLEFLOW_{name}")
    if value is None:
        raise RuntimeError(f"DURABLEFLOW_{name} is not set: this process does not run in a Job of durableflow's")
    return value


# -- what is said -----------------------------------------------------------------------------------------------------


def heartbeat(details: object = None) -> bool:
    """Say that the work goes on; the next attempt can read `details`. False when it may stop.

    A heartbeat that does not get through is no error: the next one may.
    """
    body = json.dumps({"details": details}, allow_nan=False)
    if _callback() is not None:
        _post("heartbeat", body.encode(), 0)
    return not _stop.is_set()


def complete(value: object = None) -> None:
    """The result is `value`: plain JSON values, which the activity's annotated type is read from.

    Returns when it is where it is kept; exit with 0 after that.

    Raises:
        ValueError, TypeError: JSON cannot hold it, or it is too large for the termination message and there is neither
            an object store nor a callback; keep it somewhere yourself, and return where it is.
        ConnectionError: it is too large for the message, and nobody took it for ten minutes.
    """
    job = _variable("JOB")
    line = seal(Envelope(job, RESULT, value))
    if len(line.encode()) <= MESSAGE_BYTES_MAX:
        _write_message(line)
        _deliver(line, _TRY_S)
        return
    if _store(job, value):
        return
    sizes = (len(json.dumps(value)), len(line.encode()), MESSAGE_BYTES_MAX)
    if _callback() is None:
        if _objects().get("result"):
            raise ConnectionError(_LARGER.format(*sizes, f"the object store did not take it for {_DELIVER_S:g} s"))
        instead = "return where the result is kept, or give KubernetesJobs a callback or an object store"
        raise ValueError(_LARGER.format(*sizes, instead))
    if not _deliver(line, _DELIVER_S):
        raise ConnectionError(_LARGER.format(*sizes, f"the callback did not take it for {_DELIVER_S:g} s"))
    _write_message(seal(Envelope(job, DELIVERED, sha256(line.encode()).hexdigest())))


def _store(job: str, value: object) -> bool:
    """Put the result into the object store and say so; False when that is not to be had."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    url = _objects().get("result")
    if not url or not write_object(url, data, _DELIVER_S if _callback() is None else _OBJECT_S):
        return False
    line = seal(Envelope(job, STORED, {"sha256": sha256(data).hexdigest(), "size": len(data)}))
    _write_message(line)
    _deliver(line, _TRY_S)
    return True


def fail(type: str, message: str = "", *, retryable: bool = True) -> NoReturn:
    """The attempt has failed: say so and exit with 1.

    Args:
        type: a name; the workflow sees it as `ActivityFailed.type_name`.
        retryable: False to let no attempt follow, whatever the retry policy says.
    """
    said = {"type": type[:_FAILURE_CHARS_MAX], "message": message[:_FAILURE_CHARS_MAX], "retryable": retryable}
    line = seal(Envelope(_variable("JOB"), FAILURE, said))
    while len(line.encode()) > MESSAGE_BYTES_MAX:  # characters that JSON spells out
        said["message"] = str(said["message"])[: len(str(said["message"])) // 2]
        said["type"] = str(said["type"])[:100]
        line = seal(Envelope(_variable("JOB"), FAILURE, said))
    _write_message(line)
    _deliver(line, _TRY_S)
    sys.exit(1)


def _write_message(line: str) -> None:
    path = os.environ.get("DURABLEFLOW_TERMINATION_LOG", "/dev/termination-log")
    with Path(path).open("w", encoding="utf-8") as file:  # in place: it is mounted, and cannot be replaced
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


# -- the object store ---------------------------------------------------------------------------------------------


def _objects() -> dict[str, str]:
    """Where things are read and written; nobody but this pod is told."""
    path = os.environ.get("DURABLEFLOW_OBJECTS_FILE")
    try:
        read: dict[str, str] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except FileNotFoundError:
        return {}
    return read


@cache
def _input(digest: str) -> bytes:
    """What the pod was given, where its ConfigMap has only a digest of it."""
    return read_object(_objects().get("input", ""), digest, _DELIVER_S)


# -- the callback -------------------------------------------------------------------------------------------------


def _callback() -> str | None:
    return os.environ.get("DURABLEFLOW_CALLBACK")


def _deliver(line: str, within_s: float) -> bool:
    return _callback() is not None and _post("answer", line.encode(), within_s)


def _post(what: str, body: bytes, within_s: float) -> bool:
    """Send, again and again while nobody answers; True when it was taken."""
    deadline = time.monotonic() + within_s
    pause_s = 0.2
    while True:
        try:
            return _post_once(what, body)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (404, 409, 410):  # another attempt runs, or nobody wants a result any more
                    _stop.set()
                    return False
                if error.code == 413:
                    return False
        except (OSError, ValueError):
            pass
        if time.monotonic() + pause_s > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 10.0)


def _post_once(what: str, body: bytes) -> bool:
    url = f"{_callback()}/{_variable('JOB')}/{what}"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the callback is {url!r}, but it must be a URL of HTTP")
    token = Path(_variable("TOKEN_FILE")).read_text(encoding="utf-8").strip()  # each time: it is renewed
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310  # looked at above
    with urllib.request.urlopen(request, timeout=_REQUEST_S) as response:  # noqa: S310  # the same
        answer = json.loads(response.read() or b"{}")
    if not answer.get("wanted", True):
        _stop.set()
    return True

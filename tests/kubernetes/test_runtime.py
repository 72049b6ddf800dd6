"""What runs in the pod: it needs nothing but the standard library, writes before it calls, and is never cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from durableflow.kubernetes.envelope import DELIVERED, FAILURE, MESSAGE_BYTES_MAX, RESULT, STORED, Envelope, unseal

pytestmark = pytest.mark.slow  # each test starts interpreters

SOURCE = Path(__file__).parents[2] / "src"
PRELUDE = "from durableflow.kubernetes import runtime\n"


class Callback:
    """A server that answers as it is told to, and remembers what was said and what the message was at that moment."""

    def __init__(self, message: Path) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.heard: list[tuple[str, str, Any]] = []
        self.messages: list[str] = []
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                mine.heard.append((self.path, self.headers["Authorization"], body))
                mine.messages.append(message.read_text() if message.exists() else "")
                code, answer = mine.answers.pop(0) if mine.answers else (200, {"wanted": True})
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jobs"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Pod:
    """A folder that stands for a pod's mounts."""

    def __init__(self, folder: Path) -> None:
        self.message = folder / "termination-log"
        self.input = folder / "input.json"
        self.token = folder / "token"
        self.token.write_text("t-1\n")
        self.objects = folder / "objects.json"
        self.result = folder / "store" / "d" / "result.json"
        self.callback = Callback(self.message)
        self.give({"x": 1})

    def give(self, value: object, attempt: int = 1, details: object = None) -> None:
        self.input.write_text(json.dumps({"input": value, "attempt": attempt, "details": details}))

    def keep(self, **urls: str) -> None:
        """From here on there is an object store."""
        self.objects.write_text(json.dumps({"input": "", "result": self.result.as_uri()} | urls))

    def start(self, program: str, *, callback: bool = True) -> subprocess.Popen[str]:
        env = {
            "DURABLEFLOW_JOB": "j",
            "DURABLEFLOW_INPUT": str(self.input),
            "DURABLEFLOW_TERMINATION_LOG": str(self.message),
            "DURABLEFLOW_OBJECTS_FILE": str(self.objects),
        }
        if callback:
            env |= {"DURABLEFLOW_CALLBACK": self.callback.url, "DURABLEFLOW_TOKEN_FILE": str(self.token)}
        # -S: without site-packages, so with the standard library alone.
        command = [sys.executable, "-S", "-c", f"import sys\nsys.path.insert(0, {str(SOURCE)!r})\n{PRELUDE}{program}"]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, program: str, *, callback: bool = True, code: int = 0) -> str:
        process = self.start(program, callback=callback)
        out, error = process.communicate(timeout=60)
        assert process.returncode == code, error
        return out if not code else error

    def said(self) -> Envelope | None:
        return unseal(self.message.read_text())


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    made.callback.close()


def test_a_pod_reads_its_input_its_attempt_and_what_the_one_before_said(pod: Pod) -> None:
    pod.give({"x": [1, 2]}, 3, {"step": 7})
    out = pod.run("print(runtime.load_input(), runtime.attempt(), runtime.details(), runtime.should_stop)")
    assert out == "{'x': [1, 2]} 3 {'step': 7} False\n"


def test_a_result_is_in_the_message_before_it_is_called_back(pod: Pod) -> None:
    pod.run("runtime.complete({'loss': 0.1})")
    assert pod.said() == Envelope("j", RESULT, {"loss": 0.1})
    assert [(path, token) for path, token, _ in pod.callback.heard] == [("/jobs/j/answer", "Bearer t-1")]
    assert unseal(pod.callback.heard[0][2]) == pod.said()
    assert unseal(pod.callback.messages[0]) == pod.said()


def test_without_a_callback_the_message_is_all(pod: Pod) -> None:
    pod.run("runtime.complete()", callback=False)
    assert pod.said() == Envelope("j", RESULT, None)
    assert pod.run("print(runtime.heartbeat(1))", callback=False) == "True\n"
    assert pod.callback.heard == []


def test_a_callback_that_fails_is_tried_again_and_is_no_error(pod: Pod) -> None:
    pod.callback.answers = [(503, {}), (500, {})]
    pod.run("runtime.complete(1)")
    assert len(pod.callback.heard) == 3
    pod.callback.answers = [(503, {})] * 100
    pod.run("runtime._TRY_S = 0.5; runtime.complete(1)")
    assert pod.said() == Envelope("j", RESULT, 1)


def test_the_largest_result_that_fits_is_in_the_message_and_the_next_one_is_delivered(pod: Pod) -> None:
    room = MESSAGE_BYTES_MAX - len('df1  {"job":"j","kind":"result","value":""}') - 64
    pod.run(f"runtime.complete('x' * {room})")
    assert len(pod.message.read_text().rstrip("\n")) == MESSAGE_BYTES_MAX
    assert pod.said() == Envelope("j", RESULT, "x" * room)
    pod.run(f"runtime.complete('x' * {room + 1})")
    said = pod.said()
    assert said is not None
    assert said.kind == DELIVERED
    assert unseal(pod.callback.heard[-1][2]) == Envelope("j", RESULT, "x" * (room + 1))
    assert unseal(pod.callback.messages[-1]) == Envelope("j", RESULT, "x" * room)  # not before it was taken


def test_a_large_result_that_nobody_takes_is_an_error_and_not_a_short_result(pod: Pod) -> None:
    assert "ValueError" in pod.run("runtime.complete('x' * 5_000)", callback=False, code=1)
    pod.callback.answers = [(503, {})] * 100
    assert "ConnectionError" in pod.run("runtime._DELIVER_S = 0.5; runtime.complete('x' * 5_000)", code=1)
    assert not pod.message.exists()


def stored(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data).hexdigest(), "size": len(data)}


@pytest.mark.parametrize("callback", [False, True])
def test_a_large_result_is_in_the_object_store_before_it_is_in_the_message(pod: Pod, callback: bool) -> None:
    pod.keep()
    pod.run("runtime.complete({'x': 'x' * 5_000})", callback=callback)
    data = pod.result.read_bytes()
    assert json.loads(data) == {"x": "x" * 5_000}
    assert pod.said() == Envelope("j", STORED, stored(data))
    assert [unseal(body) for _, _, body in pod.callback.heard] == [pod.said()] * callback
    assert [unseal(each) for each in pod.callback.messages] == [pod.said()] * callback


def test_a_small_result_needs_no_object_store(pod: Pod) -> None:
    pod.keep()
    pod.run("runtime.complete(1)")
    assert pod.said() == Envelope("j", RESULT, 1)
    assert not pod.result.exists()


def test_an_object_store_that_fails_leaves_the_callback_or_an_error(pod: Pod) -> None:
    pod.keep(result="http://127.0.0.1:9/result?sig=secret")
    quick = "runtime._OBJECT_S = runtime._DELIVER_S = 0.3; "
    pod.run(f"{quick}runtime.complete('x' * 5_000)")
    said = pod.said()
    assert said is not None
    assert said.kind == DELIVERED
    pod.message.unlink()
    error = pod.run(f"{quick}runtime.complete('x' * 5_000)", callback=False, code=1)
    assert "ConnectionError" in error
    assert "the object store did not take it" in error
    assert "secret" not in error
    assert not pod.message.exists()


def test_an_input_that_is_in_the_object_store_is_read_from_there_once(pod: Pod, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"input": {"x": [1]}, "attempt": 2, "details": {"step": 7}}))
    pod.keep(input=given.as_uri())
    pod.input.write_text(json.dumps({"sha256": sha256(given.read_bytes()).hexdigest()}))
    program = (
        "import pathlib; first = runtime.load_input(); first['x'].append(2)\n"
        f"pathlib.Path({str(given)!r}).unlink()\n"
        "print(runtime.load_input(), runtime.attempt(), runtime.details())"
    )
    assert pod.run(program) == "{'x': [1]} 2 {'step': 7}\n"
    given.write_text(json.dumps({"input": "another", "attempt": 2, "details": None}))
    assert "not what was put there" in pod.run("runtime.load_input()", code=1)


def test_a_failure_ends_the_process_and_is_in_the_message(pod: Pod) -> None:
    pod.run("runtime.fail('Diverged', 'loss is nan', retryable=False)\nprint('never')", code=1)
    assert pod.said() == Envelope("j", FAILURE, {"type": "Diverged", "message": "loss is nan", "retryable": False})
    pod.run(r"runtime.fail('T' * 9_000, '\0\u20ac' * 9_000)", code=1)
    said = pod.said()
    assert said is not None
    assert said.value["type"].startswith("TTT")


def test_a_heartbeat_says_whether_the_result_is_wanted(pod: Pod) -> None:
    pod.callback.answers = [(200, {"wanted": True}), (500, {}), (200, {"wanted": False})]
    program = "print(*[(runtime.heartbeat({'n': n}), runtime.should_stop) for n in range(3)])"
    assert pod.run(program) == "(True, False) (True, False) (False, True)\n"
    assert [json.loads(body) for _, _, body in pod.callback.heard] == [{"details": {"n": n}} for n in range(3)]


@pytest.mark.parametrize("code", [404, 409, 410])
def test_an_attempt_that_is_over_is_told_to_stop(pod: Pod, code: int) -> None:
    pod.callback.answers = [(code, {})]
    assert pod.run("print(runtime.heartbeat(), runtime.should_stop)") == "False True\n"


def test_a_token_that_was_renewed_is_used(pod: Pod) -> None:
    program = f"runtime.heartbeat(); open({str(pod.token)!r}, 'w').write('t-2'); runtime.heartbeat()"
    pod.run(program)
    assert [token for _, token, _ in pod.callback.heard] == ["Bearer t-1", "Bearer t-2"]


def test_sigterm_is_heard_and_leaves_time_to_answer(pod: Pod) -> None:
    program = (
        "runtime.load_input(); print('ready', flush=True)\n"
        "import time\n"
        "while not runtime.should_stop: time.sleep(0.01)\n"
        "runtime.complete('in time')"
    )
    process = pod.start(program)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert pod.said() == Envelope("j", RESULT, "in time")


def test_a_handler_of_the_programs_own_is_left_alone(pod: Pod) -> None:
    program = (
        "import signal\nmine = lambda *_: None\nsignal.signal(signal.SIGTERM, mine)\n"
        "runtime.load_input(); print(signal.getsignal(signal.SIGTERM) is mine)"
    )
    assert pod.run(program) == "True\n"


def test_what_json_cannot_hold_is_refused_before_anything_is_written(pod: Pod) -> None:
    assert "ValueError" in pod.run("runtime.complete(float('nan'))", code=1)
    assert "TypeError" in pod.run("runtime.complete(object())", code=1)
    assert not pod.message.exists()
    assert pod.callback.heard == []


def test_outside_of_a_pod_it_says_so(pod: Pod) -> None:
    program = "import os\nfor name in [n for n in os.environ if n.startswith('DURABLEFLOW_')]: del os.environ[name]\n"
    assert "does not run in a Job" in pod.run(f"{program}runtime.load_input()", code=1)

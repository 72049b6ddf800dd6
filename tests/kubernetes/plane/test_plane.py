"""The control plane of the tests is a real one: it checks who asks, keeps what it has stored, and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planekit.api import ApiError, request
from planekit.binaries import PlaneUnavailable
from planekit.plane import ControlPlane
from planekit.processes import Keeper, Program

pytestmark = pytest.mark.slow  # asks a server

JOBS = {"apiGroups": ["batch"], "resources": ["jobs"]}
JOB = {
    "metadata": {"name": "j"},
    "spec": {
        "suspend": True,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "fake/exec:1"}]}},
    },
}


def ask(plane: ControlPlane, token: str, method: str, path: str, body: object = None) -> object:
    return request(plane.url, method, path, body, token=token, authority=plane.authority.certificate)


def test_it_is_the_version_whose_streams_were_recorded(plane: ControlPlane) -> None:
    assert plane.request("GET", "/version")["gitVersion"] == "v1.20.2"


def test_an_account_may_do_what_it_was_granted_and_nothing_else(plane: ControlPlane, namespace: str) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    plane.grant("worker", [JOBS | {"verbs": ["create", "get"]}], namespace=namespace)
    token = plane.token("worker", namespace=namespace)
    ask(plane, token, "POST", jobs, JOB)
    ask(plane, token, "GET", f"{jobs}/j")
    with pytest.raises(ApiError, match="cannot delete resource") as refused:
        ask(plane, token, "DELETE", f"{jobs}/j")
    assert refused.value.status == 403


def test_controllers_that_panic_are_back_in_a_moment(plane: ControlPlane) -> None:
    controllers = plane._programs["kube-controller-manager"]
    before = controllers.pid
    assert before is not None
    os.kill(before, signal.SIGQUIT)  # to which a Go program answers as to a bug of its own
    give_up_s = time.monotonic() + 60
    while controllers.pid in (None, before):
        assert time.monotonic() < give_up_s, "nobody has started them again"
        time.sleep(0.05)
    plane.clear_namespace(plane.create_namespace())  # they work


def test_a_verb_can_be_taken_away(plane: ControlPlane, namespace: str) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    plane.grant("worker", [JOBS | {"verbs": ["list", "get"]}], namespace=namespace)
    token = plane.token("worker", namespace=namespace)
    ask(plane, token, "GET", jobs)
    plane.grant("worker", [JOBS | {"verbs": ["get"]}], namespace=namespace)
    give_up_s = time.monotonic() + 10
    while may_list(plane, token, jobs):  # the server hears of its own rules by a watch
        assert time.monotonic() < give_up_s, "it may still list"
    ask_one = plane.request("POST", jobs, JOB)["metadata"]["name"]
    ask(plane, token, "GET", f"{jobs}/{ask_one}")


def may_list(plane: ControlPlane, token: str, path: str) -> bool:
    try:
        ask(plane, token, "GET", path)
    except ApiError as error:
        return error.status != 403
    return True


def test_without_a_token_nobody_is_anybody(plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        ask(plane, "wrong", "GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")
    assert refused.value.status == 401


def test_a_token_for_us_is_worth_nothing_to_the_api_server(plane: ControlPlane, namespace: str) -> None:
    plane.grant("pod", [JOBS | {"verbs": ["list"]}], namespace=namespace)
    token = plane.token("pod", namespace=namespace, audience="durableflow")
    with pytest.raises(ApiError) as refused:
        ask(plane, token, "GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")
    assert refused.value.status == 401


@pytest.mark.parametrize(("asked", "is_believed"), [("durableflow", True), ("somebody else", False)])
def test_a_token_is_reviewed_for_its_audience(
    plane: ControlPlane, namespace: str, asked: str, *, is_believed: bool
) -> None:
    plane.grant("pod", [], namespace=namespace)
    token = plane.token("pod", namespace=namespace, audience="durableflow")
    review = {"spec": {"token": token, "audiences": [asked]}}
    status = plane.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert status.get("authenticated", False) is is_believed
    if is_believed:
        assert status["user"]["username"] == f"system:serviceaccount:{namespace}:pod"
        assert status["audiences"] == ["durableflow"]


def test_it_is_the_same_after_a_crash_of_the_api_server(plane: ControlPlane, namespace: str) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    url, uid = plane.url, plane.request("POST", jobs, JOB)["metadata"]["uid"]
    token = plane.token("default", namespace=namespace)
    plane.stop_api_server()
    try:
        with pytest.raises(OSError, match="refused"):
            plane.request("GET", "/version")
    finally:
        plane.start_api_server()
    assert plane.url == url
    assert plane.request("GET", f"{jobs}/j")["metadata"]["uid"] == uid
    with pytest.raises(ApiError) as refused:
        ask(plane, token, "GET", jobs)
    assert refused.value.status == 403, "it knows the token, whose owner may nothing"


def test_kubectl_speaks_to_it(plane: ControlPlane, namespace: str) -> None:
    config = plane.kubeconfig("reader", [JOBS | {"verbs": ["list"]}], namespace=namespace)
    assert plane.kubectl("auth", "can-i", "list", "jobs", kubeconfig=config) == "yes\n"
    plane.kubectl("create", "job", "hello", "--image=fake/exec:1", "-n", namespace, "--", "true")
    assert "hello" in plane.kubectl("get", "jobs", kubeconfig=config)
    with pytest.raises(RuntimeError, match="cannot list resource"):
        plane.kubectl("get", "pods", kubeconfig=config)


def test_this_version_drops_the_suspension_of_a_job_without_a_word(plane: ControlPlane, namespace: str) -> None:
    made = plane.request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", JOB)
    assert "suspend" not in made["spec"]


def test_no_stranger_on_the_machine_gets_in(plane: ControlPlane) -> None:
    assert plane.folder.stat().st_mode & 0o077 == 0


ORPHAN = """
import os, sys
from pathlib import Path
from planekit.processes import Keeper, Program
folder = Path(sys.argv[1])
keeper = Keeper(folder)
programs = [Program(name, ["sh", "-c", "sleep 600 & wait"], folder, keeper) for name in ("first", "second", "stopped")]
for program in programs:
    program.start()
programs.pop().stop()
print(*[program.pid for program in programs], flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_is_left_of_a_plane_whose_owner_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "plane"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", ORPHAN, str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    groups = list(map(int, done.stdout.split()))
    assert len(groups) == 2
    give_up_s = time.monotonic() + 20
    while time.monotonic() < give_up_s and (folder.exists() or any(map(_is_alive, groups))):
        time.sleep(0.02)
    assert not folder.exists()
    assert not [group for group in groups if _is_alive(group)]


def _is_alive(group: int) -> bool:
    """Whether any process of it is."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_state_of(file) != "Z" for file in Path("/proc").glob("[0-9]*/stat") if _group_of(file) == group)


def _group_of(file: Path) -> int:
    return int(_fields(file)[2])


def _state_of(file: Path) -> str:
    return _fields(file)[0]


def _fields(file: Path) -> list[str]:
    """Of a process, after its name; as of one that has gone, if it has."""
    try:
        return file.read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0", "0"]


FATAL = """I1201 02:16:40.000000       1 main.go:1] started
F1201 02:16:50.000000       1 main.go:2] failed to wait for apiserver being healthy
goroutine 1 [running]:
"""


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (FATAL + "main.f()\n" * 5_000, "failed to wait for apiserver being healthy"),
        ("usage: \n" * 5_000 + "unknown flag: --x\n", "unknown flag: --x"),
    ],
)
def test_a_program_that_ends_by_itself_is_asked_why(tmp_path: Path, log: str, told: str) -> None:
    (tmp_path / "said").write_text(log)
    keeper = Keeper(tmp_path)
    program = Program("broken", ["sh", "-c", "cat said; exit 255"], tmp_path, keeper)
    program.start()
    with pytest.raises(PlaneUnavailable, match=f"broken ended with 255; it said: [^!]*{told}"):
        wait_until_it_ends(program)
    keeper.close()


def wait_until_it_ends(program: Program) -> None:
    give_up_s = time.monotonic() + 20
    while time.monotonic() < give_up_s:
        program.expect_running()
        time.sleep(0.01)

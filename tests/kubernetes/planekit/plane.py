"""The control plane: etcd, an API server, its controllers and its scheduler, in a folder that is gone afterwards.

Rules that this file keeps:

1. Nobody else on the machine gets in: nodes run what pods say. All listen on the loopback interface or on sockets in
   the folder, which is the owner's; every request needs a certificate or a token that was drawn anew.
2. Nothing is left: a keeper, which is a process of its own, sees its owner end in any way.
"""

import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from planekit import api
from planekit.api import ApiError, Document
from planekit.binaries import Binaries, PlaneUnavailable, find_binaries
from planekit.credentials import Authority, Certificate, write_signing_key, write_tokens
from planekit.processes import Keeper, Program

READY_TIMEOUT_S: Final = 120.0
RESTART_TIMEOUT_S: Final = 60.0
RESTARTS_MAX: Final = 3
"""An API server that is killed while it writes has been seen to come back and never be ready; a second start helps."""
# Below the ports that Linux gives to outgoing connections: one of those could take ours while the server is down.
PORTS: Final = range(15_000, 32_000)
AUDIENCE: Final = "https://kubernetes.default.svc"
CONTROLLERS: Final = (
    "job",
    "garbagecollector",
    "namespace",
    "serviceaccount",
    "root-ca-cert-publisher",
    "ttl-after-finished",
    "podgc",
    "nodelifecycle",
    "resourcequota",
    "disruption",
    "clusterrole-aggregation",
    "replicaset",
    "deployment",
)


class ControlPlane:
    """A real control plane, ready when `with ControlPlane() as plane:` has been entered.

    Its methods block; in `async` tests call what takes long by `asyncio.to_thread`.

    Args:
        node_grace_s: a node whose heartbeats have stopped for so long is taken for lost.
        eviction_s: pods of a lost node that tolerate nothing themselves are deleted after so many seconds
            (five minutes in the world outside).
        scheduler_backoff_s: the longest wait before a pod that fitted nowhere is tried again.
        features: gates beside those that every plane has, by name.
    """

    def __init__(
        self,
        *,
        node_grace_s: float = 3.0,
        eviction_s: int = 2,
        scheduler_backoff_s: int = 2,
        features: dict[str, bool] | None = None,
    ) -> None:
        self._node_grace_s = node_grace_s
        self._eviction_s = eviction_s
        self._scheduler_backoff_s = scheduler_backoff_s
        self._features = {"TTLAfterFinished": True, "BoundServiceAccountTokenVolume": True} | (features or {})
        self._folder: Path | None = None
        self._namespaces = 0

    def __enter__(self) -> Self:
        for is_last in (False, False, True):
            try:
                self._start()
            except BaseException as error:
                self.close()
                if is_last or "address already in use" not in str(error):  # somebody took a port that was free
                    raise
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return "ControlPlane(closed)" if self._folder is None else f"ControlPlane({self.url})"

    # -- life and death ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.binaries: Binaries = find_binaries()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="durableflow-plane-")).resolve()
        self.keeper = Keeper(folder)
        self.port = _free_port()
        self._programs: dict[str, Program] = {}
        etcd = self._program("etcd", self._etcd_command())
        etcd.start()
        self.authority = Authority(folder / "certificates")
        write_signing_key(folder / "accounts.key")
        users = ("admin", "system:kube-controller-manager", "system:kube-scheduler")
        self._tokens = write_tokens(folder / "tokens.csv", users, group="system:masters")
        self._write_kubeconfigs()
        server = self.authority.issue("server", user="kube-apiserver")
        kubelets = self.authority.issue("kubelet-client", user="kube-apiserver-kubelet-client")
        self._wait("etcd", lambda: b'"true"' in _get(folder / "localhost:2379", "/health"))
        self._program("kube-apiserver", self._api_command(server, kubelets)).start()
        self._program("kube-controller-manager", self._controllers_command())
        self._program("kube-scheduler", self._scheduler_command())
        # Not before: controllers that find no healthy server within ten seconds give up, and machines may be busy.
        self.wait_ready()
        self._programs["kube-controller-manager"].start()
        self._programs["kube-scheduler"].start()
        # The controllers are at work when they have made this account, without which no pod is admitted.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("kube-controller-manager", lambda: bool(self.request("GET", account)))

    def close(self) -> None:
        """End all that is in it, nodes' pods included, and remove its folder."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        for program in reversed(self._programs.values()):
            program.stop()
        self.keeper.close()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Block until the API server says that it is ready to serve."""
        self._wait("kube-apiserver", lambda: self.request("GET", "/readyz") == "ok", timeout_s)

    def stop_api_server(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Have it gone: at once, or by SIGTERM as it likes, which takes a minute while anybody watches."""
        self._programs["kube-apiserver"].stop(sign)

    def start_api_server(self) -> None:
        """Have it back, on the same port, with all that it had stored; returns when it is ready."""
        server = self._programs["kube-apiserver"]
        for _ in range(RESTARTS_MAX):
            server.start()
            try:
                return self.wait_ready(RESTART_TIMEOUT_S)
            except PlaneUnavailable:
                server.stop()
        raise PlaneUnavailable(f"kube-apiserver did not come back in {RESTARTS_MAX} starts: {server.last_words()}")

    def restart_api_server(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """As when its machine was lost and another has taken its place."""
        self.stop_api_server(sign)
        self.start_api_server()

    def stop_program(self, name: str) -> None:
        """Kill the scheduler or the controllers, which nobody notices until something has to be decided."""
        self._programs[name].stop()

    def start_program(self, name: str) -> None:
        self._programs[name].start()

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "the plane is closed"
        return self._folder

    @property
    def url(self) -> str:
        """Of the API server; the same after a restart."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def admin_token(self) -> str:
        return self._tokens["admin"]

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """Ask the API server as its administrator.

        Raises:
            ApiError: it said no.
            OSError: it did not answer.
        """
        certificate = self.authority.certificate
        return api.request(
            self.url, method, path, body, token=self.admin_token, authority=certificate, content_type=content_type
        )

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
        """What `kubectl` prints.

        Raises:
            RuntimeError: it failed; the message is what it said.
        """
        command = ["kubectl", "--kubeconfig", str(kubeconfig or self.admin), *arguments]
        done = subprocess.run(
            command,
            input=stdin,
            env={"HOME": str(self.folder), "PATH": str(self.binaries.kubectl.parent)},
            executable=self.binaries.kubectl,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def create_namespace(self, prefix: str = "test") -> str:
        """A new one, in which pods are admitted."""
        self._namespaces += 1
        name = f"{prefix}-{self._namespaces}"
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self._wait("kube-controller-manager", lambda: bool(self.request("GET", account)))
        return name

    def clear_namespace(self, name: str) -> None:
        """Take all its Jobs and pods away at once, so that none of them takes what another namespace waits for."""
        self.request("DELETE", f"/apis/batch/v1/namespaces/{name}/jobs", {"propagationPolicy": "Background"})
        self.request("DELETE", f"/api/v1/namespaces/{name}/pods", {"gracePeriodSeconds": 0})

    # -- who may come in -----------------------------------------------------------------------------------------------

    @property
    def admin(self) -> Path:
        """The kubeconfig of somebody who may do everything."""
        return self.folder / "admin.kubeconfig"

    def kubeconfig(
        self,
        account: str,
        rules: Sequence[Document] = (),
        *,
        namespace: str = "default",
        cluster_rules: Sequence[Document] = (),
        url: str | None = None,
    ) -> Path:
        """The kubeconfig of a service account that may do only this; called again, it may do only that.

        Args:
            account: its name; it is made if there is none.
            rules: of a Role in its namespace, as RBAC has them.
            cluster_rules: of a ClusterRole.
            url: of a proxy before the API server.
        """
        self.grant(account, rules, namespace=namespace, cluster_rules=cluster_rules)
        file = self.folder / f"{namespace}.{account}.{quote(url or '', safe='')}.kubeconfig"
        self._write_kubeconfig(file, self.token(account, namespace=namespace), namespace=namespace, url=url)
        return file

    def grant(
        self,
        account: str,
        rules: Sequence[Document],
        *,
        namespace: str = "default",
        cluster_rules: Sequence[Document] = (),
    ) -> None:
        """Let a service account do this, and nothing else that was granted here before."""
        self._put(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}})
        authorization = "/apis/rbac.authorization.k8s.io/v1"
        subjects = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
        inside = (f"{authorization}/namespaces/{namespace}/role", "Role", account, rules)
        outside = (f"{authorization}/clusterrole", "ClusterRole", f"{namespace}:{account}", cluster_rules)
        for path, kind, name, granted in (inside, outside):
            self._put(f"{path}s", {"metadata": {"name": name}, "rules": list(granted)})
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
            bound = {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects}
            self._put(f"{path}bindings", bound)

    def token(
        self, account: str, *, namespace: str = "default", audience: str = AUDIENCE, lifetime_s: int = 3_600
    ) -> str:
        """A token of a service account, as the API server signs it.

        Args:
            audience: who is to believe it; by default the API server itself.
            lifetime_s: ten minutes at least.
        """
        spec = {"audiences": [audience], "expirationSeconds": lifetime_s}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer: Document = self.request("POST", path, {"spec": spec})
        token: str = answer["status"]["token"]
        return token

    def node_certificate(self, name: str) -> Certificate:
        """What a node proves by that it is that node."""
        return self.authority.issue(f"node-{name}", user=f"system:node:{name}", group="system:nodes")

    # -- what it costs -------------------------------------------------------------------------------------------------

    def log(self, program: str) -> str:
        """All that it has said: "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"."""
        return self._programs[program].log()

    def memory_bytes(self) -> dict[str, int]:
        return {name: program.memory_bytes() for name, program in self._programs.items()}

    def cpu_s(self) -> dict[str, float]:
        return {name: program.cpu_s() for name, program in self._programs.items()}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _program(self, name: str, command: Sequence[str]) -> Program:
        program = self._programs[name] = Program(name, command, self.folder, self.keeper)
        return program

    def _wait(self, program: str, is_so: Any, timeout_s: float = READY_TIMEOUT_S) -> None:
        give_up_s = time.monotonic() + timeout_s
        last: Exception | None = None
        while time.monotonic() < give_up_s:
            for each in self._programs.values():
                each.expect_running()
            try:
                if is_so():
                    return
            except (OSError, ApiError) as error:
                last = error
            time.sleep(0.05)
        told = self._programs[program].last_words()
        raise PlaneUnavailable(f"{program} was not ready after {timeout_s} s ({last}); it said: {told}")

    def _put(self, path: str, document: Document) -> None:
        try:
            self.request("POST", path, document)
        except ApiError as error:
            if error.status != 409:
                raise
            self.request("PUT", f"{path}/{quote(document['metadata']['name'])}", document)

    def _write_kubeconfigs(self) -> None:
        for user, token in self._tokens.items():
            self._write_kubeconfig(self.folder / f"{user.removeprefix('system:')}.kubeconfig", token)

    def _write_kubeconfig(self, file: Path, token: str, *, namespace: str = "default", url: str | None = None) -> None:
        cluster = {"server": url or self.url, "certificate-authority": str(self.authority.certificate)}
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "plane",
            "clusters": [{"name": "plane", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "user", "namespace": namespace}}],
        }
        file.write_text(json.dumps(written))
        file.chmod(0o600)

    def _etcd_command(self) -> list[str]:
        # One member needs nobody's vote; the short election is what it waits for when it starts.
        return [
            str(self.binaries.etcd),
            "--name=plane",
            f"--data-dir={self.folder / 'etcd'}",
            "--listen-client-urls=unix://localhost:2379",
            "--advertise-client-urls=unix://localhost:2379",
            "--listen-peer-urls=unix://localhost:2380",
            "--initial-advertise-peer-urls=unix://localhost:2380",
            "--initial-cluster=plane=unix://localhost:2380",
            "--heartbeat-interval=20",
            "--election-timeout=200",
            "--log-level=warn",
        ]

    def _api_command(self, server: Certificate, kubelets: Certificate) -> list[str]:
        folder, authority = self.folder, self.authority.certificate
        return [
            str(self.binaries.server("kube-apiserver")),
            "--etcd-servers=unix://localhost:2379",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--advertise-address=192.0.2.1",  # told to nobody: the next line sees to that
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--client-ca-file={authority}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-issuer={AUDIENCE}",
            f"--service-account-key-file={folder / 'accounts.key'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-certificate-authority={authority}",
            f"--kubelet-client-certificate={kubelets.certificate}",
            f"--kubelet-client-key={kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--default-not-ready-toleration-seconds={self._eviction_s}",
            f"--default-unreachable-toleration-seconds={self._eviction_s}",
            f"--feature-gates={self._gates()}",
        ]

    def _controllers_command(self) -> list[str]:
        return [
            str(self.binaries.server("kube-controller-manager")),
            f"--kubeconfig={self.folder / 'kube-controller-manager.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--port=0",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.authority.certificate}",
            "--node-monitor-period=300ms",
            f"--node-monitor-grace-period={self._node_grace_s}s",
            "--node-startup-grace-period=30s",
            "--node-eviction-rate=10",
            "--secondary-node-eviction-rate=10",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--feature-gates={self._gates()}",
        ]

    def _scheduler_command(self) -> list[str]:
        file, address = self.folder / "scheduler.json", f"127.0.0.1:{_free_port()}"
        configuration = {
            "apiVersion": "kubescheduler.config.k8s.io/v1beta1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            # It will have a port, and the default is a fixed one; there it tells how it is, and takes no orders.
            "healthzBindAddress": address,
            "metricsBindAddress": address,
            "clientConnection": {
                "kubeconfig": str(self.folder / "kube-scheduler.kubeconfig"),
                "qps": 200,
                "burst": 400,
            },
            "podInitialBackoffSeconds": 1,
            "podMaxBackoffSeconds": self._scheduler_backoff_s,
        }
        file.write_text(json.dumps(configuration))
        binary = str(self.binaries.server("kube-scheduler"))
        return [binary, f"--config={file}", "--secure-port=0", f"--feature-gates={self._gates()}"]

    def _gates(self) -> str:
        return ",".join(f"{name}={str(is_on).lower()}" for name, is_on in self._features.items())


def _free_port() -> int:
    import random

    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PlaneUnavailable("no port is free")


def _get(file: Path, path: str) -> bytes:
    """What is answered on a socket in the file system."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(str(file))
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer

"""The programs of a control plane: found in a cache, else built there from Debian's source package.

Comes in: a machine whose apt knows Debian 12. Goes out: a folder with kube-apiserver, kube-controller-manager,
kube-scheduler, etcd and kubectl. Never enters: an installation: compiler and etcd are unpacked, not installed, so that
it needs no rights and leaves the machine as it was. The standard library is enough: `python binaries.py` builds before
anything else is there.

Rules that this file keeps:

1. A folder in the cache is whole: it is built under another name and renamed. Its own tells version and recipe.
2. One builds, others wait: the builder holds a lock of the operating system, which a killed one cannot keep.

Where the time goes, in seconds of CPU on the machine where this was measured: compiling {compile}, linking {link},
unpacking {unpack}, the API's description {openapi}. What makes it so few: no cloud providers (a quarter of all
packages), no debugging information, no garbage collection in the compiler, and one program under three names instead
of three.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

VERSION: Final = "1.20.2"
SERVERS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
GO: Final = "1.19"
PACKAGES: Final = (f"golang-{GO}-go", f"golang-{GO}-src", "etcd-server", "kubernetes-client")
CACHE_VARIABLE: Final = "DURABLEFLOW_PLANE_CACHE"
"""Another folder for the cache; by default it is `$XDG_CACHE_HOME/durableflow/kubernetes`."""

SOURCES: Final = Path("/etc/apt")
TOLD_CHARACTERS: Final = 3_000
# None of these is compiled, and unpacking costs time.
UNWANTED: Final = ("*_test.go", "*/testdata/*", "*/CHANGELOG/*", "*/cluster/*", "*/api/openapi-spec/*", "*/BUILD")
OPTIONS: Final = ("-tags=providerless", "-gcflags=all=-dwarf=false")
VENDORED: Final = "k8s.io/kubernetes/vendor/k8s.io"
VERSIONED: Final = (f"{VENDORED}/component-base/version", f"{VENDORED}/client-go/pkg/version")
API_GROUPS: Final = ("api", "apimachinery", "apiextensions-apiserver", "kube-aggregator", "apiserver/pkg/apis/audit")

MAIN: Final = """// Three programs in one: its name says which.
package main

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {
	rand.Seed(time.Now().UnixNano())
	var command *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		command = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		command = controllers.NewControllerManagerCommand()
	case "kube-scheduler":
		command = scheduler.NewSchedulerCommand()
	default:
		fmt.Fprintf(os.Stderr, "%q is none of its names\\n", name)
		os.Exit(2)
	}
	logs.InitLogs()
	defer logs.FlushLogs()
	if err := command.Execute(); err != nil {
		os.Exit(1)
	}
}
"""


class PlaneUnavailable(RuntimeError):
    """There is no control plane here that could be started; the message says what to install, or what it said."""


class Binaries(NamedTuple):
    """Programs that can be run."""

    folder: Path
    kubectl: Path

    @property
    def etcd(self) -> Path:
        return self.folder / "etcd"

    def server(self, name: str) -> Path:
        """One of SERVERS."""
        return self.folder / name


def find_binaries() -> Binaries:
    """From the cache; built if there are none, which takes minutes.

    Raises:
        PlaneUnavailable: this machine cannot build them.
    """
    folder = cache() / key()
    if not folder.exists():
        _build_once(folder)
    on_path = shutil.which("kubectl")
    return Binaries(folder, Path(on_path) if on_path else folder / "kubectl")


def is_cached() -> bool:
    """Whether `find_binaries` would answer at once."""
    return (cache() / key()).exists()


def cache() -> Path:
    """The folder of all versions."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "durableflow" / "kubernetes"


def key() -> str:
    """A name for what this file builds: the same recipe, the same name."""
    parts = (VERSION, GO, PACKAGES, UNWANTED, API_GROUPS, OPTIONS, VERSIONED, MAIN)
    recipe = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    return f"{VERSION}-{platform.machine()}-{recipe}"


def _build_once(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return
        for left in folder.parent.glob(f"{folder.name}.building-*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
        try:
            done = building / "done"
            done.mkdir()
            _Build(building).make(done)
            done.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


class _Build:
    """One build in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder / "root"
        self._tree = folder / "go" / "src" / "k8s.io" / "kubernetes"
        self._begun_s = time.monotonic()

    def make(self, target: Path) -> None:
        for program in ("apt-get", "dpkg-deb", "tar"):
            if shutil.which(program) is None:
                raise PlaneUnavailable(
                    f"there is no {program} here: a control plane is built from Debian 12's packages"
                )
        self._download()
        self._say("unpacking")
        self._unpack()
        self._say("describing the API")
        self._describe_api()
        self._say("compiling")
        plane = target / "plane"
        self._compile(plane)
        for name in SERVERS:
            (target / name).symlink_to(plane.name)
        for name in ("etcd", "kubectl"):
            shutil.copy2(self._root / "usr" / "bin" / name, target / name)
        self._say("done")

    def _say(self, what: str) -> None:
        used = os.times()
        cpu_s = used.children_user + used.children_system
        print(
            f"kubernetes {VERSION}: {what} ({time.monotonic() - self._begun_s:.0f} s, {cpu_s:.0f} s of CPU)", flush=True
        )

    def _download(self) -> None:
        """By apt, which checks signatures, in a state of its own; the sources are the machine's."""
        state = self._folder / "apt"
        for place in ("parts", "lists/partial", "cache/archives/partial"):
            (state / place).mkdir(parents=True)
        for file in (*SOURCES.glob("sources.list.d/*.sources"), *SOURCES.glob("sources.list.d/*.list")):
            shutil.copy(file, state / "parts")
        if (SOURCES / "sources.list").exists():
            shutil.copy(SOURCES / "sources.list", state / "parts" / "machine.list")
        for file in (state / "parts").glob("*.sources"):
            file.write_text(file.read_text().replace("Types: deb\n", "Types: deb deb-src\n"))
        for file in (state / "parts").glob("*.list"):
            lines = [line for line in file.read_text().splitlines() if line.startswith("deb ")]
            file.write_text("".join(f"{line}\ndeb-src {line.removeprefix('deb ')}\n" for line in lines))
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(state / "parts"),
            "Dir::State::lists": str(state / "lists"),
            "Dir::Cache": str(state / "cache"),
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        self._say("asking for packages")
        with suppress(PlaneUnavailable):  # one source that is out of reach need not be the one that is wanted
            self._run(["apt-get", *options, "-qq", "update"])
        debs = self._folder / "debs"
        debs.mkdir()
        self._run(["apt-get", *options, "-qq", "download", *PACKAGES], where=debs)
        self._run(["apt-get", *options, "-qq", "--download-only", "--tar-only", "source", "kubernetes"], where=debs)

    def _unpack(self) -> None:
        for deb in (self._folder / "debs").glob("*.deb"):
            self._run(["dpkg-deb", "--extract", str(deb), str(self._root)])
        (source,) = (self._folder / "debs").glob("kubernetes_*.orig.tar.*")
        if VERSION not in source.name:
            raise PlaneUnavailable(f"Debian 12 has kubernetes {VERSION}, but apt gave {source.name}")
        self._tree.mkdir(parents=True)
        unwanted = [f"--exclude={pattern}" for pattern in UNWANTED]
        self._run(["tar", "-xf", str(source), "-C", str(self._tree), "--strip-components=1", *unwanted])
        main = self._tree / "cmd" / "plane" / "main.go"
        main.parent.mkdir()
        main.write_text(MAIN)

    def _describe_api(self) -> None:
        """The one generated file that the source does not contain: what `kubectl` and server-side apply go by."""
        generator = self._folder / "openapi-gen"
        self._go("build", "-o", str(generator), "k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen")
        marked = set[str]()
        for group in API_GROUPS:
            folder = self._tree / "staging" / "src" / "k8s.io" / group
            marked |= {
                f"k8s.io/kubernetes/vendor/{file.parent.relative_to(self._tree / 'staging' / 'src')}"
                for file in folder.rglob("*.go")
                if b"\n// +k8s:openapi-gen=" in file.read_bytes()
            }
        command = [str(generator), "--logtostderr", "-i", ",".join(sorted(marked)), "-O", "zz_generated.openapi"]
        command += ["-p", "k8s.io/kubernetes/pkg/generated/openapi", "-r", str(self._folder / "violations")]
        command += ["-h", "hack/boilerplate/boilerplate.generatego.txt"]
        self._run(command, where=self._tree, environment=self._environment())

    def _compile(self, target: Path) -> None:
        major, minor, _ = VERSION.split(".")
        told = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
        set_to = [f"-X {package}.{name}={value}" for package in VERSIONED for name, value in told.items()]
        linker = " ".join(["-s", "-w", *set_to])
        self._go("build", *OPTIONS, f"-ldflags={linker}", "-o", str(target), "./cmd/plane")

    def _go(self, *arguments: str) -> None:
        go = self._root / "usr" / "lib" / f"go-{GO}" / "bin" / "go"
        self._run([str(go), *arguments], where=self._tree, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        """For the compiler, without modules and without the machine's own settings of Go."""
        root = self._root / "usr" / "lib" / f"go-{GO}"
        return {
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "GOROOT": str(root),
            "GOPATH": str(self._folder / "go"),
            "GOCACHE": str(self._folder / "compiled"),
            "GO111MODULE": "off",
            "GOPROXY": "off",
            "CGO_ENABLED": "0",
            "GOGC": "400",  # as much faster as none at all, and in half the memory
        }

    def _run(
        self, command: Sequence[str], *, where: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        done = subprocess.run(
            command,
            cwd=where or self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PlaneUnavailable(f"{' '.join(command)[:300]} failed; it said: {done.stdout[-TOLD_CHARACTERS:]}")


if __name__ == "__main__":
    print(find_binaries().folder)
    sys.exit(0)

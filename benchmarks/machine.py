"""What the numbers were measured on."""

import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

from benchmarks.load import quantile


def facts(scratch: Path) -> dict[str, str]:
    """The machine and the disk under `scratch`, where all contenders keep their files: what stays."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite (of this python)": sqlite3.sqlite_version,
        "file system": _filesystem(scratch),
    }


def conditions(scratch: Path) -> dict[str, str]:
    """How busy the machine and its disk are just now."""
    p50_us, p99_us = _sync_us(scratch)
    return {
        "fdatasync of 4 KiB": f"p50 {p50_us:.0f} µs, p99 {p99_us:.0f} µs",
        "load average at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _filesystem(path: Path) -> str:
    """The type of the mount that holds `path`: the longest mount point that is a parent of it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mount_kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, mount_kind
    return kind


def _sync_us(directory: Path, *, times: int = 200) -> tuple[float, float]:
    """Median and 99th percentile of one durable append: the floor under every commit's latency."""
    took_us = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(times):
            file.write(os.urandom(4096))
            file.flush()
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            took_us.append((time.perf_counter() - began_s) * 1e6)
    return quantile(took_us, 0.5), quantile(took_us, 0.99)

"""Activities that are Jobs on Kubernetes.

In: an activity that is called, and what an API server says. Out: a Job, and one end of the attempt. Never: a coroutine
that waits for a Job, a counter of Kubernetes' as proof of anything, a secret in a Job or a history.

Two halves. The pure one: `spec`, `identity`, `manifest` (activity to documents), `documents`, `seen`, `outcome` (what
was seen to what became of it), `envelope`. The talking one speaks to servers. A name's module is loaded when the name
is asked for: `from durableflow.kubernetes import runtime`, in a pod, needs the standard library alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durableflow.kubernetes import runtime
    from durableflow.kubernetes.activity import GpuJob, gpu_job
    from durableflow.kubernetes.connection import configured
    from durableflow.kubernetes.informer import Times
    from durableflow.kubernetes.jobs import KubernetesJobs
    from durableflow.kubernetes.objects import FolderStore, ObjectStore
    from durableflow.kubernetes.s3 import S3Credentials, S3Store
    from durableflow.kubernetes.spec import Gpu, SecretKey, Toleration, Volume
    from durableflow.kubernetes.statistics import JobStatistics
else:  # unseen by type checkers, to whom a module with `__getattr__` would have every name
    from importlib import import_module

    _HOMES = {
        "FolderStore": "objects",
        "Gpu": "spec",
        "GpuJob": "activity",
        "JobStatistics": "statistics",
        "KubernetesJobs": "jobs",
        "ObjectStore": "objects",
        "S3Credentials": "s3",
        "S3Store": "s3",
        "SecretKey": "spec",
        "Times": "informer",
        "Toleration": "spec",
        "Volume": "spec",
        "configured": "connection",
        "gpu_job": "activity",
    }

    def __getattr__(name: str) -> object:
        if name == "runtime":
            return import_module("durableflow.kubernetes.runtime")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'durableflow.kubernetes' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"durableflow.kubernetes.{home}"), name)
        return value


__all__ = [
    "FolderStore",
    "Gpu",
    "GpuJob",
    "JobStatistics",
    "KubernetesJobs",
    "ObjectStore",
    "S3Credentials",
    "S3Store",
    "SecretKey",
    "Times",
    "Toleration",
    "Volume",
    "configured",
    "gpu_job",
    "runtime",
]

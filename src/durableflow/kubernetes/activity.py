"""`gpu_job`: an activity whose attempts are Jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from durableflow import Activity, HandedOver, RetryPolicy, activity_context
from durableflow.authoring.activity import store_options
from durableflow.authoring.registry import DEFAULT
from durableflow.kubernetes.manifest import check_template
from durableflow.kubernetes.runners import runner_of
from durableflow.kubernetes.spec import Gpu, JobSpec, ResultMode, SecretKey, Toleration, Verdict, Volume
from durableflow.model import converter
from durableflow.model.duration import Duration

R = TypeVar("R")
_LOSSES: Final = 100
"""Attempts that were lost while they submitted have done no harm: the next one adopts."""
_OWN_TIMES: Final = "a GPU job has no {}: the engine would end the attempt and leave its Job; use {} of gpu_job()"
_OWN_QUEUES: Final = (
    "a GPU job has left its worker while it runs, so a queue of the engine's would bound how many are being sent, not "
    "how many there are; use queue_name and priority_class of gpu_job(), or a ResourceQuota, or start the instances "
    "through a queue"
)


class GpuJob(Activity[[object], R]):
    """An activity each of whose attempts is a Job; made by `gpu_job`.

    Attributes:
        spec: what is the same for every Job.
        cluster: the `KubernetesJobs` that sends them.
    """

    spec: JobSpec
    cluster: str

    def options(
        self,
        *,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Self:
        """This activity with other options for one call.

        Raises:
            ValueError: an option that a Job has in another form, or not at all.
        """
        if timeout is not None:
            raise ValueError(_OWN_TIMES.format("timeout", "active_deadline and schedule_timeout"))
        if heartbeat_timeout is not None:
            raise ValueError(_OWN_TIMES.format("heartbeat_timeout of the engine's", "heartbeat_timeout"))
        if queue is not None or priority is not None or fairness_key is not None:
            raise ValueError(_OWN_QUEUES)
        return super().options(
            retry=None if retry is None else _policy(retry),
            schedule_to_start=schedule_to_start,
            schedule_to_close=schedule_to_close,
        )


def gpu_job(
    name: str,
    *,
    image: str,
    result: type[R],
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    env_from_secrets: Mapping[str, SecretKey] | None = None,
    volumes: Sequence[Volume] = (),
    gpu: Gpu | None = None,
    cpu: str | None = None,
    memory: str | None = None,
    node_selector: Mapping[str, str] | None = None,
    tolerations: Sequence[Toleration] = (),
    service_account: str | None = None,
    priority_class: str | None = None,
    queue_name: str | None = None,
    active_deadline: Duration | None = None,
    schedule_timeout: Duration | None = None,
    image_pull_grace: Duration = timedelta(minutes=5),
    config_grace: Duration = timedelta(minutes=1),
    node_lost_timeout: Duration = timedelta(minutes=2),
    grace_period: Duration = timedelta(seconds=30),
    heartbeat_timeout: Duration | None = None,
    ttl: Duration = timedelta(days=7),
    exit_codes: Mapping[int, Verdict] | None = None,
    result_mode: ResultMode = "required",
    infrastructure_retries: int = 10,
    template: Mapping[str, Any] | None = None,
    retry: RetryPolicy | int | None = None,
    schedule_to_close: Duration | None = None,
    cluster: str = "default",
) -> GpuJob[R]:
    """An activity whose attempts are Jobs.

    Write it where you would write a function: `train = gpu_job("train", image="trainer:1", result=TrainResult)`.

    A workflow calls it with one argument, which the pod reads by `runtime.load_input()`. See `JobSpec` for what is not
    said here.

    Args:
        name: what histories know it by; also part of the names of its Jobs.
        result: the type that the pod's result is read as.
        result_mode: whether there must be one.
        retry: for attempts that failed by themselves; those that failed by infrastructure are not counted.
        schedule_to_close: of everything, all attempts and waits included.
        cluster: the `KubernetesJobs` that sends them.

    Raises:
        ValueError: an option that no server would take, or a template that touches what is the adapter's.
        RegistrationError: another activity has this name.
    """
    spec = JobSpec(
        image=image,
        command=tuple(command),
        args=tuple(args),
        env=dict(env or {}),
        env_from_secrets=dict(env_from_secrets or {}),
        volumes=tuple(volumes),
        gpu=gpu,
        cpu=cpu,
        memory=memory,
        node_selector=dict(node_selector or {}),
        tolerations=tuple(tolerations),
        service_account=service_account,
        priority_class=priority_class,
        queue_name=queue_name,
        active_deadline=active_deadline,
        schedule_timeout=schedule_timeout,
        image_pull_grace=image_pull_grace,
        config_grace=config_grace,
        node_lost_timeout=node_lost_timeout,
        grace_period=grace_period,
        heartbeat_timeout=heartbeat_timeout,
        ttl=ttl,
        exit_codes=dict(exit_codes or {}),
        result=result_mode,
        infrastructure_retries=infrastructure_retries,
        template=dict(template or {}),
    )
    check_template(spec.template)

    async def attempt(given: object) -> R:
        data = converter.dump(given, f"the argument of activity {name!r}")
        runner = await runner_of(cluster)
        await runner.submit(made, activity_context(), data)
        raise HandedOver

    attempt.__annotations__ = {"given": Any, "return": result}
    options = store_options(_policy(retry or 3), None, None, schedule_to_close, None)
    made: GpuJob[R] = GpuJob(attempt, name=name, stored_options=options)
    made.spec = spec
    made.cluster = cluster
    DEFAULT.offer_activity(cast("Activity[..., Any]", made))
    return made


def _policy(retry: RetryPolicy | int) -> RetryPolicy:
    policy = RetryPolicy(max_attempts=retry) if isinstance(retry, int) else retry
    return msgspec.structs.replace(policy, uncounted_losses=max(policy.uncounted_losses, _LOSSES))

"""Training on GPUs: a workflow that tries several learning rates side by side, each on a GPU node of its own."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from durableflow import ActivityFailed, Context, Flow, RetryPolicy, workflow
from durableflow.kubernetes import Gpu, Toleration, gpu_job

PROGRAM = Path(__file__).parent / "pod" / "train.py"


@dataclass
class TrainInput:
    """What a pod reads."""

    rate: float
    epochs: int


@dataclass
class TrainResult:
    """What it says in the end."""

    loss: float
    job: str


train = gpu_job(
    "train",
    image=os.environ.get("TRAIN_IMAGE", "python:3.12-slim"),
    command=["python", "-c", PROGRAM.read_text(encoding="utf-8")],  # an image of yours has its program inside
    gpu=Gpu(count=1),
    tolerations=[Toleration(key="nvidia.com/gpu", effect="NoSchedule")],
    result=TrainResult,
    schedule_timeout=timedelta(hours=6),
    active_deadline=timedelta(hours=2),
    exit_codes={42: "fatal"},
    retry=RetryPolicy(max_attempts=3, initial=1.0, no_retry_on=["Diverged"]),
)


@workflow
def tune(ctx: Context, rates: list[float]) -> Flow[str]:
    """The best of several trainings. Those that diverge are left out; the others are retried, and found again."""
    tasks = [ctx.call_activity(train, TrainInput(rate, epochs=20)) for rate in rates]
    losses: dict[str, float] = {}
    for rate, task in zip(rates, tasks, strict=True):
        try:
            result = yield from task
        except ActivityFailed as error:
            ctx.logger.warning("rate %s: %s: %s", rate, error.type_name, error.message)
        else:
            losses[f"rate {rate} in Job {result.job}"] = result.loss
        ctx.set_custom_status(f"{len(losses)} of {len(rates)} trained")
    return min(losses, key=lambda each: losses[each]) if losses else "none converged"

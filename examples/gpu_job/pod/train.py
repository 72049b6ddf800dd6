"""What runs in the pod: it needs the standard library and durableflow's sources, nothing else."""

import os
import time

from durableflow.kubernetes import runtime

given = runtime.load_input()
first, loss = runtime.details() or (0, 1.0)  # of an attempt that was interrupted
for epoch in range(first, given["epochs"]):
    loss *= 1 - given["rate"]
    time.sleep(0.02)
    if abs(loss) > 1e6:
        runtime.fail("Diverged", f"the loss is {loss:g} in epoch {epoch}", retryable=False)
    if not runtime.heartbeat([epoch + 1, loss]):
        runtime.fail("Interrupted", f"told to stop in epoch {epoch}")
print(f"trained with rate {given['rate']}: loss {loss:g}", flush=True)
runtime.complete({"loss": abs(loss), "job": os.environ["DURABLEFLOW_JOB"]})

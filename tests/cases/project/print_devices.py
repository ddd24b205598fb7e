"""Joins the process group, and prints what this process takes. Started by a launcher."""

import os

import jax

from aetheria.hardware.jax.distributed import JaxProcessGroup
from aetheria.hardware.jax.mesh import name_devices
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import detect_launch

launch = detect_launch(os.environ, DistributedConfig())
assert launch is not None
group = JaxProcessGroup(launch, initialization_timeout=60.0, heartbeat_timeout=30.0)
lines = group.describe_devices(name_devices(jax.local_devices()))
print(group.index, "sees", jax.config.values["jax_cuda_visible_devices"], flush=True)
if group.index == 0:
    print(*lines, sep="\n", flush=True)

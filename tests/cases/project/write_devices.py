"""Joins the process group, and writes what this process takes into a file of its own: on stdout,
lines of two processes and of Gloo mix. Started by a launcher.
"""

import os
from pathlib import Path

import jax

from aetheria.hardware.jax.distributed import JaxProcessGroup
from aetheria.hardware.jax.mesh import name_devices
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import detect_launch

launch = detect_launch(os.environ, DistributedConfig())
assert launch is not None
group = JaxProcessGroup(launch, initialization_timeout=60.0, heartbeat_timeout=30.0)
lines = group.describe_devices(name_devices(jax.local_devices()))
seen = f"{group.index} sees {jax.config.values['jax_cuda_visible_devices']}"
Path(f"{group.index}.txt").write_text("\n".join([seen, *(lines if group.index == 0 else [])]))

"""`aetheria plan`: what a run would ask of each of many devices, on a machine without them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aetheria.config import Config
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode, HardwareError
from aetheria.hardware.virtual_devices import flags_for_devices
from aetheria.tools.plan.text import describe

MAX_DEVICES = 2048  # the CPU backend of one process fails beyond (jax 0.10.2: 4,096 do not start)


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Command: plans what a config describes for a mesh of devices.

    Attributes:
        config_file: `.py`, `.yaml` or `.json`.
        overrides: `key=value` texts applied to it.
        project: the project folder; None: found from the config file.
        traceback: print the whole traceback of an error, not the user's own frames alone.
        devices: how many; None: as many as the mesh has.
        mesh: axis -> size; None: the config's, or all devices on `data`.
        machine: what a device can do: fields of `aetheria.tools.plan.Machine`.
        as_json: print JSON, nothing else.
    """

    config_file: Path
    overrides: tuple[str, ...] = ()
    project: str | Path | None = None
    traceback: bool = False
    devices: int | None = None
    mesh: Mapping[str, int] | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    as_json: bool = False

    def execute(self) -> int:
        """Plans, prints, and returns the exit code.

        Raises:
            AetheriaError: the config or the mesh is wrong.
        """
        from aetheria.plugins.discovery import find_project

        config = load_config(self.config_file, self.overrides)
        mesh = self._mesh_of(config)
        request = {
            "config": {**config.to_dict(), "strategy": "mesh", "mesh": mesh},
            "config_name": self.config_file.stem,
            "project": str(find_project(self.config_file, self.project)),
            "machine": dict(self.machine),
            "traceback": self.traceback,
        }
        done = _run_with_devices(math.prod(mesh.values()), json.dumps(request))
        if done.returncode == ExitCode.USER_ERROR:
            raise AetheriaError(*json.loads(done.stdout)["problems"])
        if done.returncode:
            return int(ExitCode.FAILED)  # what went wrong is on stderr
        plan = json.loads(done.stdout)
        print(json.dumps(plan, indent=2) if self.as_json else "\n".join(describe(plan)))
        return int(ExitCode.OK)

    def _mesh_of(self, config: Config) -> dict[str, int]:
        mesh = dict(config.mesh if self.mesh is None else self.mesh)
        if not mesh:
            if self.devices is None:
                raise HardwareError("plan: expected --devices or --mesh, got none; add one")
            mesh = {"data": self.devices}
        size = math.prod(mesh.values())
        shape = " x ".join(f"{axis}={size}" for axis, size in mesh.items())
        if self.devices not in (None, size):
            raise HardwareError(
                f"mesh: expected sizes whose product is {self.devices} (--devices), got {size} "
                f"({shape}); change one of them"
            )
        if not 1 <= size <= MAX_DEVICES:
            raise HardwareError(
                f"plan: expected 1 to {MAX_DEVICES} devices, got {size} ({shape}); "
                "one process has no more virtual ones"
            )
        return mesh


def _run_with_devices(num_devices: int, request: str) -> subprocess.CompletedProcess[str]:
    """Answers a request in a process of its own: jax reads the number of devices as it starts."""
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",  # XLA warns of slow collectives; the plan lists them
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags_for_devices(os.environ, num_devices),
    }
    return subprocess.run(
        [sys.executable, "-m", "aetheria.tools.plan"],
        input=request,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )

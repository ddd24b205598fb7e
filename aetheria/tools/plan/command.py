"""`aetheria plan`: what a run needs of each of many devices, on a machine without them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag, Section
from aetheria.config import Config
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode, HardwareError
from aetheria.hardware.virtual_devices import flags_for_devices
from aetheria.tools.plan.machine import Machine

MAX_DEVICES = 2048  # more fail in the CPU backend of one process (jax 0.10.2: 4,096 do not start)


@dataclass(frozen=True, kw_only=True)
class PlanCommand(ConfigFields):
    """Reports what a run needs of each of many devices, on a machine without them.

    Examples:
        aetheria plan configs/lm.py --devices=64 --mesh=data=8,fsdp=8
        aetheria plan config.yaml --memory=80GB --json

    Exit codes:
        0: planned
        2: a mistake

    Attributes:
        devices: the number of devices, up to 2048 (default: the size of the mesh).
        mesh: the sizes of the axes, such as data=16,fsdp=8,tensor=8 (default: the mesh of the
            config, or all devices on the axis data).
        machine: what each device can do.
        as_json: print only JSON.
    """

    devices: Annotated[int | None, Flag(values.positive("a number"), "N")] = None
    mesh: Annotated[Mapping[str, int] | None, Flag(values.mesh, "AXIS=N,...")] = None
    as_json: Annotated[bool, Flag(name="json")] = False
    machine: Annotated[Machine, Section("Each device (the defaults are those of an H100)")] = (
        Machine()
    )

    def execute(self) -> int:
        """Compiles, prints the plan, and returns the exit code.

        Raises:
            AetheriaError: the config or the mesh is wrong.
        """
        # Imported late, as in every command: `aetheria --help` loads no numpy.
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.plan.text import describe

        config = load_config(self.config_file, self.overrides)
        mesh = self._mesh_of(config)
        request = {
            "config": {**config.to_dict(), "strategy": "mesh", "mesh": mesh},
            "config_name": self.config_file.stem,
            "project": str(find_project(self.config_file, self.project)),
            "machine": asdict(self.machine),
            "traceback": self.traceback,
        }
        done = _run_with_devices(math.prod(mesh.values()), json.dumps(request))
        if done.returncode == ExitCode.USER_ERROR:
            raise AetheriaError(*json.loads(done.stdout)["problems"])
        if done.returncode:
            return int(ExitCode.FAILED)  # the reason is on stderr
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
                "one process has no more virtual devices"
            )
        return mesh


def _run_with_devices(num_devices: int, request: str) -> subprocess.CompletedProcess[str]:
    """Plans in a child process, because jax reads the number of devices when it starts."""
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

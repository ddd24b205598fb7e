"""Finds out whether this process is one of several, from what its launcher left in the environment.

Knows no framework: the answer is needed before one starts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aetheria.errors import HardwareError
from aetheria.protocols import JoinOptions

_FIRST_PORT, _NUM_PORTS = 61000, 4000  # beyond what systems hand out to clients by default


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process of several that run together.

    Attributes:
        coordinator: `host:port` at which process 0 listens.
        index: this process's number.
        count: how many there are.
        source: who says so, for messages.
    """

    coordinator: str
    index: int
    count: int
    source: str


def detect_launch(environ: Mapping[str, str], options: JoinOptions) -> Launch | None:
    """Takes the explicit settings, else those of `torchrun`, else those of `srun`; None where this
    process is on its own, such as in a batch script that did not call `srun`.

    Raises:
        HardwareError: settings that are incomplete or contradict each other.
    """
    explicit = (options.coordinator, options.process_id, options.num_processes)
    if any(value is not None for value in explicit):
        coordinator, index, count = explicit
        if coordinator is None or index is None or count is None:
            raise HardwareError(
                "--coordinator, --process-id, --num-processes: expected all three, got "
                f"{coordinator}, {index}, {count}; give the missing ones"
            )
        return _checked(coordinator, index, count, "--coordinator")
    return _from_torchrun(environ) or _from_srun(environ)


def _from_torchrun(environ: Mapping[str, str]) -> Launch | None:
    if "TORCHELASTIC_RUN_ID" not in environ or int(environ.get("WORLD_SIZE", "1")) == 1:
        return None
    # torchrun's own agent listens at MASTER_PORT.
    address = f"{environ['MASTER_ADDR']}:{int(environ['MASTER_PORT']) + 1}"
    return _checked(address, int(environ["RANK"]), int(environ["WORLD_SIZE"]), "torchrun")


def _from_srun(environ: Mapping[str, str]) -> Launch | None:
    # SLURM_NTASKS alone is set in a batch script too, which is no task of a step.
    nodes, count = environ.get("SLURM_STEP_NODELIST"), environ.get("SLURM_STEP_NUM_TASKS")
    if nodes is None or count is None or int(count) == 1:
        return None
    job, step = int(environ.get("SLURM_JOB_ID", "0")), int(environ.get("SLURM_STEP_ID", "0"))
    port = _FIRST_PORT + (job * 31 + step) % _NUM_PORTS
    return _checked(f"{first_host(nodes)}:{port}", int(environ["SLURM_PROCID"]), int(count), "srun")


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list.

    >>> first_host("n[07-12,15],m3"), first_host("gpu-a,gpu-b")
    ('n07', 'gpu-a')
    """
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodelist)
    assert match is not None, nodelist
    return "".join(group or "" for group in match.groups())


def _checked(coordinator: str, index: int, count: int, source: str) -> Launch | None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise HardwareError(f"{source}: expected host:port, got {coordinator!r}; write it so")
    if not 0 <= index < count:
        raise HardwareError(
            f"{source}: expected a process number from 0 to {count - 1}, got {index}; change it"
        )
    if count == 1:
        return None
    return Launch(coordinator=coordinator, index=index, count=count, source=source)

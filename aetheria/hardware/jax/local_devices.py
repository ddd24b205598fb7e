"""Which of its machine's accelerators a process takes. Starts no backend, and imports no framework.

JAX's own rule takes one GPU for each task under `srun`, even where a node has one task, and all
GPUs for each process under `torchrun`, which JAX does not know.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from aetheria.errors import HardwareError
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.launch_variables import LauncherVariables

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def choose_local_devices(
    launch: Launch, environ: Mapping[str, str], *, num_gpus: int | None, uses_gpu: bool
) -> tuple[int, ...] | None:
    """Chooses the accelerators of this process, as numbers among those it can see; None: all.

    `JAX_LOCAL_DEVICE_IDS` decides where it is set. One process on a machine takes all, and so does
    each process whose launcher shows it only its own. Several processes that see the same ones take
    equal parts, in order: one each, or 0–1, 2–3, … of eight for four.

    Args:
        launch: which of its machine's processes this is.
        environ: the process's environment.
        num_gpus: how many GPUs the process can see; None: unknown.
        uses_gpu: whether JAX would use a GPU. If not, nothing is refused.

    Raises:
        HardwareError: the GPUs cannot be shared equally.
    """
    if listed := environ.get("JAX_LOCAL_DEVICE_IDS", "").strip():
        return _listed(listed)
    index, count = launch.local_index, launch.local_count
    if index is None or count == 1:
        return None
    if count is None or not num_gpus:
        return (index,)
    if launch.source == "srun" and num_gpus < (_gpus_on_node(environ) or 0):
        return None  # srun binds each task to its own GPUs, numbered from 0
    each, rest = divmod(num_gpus, count)
    if each and not rest:
        return tuple(range(index * each, (index + 1) * each))
    if not uses_gpu:
        return (index,)
    fitting = ", ".join(str(n) for n in range(1, num_gpus + 1) if num_gpus % n == 0)
    raise HardwareError(
        f"{launch.source}: expected a number of processes that divides the {num_gpus} GPUs of "
        f"this machine, got {count}; start {fitting} on each machine, or set "
        "CUDA_VISIBLE_DEVICES, or JAX_PLATFORMS=cpu"
    )


def count_visible_gpus(environ: Mapping[str, str], root: Path = Path("/")) -> int | None:
    """Counts the GPUs this process can see, without starting a backend; None: unknown.

    Args:
        environ: the process's environment.
        root: the folder of `dev` and `sys`.
    """
    for name in _VISIBLE:
        if name in environ:
            return _count_listed(environ[name])
    if nvidia := [p for p in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]:
        return len(nvidia)
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    if amd := sum(_read_text(node) not in ("", "0") for node in nodes):
        return amd
    return _gpus_on_node(environ)


def _listed(text: str) -> tuple[int, ...]:
    ids = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in ids) or len(set(ids)) < len(ids):
        raise HardwareError(
            f"JAX_LOCAL_DEVICE_IDS: expected numbers such as 0,1, got {text[:100]!r}; change it"
        )
    return tuple(int(part) for part in ids)


def _count_listed(text: str) -> int:
    """Counts as CUDA does, which stops at the first entry that names no device.

    >>> _count_listed("0,1,-1,3"), _count_listed("GPU-8932f937"), _count_listed("")
    (2, 1, 0)
    """
    count = 0
    for part in text.split(","):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", part.strip()):
            break
        count += 1
    return count


def _gpus_on_node(environ: Mapping[str, str]) -> int | None:
    return LauncherVariables(environ, "srun").optional_number("SLURM_GPUS_ON_NODE")


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

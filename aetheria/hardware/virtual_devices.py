"""The variables that leave jax the CPU alone, or split it into several virtual devices; jax reads
them when it starts.
"""

import re
from collections.abc import Mapping, MutableMapping

_PLATFORMS = "JAX_PLATFORMS"
_FLAG = "--xla_force_host_platform_device_count"


def num_virtual_devices(environ: Mapping[str, str]) -> int | None:
    """The number of virtual devices that the environment asks for; None: it does not set any.

    >>> num_virtual_devices({"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"})
    8
    """
    counts = re.findall(rf"{_FLAG}=(\d+)", environ.get("XLA_FLAGS", ""))
    return int(counts[-1]) if counts else None


def flags_for_devices(environ: Mapping[str, str], count: int) -> str:
    """The value of XLA_FLAGS in the environment, changed to `count` virtual devices.

    >>> flags_for_devices({"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"}, 2)
    '--a=1 --xla_force_host_platform_device_count=2'
    """
    flags = [f for f in environ.get("XLA_FLAGS", "").split() if not f.startswith(_FLAG)]
    return " ".join([*flags, f"{_FLAG}={count}"])


def hide_gpus(environ: MutableMapping[str, str]) -> None:
    """Hides GPUs from jax, unless the user has chosen its platforms.

    >>> environ, chosen = {}, {"JAX_PLATFORMS": "cuda"}
    >>> hide_gpus(environ), hide_gpus(chosen), environ, chosen
    (None, None, {'JAX_PLATFORMS': 'cpu'}, {'JAX_PLATFORMS': 'cuda'})
    """
    environ.setdefault(_PLATFORMS, "cpu")


def stay_where_it_was(environ: MutableMapping[str, str], machine: Mapping[str, object]) -> None:
    """Leaves jax the CPU alone if a run, of whose record `machine` is part, had no other device: a
    GPU rounds otherwise, so that nothing would be as it was.
    """
    if machine.get("platform") == "cpu":
        hide_gpus(environ)

"""The XLA flag that splits a CPU into several virtual devices; jax reads it when it starts."""

import re
from collections.abc import Mapping

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

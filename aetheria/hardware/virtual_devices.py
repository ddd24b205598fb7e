"""The flag by which a CPU stands for several devices. jax reads it as it starts."""

import re
from collections.abc import Mapping

_FLAG = "--xla_force_host_platform_device_count"


def num_virtual_devices(environ: Mapping[str, str]) -> int | None:
    """How many devices the environment asks for; None: it does not say.

    >>> num_virtual_devices({"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"})
    8
    """
    asked = re.findall(rf"{_FLAG}=(\d+)", environ.get("XLA_FLAGS", ""))
    return int(asked[-1]) if asked else None


def flags_for_devices(environ: Mapping[str, str], count: int) -> str:
    """The environment's XLA_FLAGS, but for `count` devices.

    >>> flags_for_devices({"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"}, 2)
    '--a=1 --xla_force_host_platform_device_count=2'
    """
    flags = [f for f in environ.get("XLA_FLAGS", "").split() if not f.startswith(_FLAG)]
    return " ".join([*flags, f"{_FLAG}={count}"])

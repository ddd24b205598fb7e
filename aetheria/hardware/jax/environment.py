"""What decides the bits of a run beside its config: settings of JAX and XLA, and the machine.

Reads; changes nothing. The counterpart of `torch.environment`.
"""

import enum
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from aetheria.hardware.jax.mesh import Device

# Settings of JAX that change numbers. Read from `jax.config`, since code may set them as well as
# the environment; those that a version of JAX lacks are left out.
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_explicit_x64_dtypes",
    "jax_numpy_dtype_promotion",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_threefry_gpu_kernel_lowering",
    "jax_random_seed_offset",
    "jax_high_dynamic_range_gumbel",
    "jax_softmax_custom_jvp",
    "jax_allow_f16_reductions",
    "jax_use_direct_linearize",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_disable_most_optimizations",
    "jax_disable_jit",
    "jax_compiler_enable_remat_pass",
    "jax_use_shardy_partitioner",
    "jax_enable_pgle",
)
# Settings of the libraries under JAX, which read the environment themselves.
_VARIABLES = (
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
)
# Flags of XLA that change no number: the mesh says how many devices there are, and dumps only
# report.
_NEUTRAL_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump_")
# Prefixes of the instruction sets by which libraries choose their kernels.
_INSTRUCTION_SETS = ("sse4_2", "avx", "fma", "f16c", "amx", "asimd", "bf16", "i8mm", "sve", "sme")
_CPU_INFO = Path("/proc/cpuinfo")


def describe_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Reads the settings that change numbers: name, as the environment spells it -> JSON value."""
    # Unlike `values`, the attribute follows a `with jax.enable_x64(True)` around the run; not every
    # setting has one.
    known = [name for name in _JAX_SETTINGS if name in jax.config.values]
    values = {name: getattr(jax.config, name, jax.config.values[name]) for name in known}
    settings = {name.upper(): _plain(value) for name, value in values.items()}
    flags = environ.get("XLA_FLAGS", "").split()
    settings["XLA_FLAGS"] = " ".join(sorted(f for f in flags if not f.startswith(_NEUTRAL_FLAGS)))
    return settings | {name: environ.get(name, "") for name in _VARIABLES}


def describe_machine(devices: Sequence[Device]) -> dict[str, Any]:
    """Describes what computes: the devices of a mesh, and the processor of this machine.

    Args:
        devices: JAX's, of all processes.

    Returns:
        JSON values; for devices other than CPUs also the version of their platform.
    """
    first = devices[0]
    machine = {
        "platform": first.platform,
        "device": first.device_kind,
        "num_devices": len(devices),
        "num_processes": len({device.process_index for device in devices}),
        **describe_processor(),
    }
    if first.platform != "cpu":
        machine["driver"] = " ".join(first.client.platform_version.split())
    return machine


def describe_processor() -> dict[str, Any]:
    """Describes the processor: its name, its instruction sets, and how many cores this process may
    use; empty where the system does not say.
    """
    info = _read_cpu_info()
    flags = info.get("flags", info.get("Features", "")).split()
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "architecture": platform.machine(),
        "processor": info.get("model name", platform.processor()),
        "instruction_sets": sorted(f for f in flags if f.startswith(_INSTRUCTION_SETS)),
        "num_cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
    }


def _read_cpu_info() -> dict[str, str]:
    """Reads what Linux says about the first core."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _plain(value: object) -> bool | int | float | str | None:
    """Makes a JSON value; some settings are members of an enumeration."""
    value = value.name.lower() if isinstance(value, enum.Enum) else value
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)

"""GPUs for the tests that need one, and out of sight of all others, which count on CPUs."""

import os
from pathlib import Path

_ASKED_FOR = "AETHERIA_GPU"


def hide_gpus() -> None:
    """Leaves this process and those it starts the CPU alone, unless AETHERIA_GPU=1 asks for GPUs.

    To be called before JAX is imported, which reads its variable then.
    """
    is_there = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    if is_there and os.environ.get(_ASKED_FOR) != "1":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for PyTorch


def has_gpu() -> bool:
    """Whether JAX finds a GPU."""
    import jax

    return any(device.platform == "gpu" for device in jax.devices())


REASON_TO_SKIP = f"needs a GPU that JAX finds; {_ASKED_FOR}=1 pytest -n0 -m gpu runs it"

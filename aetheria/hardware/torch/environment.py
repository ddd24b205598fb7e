"""What decides the bits of a run beside its config: settings of PyTorch, and the device.

Reads; changes nothing. The counterpart of `jax.environment`.
"""

import operator
from typing import Any

import torch

from aetheria.hardware.torch.ranks import Ranks

# From torch 2.9 on; the older names raise an error where code has set one of these.
_PRECISIONS = (
    "cuda.matmul.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
)
_OLDER_PRECISIONS = ("cuda.matmul.allow_tf32", "cudnn.allow_tf32")
_CHOICES = ("cudnn.deterministic", "cudnn.benchmark")


def describe_settings() -> dict[str, Any]:
    """Reads the settings that change numbers: name in PyTorch -> JSON value."""
    precisions = _PRECISIONS if hasattr(torch.backends, "fp32_precision") else _OLDER_PRECISIONS
    backends = {
        f"torch.backends.{name}": operator.attrgetter(name)(torch.backends)
        for name in (*precisions, *_CHOICES)
    }
    return {
        "torch.get_default_dtype": str(torch.get_default_dtype()),
        "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
        **backends,
    }


def describe_machine(ranks: Ranks) -> dict[str, Any]:
    """Describes what computes, as `jax.environment.describe_machine` does: JSON values."""
    is_gpu = ranks.device.type == "cuda"
    machine = {
        "platform": "gpu" if is_gpu else ranks.device.type,
        "device": torch.cuda.get_device_name(ranks.device) if is_gpu else ranks.device.type,
        "num_devices": ranks.count,
        "num_processes": ranks.count,
        "num_threads": torch.get_num_threads(),
    }
    return machine | ({"driver": f"cuda {torch.version.cuda}"} if is_gpu else {})

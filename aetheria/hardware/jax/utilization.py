"""How much of the devices a run uses: their memory, and their peak. Waits for no device.

The counterpart of `torch.utilization`.
"""

from collections.abc import Iterable

import jax
import numpy as np

from aetheria.engine.interfaces import DeviceMemory
from aetheria.hardware.jax.mesh import Device
from aetheria.model.precision import Precision

# Values of `jax_default_matmul_precision` that multiply float32 in float32.
_WHOLE = ("highest", "float32")


def device_memory(devices: Iterable[Device]) -> DeviceMemory | None:
    """Of the fullest device; None where devices do not report it, as CPUs."""
    try:
        stats = [device.memory_stats() for device in devices]
    except RuntimeError:  # a plugin without it
        return None
    used = [each["bytes_in_use"] for each in stats if each and "bytes_in_use" in each]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    return DeviceMemory(max(used), max(peaks)) if used and peaks else None


def device_peak_flops(device: Device, precision: Precision, own: float | None) -> float | None:
    """Operations a second of one device, as `own` says or as its kind is known for."""
    if own is not None or device.platform == "cpu":
        return own or None
    from aetheria.hardware.layout.peak_flops import peak_flops

    dtype = np.dtype(precision.compute).name
    products = getattr(jax.config, "jax_default_matmul_precision", None)
    if dtype == "float32" and products not in _WHOLE:
        dtype = "tf32"
    return peak_flops(device.device_kind, dtype)

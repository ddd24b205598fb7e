"""How much of the device a rank uses: its memory, and its peak. Waits for no device.

The counterpart of `jax.utilization`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aetheria.engine.interfaces import DeviceMemory
from aetheria.hardware.layout.peak_flops import peak_flops


def device_memory(device: torch.device) -> DeviceMemory | None:
    """What tensors hold and held at most; None on a CPU."""
    if device.type != "cuda":
        return None
    return DeviceMemory(
        torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    )


def device_peak_flops(
    device: torch.device, compute: torch.dtype, own: float | None
) -> float | None:
    """Operations a second of the device, as `own` says or as its name is known for."""
    if own is not None or device.type != "cuda":
        return own or None
    dtype = str(compute).removeprefix("torch.")
    if dtype == "float32" and torch.get_float32_matmul_precision() != "highest":
        dtype = "tf32"
    return peak_flops(torch.cuda.get_device_name(device), dtype)


class FlopMeter:
    """Counts the operations of the first steps as they run, and of no others.

    What `torch.utils.checkpoint` computes again counts again. PyTorch (2.13) does not count the
    fused attention of its CPU kernels.

    Attributes:
        step_flops: those of one step of this rank; None: not counted yet.
    """

    def __init__(self) -> None:
        self.step_flops: float | None = None

    @contextmanager
    def counting(self, num_steps: int) -> Iterator[None]:
        """Surrounds so many steps."""
        if self.step_flops is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.step_flops = counter.get_total_flops() / num_steps

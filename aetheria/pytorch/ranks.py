"""The processes that share a window, each with its device: sums over them, and their randomness."""

import contextlib
import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

# Batch statistics are the same on every rank, without being sent. The old name warns from 2.13 on.
_EACH_ITS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class Ranks:
    """One of them, or the only one.

    Args:
        device: this rank's.
        index: this rank's number.
        count: how many there are; with several, `torch.distributed` has been initialized.
    """

    def __init__(self, device: torch.device, index: int = 0, count: int = 1):
        self.device, self.index, self.count = device, index, count
        generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            generators.append(torch.cuda.default_generators[device.index or 0])
        self._generators = generators

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as something whose backward pass sums gradients over all ranks, while it is
        still going on.
        """
        if self.count == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        own_buffers: Any = {_EACH_ITS_BUFFERS: False}
        wrapped = DistributedDataParallel(module, device_ids=ids, **own_buffers)
        wrapped.register_comm_hook(None, _sum_gradients)
        return wrapped

    def apart(self, forward: nn.Module, *, unless: bool) -> AbstractContextManager[Any]:
        """Within it gradients add up on each rank by itself."""
        if isinstance(forward, DistributedDataParallel) and not unless:
            return forward.no_sync()
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def seed(self, number: int) -> None:
        """Seeds what dropout draws from, on the host and on this rank's device."""
        for generator in self._generators:
            generator.manual_seed(number)


def _sum_gradients(_: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """A sum, where DistributedDataParallel divides by the number of ranks: the step divides by the
    weight of all of them, once.
    """
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])
